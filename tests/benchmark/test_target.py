"""Programs for chips that are not here: that they are a run's, what is counted and refused."""

import importlib.util
import io
import json
import re

import jax
import pytest
from rich.console import Console

from cljax import settings as settings_lib
from cljax.benchmark import chips, plan, rows, table, target, target_table
from cljax.benchmark.chips import CHIPS, Target
from cljax.benchmark.plan import ConfigRows
from cljax.compute import compilation, device
from cljax.errors import UserError
from tests.benchmark.test_benchmark import command, shown
from tests.helpers import tiny_runs

HAS = {p: bool(importlib.util.find_spec(chips.PACKAGES[p])) for p in ("gpu", "tpu")}
_SHARDING = re.compile(
    r"  sdy\.mesh .*\n|(mhlo|sdy)\.sharding = (#sdy\.sharding<[^>]*>|\"[^\"]*\")(, )?"
)
NAMES = "plain_step", "abd_step", "inversion_step", "evaluation"


def bench(config, kind=target.TargetBench, seeds=1):
    """A bench of a tiny config; for the target, a CPU stands for its device."""
    settings = settings_lib.read(config)
    more = {"target": Target("h100", CHIPS["h100"], jax.devices()[:1])}
    if kind is rows.Bench:
        more = {"seconds": 0.0}
    return kind(settings, rows.load(settings), "float32", **more)


def test_what_programs_are_made_for():
    assert device.platform() == jax.default_backend() == "cpu"
    with device.programs_for("gpu"):
        assert device.platform() == "gpu"
        assert compilation.compiler_options(False, "off") == {"xla_gpu_enable_command_buffer": ""}
        step, epoch = (compilation.compiler_options(False, name) for name in ("step", "epoch"))
        kinds = {name: set(kind.split(",")) for name, kind in (epoch | {"step": ""}).items()}
        assert kinds["xla_gpu_enable_command_buffer"] >= {"CONVOLUTION", "WHILE"}
        assert "WHILE" not in step["xla_gpu_enable_command_buffer"]
        side_by_side = compilation.compiler_options(False, "step", True)
        assert side_by_side == {**step, "xla_gpu_command_buffer_scheduling_mode": "CONCURRENT"}
        assert plan.make_options(1.0).dtypes == ("float32", "tf32", "bfloat16")
    assert device.platform() == "cpu"


def record_programs(config, kind):
    """The lowered program of each row of NAMES, as text for a GPU."""
    texts = {}

    def measure(self, name, settings, work):
        work.run(1)
        if kind is target.TargetBench:
            lowered = work.executor.lower(work.function)
        else:
            programs = {p.__name__: (p, args) for p, args in work.executor.programs}
            program, args = programs[work.function.__name__]
            lowered = program.trace(*args).lower(lowering_platforms=("cuda",))
        texts[name] = _SHARDING.sub("", lowered.as_text()).replace(" {}", "")

    maker = bench(config, kind)
    maker._measure = measure.__get__(maker)
    for name in NAMES:
        maker.rows(name)
    return texts


@pytest.mark.slow
def test_programs_are_those_of_a_run():
    """Of shapes only, they are what a run with an accelerator's loop compiles, to the letter."""
    config = tiny_runs.make_config("abd", eval__batch_size=32)
    with device.programs_for("gpu"):
        here = record_programs(config, rows.Bench)  # runs on CPU all the same
        there = record_programs(config, target.TargetBench)
    assert list(here) == list(there) == list(NAMES)
    for name in NAMES:
        assert "while" in there[name] and there[name] == here[name], name


@pytest.fixture(scope="module")
def record():
    """Of plain steps of a tiny network; the compiler refuses those of two seeds at once."""
    text = (tiny_runs.ROOT / "tests/benchmark/program_h100.txt").read_text(encoding="utf-8")

    def count(self, lowered, label, dtype):
        assert (
            'module @"jit_train_step"' in lowered.as_text() or "jit_train_step" in lowered.as_text()
        )
        unknown = ("kernels", "launches", "memory", "flops", "bytes", "collectives")
        row = dict.fromkeys((*unknown, "estimate_seconds", "fits", "error"))
        if label.endswith("vmap"):
            return row | {"compile_seconds": 1.0, "error": "UNIMPLEMENTED: no such thing"}
        module = target.hlo_counts.Module(text)
        sizes = {"arguments": 100, "results": 20, "temporaries": 3}
        return row | {
            "compile_seconds": 1.0,
            "kernels": module.kernels(),
            "launches": {"graphs": 1, "convolutions": 5, "kernels": 8},
            "memory": sizes,
            "flops": 10**9,
            "bytes": 10**8,
            "collectives": [],
            "estimate_seconds": 0.001,
        }

    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(target.TargetBench, "_count", count)
    place = Target("h100", CHIPS["h100"], jax.devices()[:1])
    parts = [ConfigRows(tiny_runs.make_config("abd"))]
    with device.programs_for("gpu"):
        options = plan.make_options(1.0, target.SEEDS, ["float32"])
        told = Console(file=io.StringIO())
        result = target.count_all(parts, {"plain_step"}, options, place, console=told)
    monkeypatch.undo()
    return result


def test_rows(record):
    forms = [(row["name"], row["seeds"], row["sharing"]) for row in record["rows"]]
    assert forms == [
        ("plain_step", 1, "sequential"),
        ("plain_step", 3, "sequential"),
        ("plain_step", 3, "interleaved"),
        ("plain_step", 3, "vmap"),
    ]
    one, three, together, _ = record["rows"]
    assert one["fits"] and one["images_per_step"] == 8 and three["images_per_step"] == 24
    memory = one["memory"]
    assert memory["waiting_seeds"] == 0 and memory["unused_arguments"] > 0
    assert memory["total"] == 123 + memory["unused_arguments"]
    # One program for all; two seeds wait for their turn, each with its state, but without images.
    assert three["kernels"] == one["kernels"]
    waiting = three["memory"]["waiting_seeds"]
    assert 0 < waiting < 2 * (memory["unused_arguments"] + 100) and waiting % 2 == 0
    assert three["memory"]["total"] == memory["total"] + waiting
    # One program of all: no seed waits, and what is held is what a seed and the waiting ones hold.
    held = together["memory"]
    assert held["waiting_seeds"] == 0
    assert held["unused_arguments"] == memory["unused_arguments"] + waiting


def test_shown_written_and_compared(record, tmp_path):
    text = shown(target_table.show, record)
    assert "h100, which is not here" in text and "3 vmap: does not compile: UNIMPLEMENTED" in text
    assert "no device has run anything" in text and "63,697 MB are usable" in text
    path = tmp_path / "t.json"
    table.write(path, record)
    other = target_table.read(path)
    assert other == json.loads(json.dumps(record))
    other["rows"][0]["kernels"] |= {"fusions": 1000}
    other["rows"] += [other["rows"][0] | {"name": "gone_step"}]
    compared = shown(target_table.compare, record, other)
    [first] = [line for line in compared.splitlines() if re.match(r"plain_step +float32 +1 ", line)]
    assert first.split()[3:7] == ["1,012", "20", "14", "14"]
    assert "not compiled now: gone_step float32 1" in compared and "differ" not in compared
    assert "the targets differ" in shown(target_table.compare, record, other | {"target": "v5e"})
    with pytest.raises(UserError, match="not a benchmark"):
        table.read(path)
    path.write_text(json.dumps(record | {"rows": [{"name": "x"}]}))
    with pytest.raises(UserError, match="not a record of --target") as error:
        target_table.read(path)
    assert "\n" not in str(error.value)


def test_estimate():
    place = Target("h100", CHIPS["h100"], [])
    work = [(0, 0), (67 * 10**9, 0), (0, 335 * 10**7), (67 * 10**9, 335 * 10**7)]
    assert target.estimate(work, place, "float32") == pytest.approx(2e-6 + 3e-3)
    assert target.estimate([(0, 0)], Target("v5e", CHIPS["v5e"], []), "float32") == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("h101", "unknown chip; choose h100, h200"),
        ("", "unknown chip"),
        ("v5e:", "wrong grid of chips; write it as in v5e:2x2"),
        ("v5e:2", "write it as in v5e:2x2"),
        ("v5e:2x0", "wrong grid"),
        ("h100:2x2", "write it as in h100:2"),
        ("v5p:2x2", "write it as in v5p:2x2x2"),
    ],
)
def test_wrong_targets(name, words):
    with pytest.raises(UserError, match="--target=") as error:
        chips.find(name)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_packages_are_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name, package in (("h100", "jax_cuda13_plugin"), ("v5e:2x2", "libtpu")):
        with pytest.raises(UserError, match=f"--target={name}: .*{package}, is not installed"):
            chips.find(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--target=h100", "--profile=traces"], "--profile: nothing runs with --target"),
        (["--dump=programs"], "--dump: only with --target"),
        (["--target=h99"], "--target=h99: unknown chip"),
    ],
)
def test_wrong_flags(flags, words):
    status, out, err = command(*flags)
    tiny_runs.assert_one_line(status, err, words)
    assert out == ""


# Kernels and launches of a step, as JAX 0.10.2 compiled the rows of abd_cifar100 on 2026-11-29
# (docs/performance.md); 1 % more are allowed.
H100 = {"plain_step": (364, 157), "abd_step": (430, 197), "inversion_step": (268, 142)}
V5E_RESNET8 = 236
TPU_COLLECTIVES = 22
MARGIN = 1.01


def record_of(name, tmp_path, *flags):
    platform = CHIPS[name.partition(":")[0]].platform
    if not HAS[platform]:
        pytest.skip(
            f"the package {chips.PACKAGES[platform]} is missing: pip install -e '.[targets]'"
        )
    path = tmp_path / "t.json"
    flags = [f"--target={name}", f"--json={path}", f"--dump={tmp_path / 'hlo'}", *flags]
    status, _, err = command(*flags, timeout=1200, XLA_FLAGS="")
    assert status == 0, err
    return target_table.read(path)["rows"]


def compiled(name, tmp_path, *flags):
    return {row["name"]: row for row in record_of(name, tmp_path, "--seeds=1", *flags)}


@pytest.mark.slow
def test_kernels_on_h100(tmp_path):
    found = compiled("h100", tmp_path, "--dtypes=float32", f"--only={','.join(H100)}")
    assert list(found) == list(H100)
    for name, (kernels, launches) in H100.items():
        row = found[name]
        assert row["error"] is None and row["fits"]
        assert 0 < sum(row["kernels"].values()) <= MARGIN * kernels, name
        assert 0 < sum(row["launches"].values()) <= MARGIN * launches, name
        assert (tmp_path / "hlo" / f"{name}-h100-float32.txt").read_text().startswith("HloModule")


@pytest.mark.slow
@pytest.mark.parametrize(("graphs", "launches"), [("off", None), ("step", 1), ("epoch", 0)])
def test_graphs_on_h100(tmp_path, graphs, launches):
    """Without graphs every kernel is launched; a step or a whole epoch can be one launch."""
    network = "--config=abd_cifar100", "--config.model.name=resnet8"
    flags = *network, f"--config.execution.graphs={graphs}", "--dtypes=float32", "--only=plain_step"
    row = compiled("h100", tmp_path, *flags)["plain_step"]
    assert row["error"] is None
    expected = sum(row["kernels"].values()) if launches is None else launches
    assert sum(row["launches"].values()) == expected


@pytest.mark.slow
def test_kernels_on_v5e(tmp_path):
    """ResNet-8, as compiling ResNet-32 for a TPU takes minutes."""
    network = "--config=abd_cifar100", "--config.model.name=resnet8"
    found = compiled("v5e", tmp_path, *network, "--dtypes=bfloat16", "--only=plain_step")
    row = found["plain_step"]
    assert row["error"] is None and row["fits"] and row["launches"] is None
    assert 0 < sum(row["kernels"].values()) <= MARGIN * V5E_RESNET8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v5e:2x2", "v5p:2x2x1"])
def test_collectives_on_tpus(tmp_path, name):
    """Chips with seeds of their own exchange nothing; those that share a batch, sums only."""
    network = "--config=abd_digits", "--config.model.name=resnet8", "--config.model.width=4"
    flags = *network, "--config.batch_size=8", "--dtypes=bfloat16", "--seeds=4"
    shared, *own = record_of(name, tmp_path, *flags, "--only=plain_step")
    assert shared["mesh"] == {"seeds": 1, "data": 4} and not shared["error"]
    # Of the gradients of kernels (bfloat16) and of what else is float32; and for each of the seven
    # batch norms of its mean, variance and gradient, one of which is among the former.
    kinds = [found["kind"] for found in shared["collectives"] for _ in range(found["count"])]
    assert 0 < len(kinds) <= TPU_COLLECTIVES and set(kinds) == {"all-reduce"}
    assert len(own) == 3
    for row in own:
        assert row["mesh"] == {"seeds": 4, "data": 1} and not row["error"]
        assert row["collectives"] == [] and row["kernels"] == own[0]["kernels"]
    # However the seeds are to share the chips, each has its own, so it is one program.
    start = f"plain_step-{name.replace(':', '_')}-bfloat16"
    files = sorted(path.name for path in (tmp_path / "hlo").iterdir())
    assert files == [f"{start}-4sequential.txt", f"{start}.txt"]
