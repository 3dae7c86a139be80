"""Every program of ABD and LUCIR, lowered here for the platforms that are not here."""

import collections
import re

import jax
import jax.numpy as jnp
import pytest

from cljax import build
from cljax import settings as settings_lib
from cljax.compute.executor import Executor
from cljax.output import plots
from tests.helpers import tiny_runs

PLATFORMS = "tpu", "cuda"


def record(config, directory, monkeypatch, mesh=None) -> Executor:
    """The executor of a small run, which knows its programs."""
    executor = Executor(config.execution.seeds, compiled_loop=True, mesh=mesh)
    monkeypatch.setattr(build, "make_executor", lambda config: executor)
    monkeypatch.setattr(plots, "write_plots", lambda *args: None)
    tiny_runs.run(config, directory)
    return executor


def lower(program, args) -> str:
    """The program's StableHLO for PLATFORMS; what they reject raises."""
    exported = jax.export.export(program, platforms=PLATFORMS)(*args)
    assert exported.platforms == PLATFORMS
    for aval in (*exported.in_avals, *exported.out_avals):
        assert all(isinstance(size, int) for size in aval.shape), aval
    return exported.mlir_module()


def check(text: str) -> None:
    """No call of the host, no shape that only a run would tell."""
    targets = re.findall(r"custom_call @([\w.$]+)", text)
    assert not [target for target in targets if "callback" in target.lower()], targets
    assert "infeed" not in text and "outfeed" not in text
    assert not re.search(r"tensor<[^>]*\?", text)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "dtype"),
    [("sequential", "float32"), ("sequential", "bfloat16"), ("vmap", "float32")],
)
@pytest.mark.parametrize("name", ["abd", "lucir", "rdfcil"])
def test_programs_lower_for_accelerators(compiled, monkeypatch, tmp_path, name, seeds, dtype):
    settings = {"epochs": 1, "milestones": (), "execution__seeds": seeds, "dtype": dtype}
    settings |= {"model__name": "resnet8"} if name == "abd" else {}
    config = tiny_runs.make_config(name, seeds=(0, 1), **settings)
    executor = record(config, tmp_path, monkeypatch)
    names = collections.Counter()
    with jax.default_matmul_precision(build.matmul_precision(settings_lib.read(config))):
        for program, args in executor.programs:
            check(lower(program, args))
            names[program.__name__] += 1
    assert names.total() == sum(executor.num_compilations().values()) >= 14
    assert {"before_task", "begin", "begin_epoch", "after_task", "train_step"} <= names.keys()


def test_what_is_looked_for_is_found():
    def calls_host(x):
        return jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    x = jax.ShapeDtypeStruct((2,), jnp.float32)
    with pytest.raises(AssertionError, match="callback"):
        check(jax.jit(calls_host).lower(x).as_text())
    (symbolic,) = jax.export.symbolic_args_specs((jnp.zeros(2),), "n")
    with pytest.raises(AssertionError):
        lower(jax.jit(lambda x: x + 1), (symbolic,))
    check(lower(jax.jit(lambda x: x + 1), (x,)))
