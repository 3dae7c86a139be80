"""docs/adding_a_network.md: its table is so, its code runs; and what is no network is told."""

import importlib
import re
import shlex
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import inversion
from cljax.errors import UserError
from cljax.models import LATENT_SIZE, make_classifier
from configs import abd_digits, base_digits
from tests.helpers import tiny, tiny_runs
from tests.helpers.own_modules import own_modules
from tests.helpers.tiny_runs import make_method

GUIDE = (tiny_runs.ROOT / "docs" / "adding_a_network.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", GUIDE, re.DOTALL)
DIGITS = SimpleNamespace(
    num_classes=10, mean=(0.5,), std=(0.25,), image_shape=(8, 8, 1), input_size=0
)
NETWORKS = """
import flax.linen as nn
import jax
import jax.numpy as jnp


class Net(nn.Module):
    def features(self, x):
        return nn.Dense(5)(x.reshape(len(x), -1))

    @nn.compact
    def __call__(self, x, train, weights=None):
        return self.features(x)


class Foreign(Net):
    @nn.compact
    def __call__(self, x, train, weights=None):
        return self.features(nn.BatchNorm(use_running_average=not train)(x))


class Unset(Net):
    depth: int
    width: int


class Map(Net):
    def features(self, x):
        return x


class Pair(Net):
    def features(self, x):
        return x, x


class Whole(Net):
    def features(self, x):
        return jnp.zeros((len(x), 3), int)


class Mean(Net):
    def features(self, x):
        return x.mean(0).reshape(1, -1)


class Drops(Net):
    @nn.compact
    def __call__(self, x, train, weights=None):
        return nn.Dropout(0.5)(self.features(x), deterministic=not train)


class Counts(Net):
    def features(self, x):
        self.variable("cache", "count", jnp.zeros, ())
        return super().features(x)


class Fails(Net):
    def features(self, x):
        return x @ jnp.ones((7, 7))


class Unweighted(Net):
    @nn.compact
    def __call__(self, x, train):
        return self.features(x)


def make(): ...
"""


def code(words):
    """The one piece of Python in the guide that contains the words."""
    (found,) = [text for language, text in BLOCKS if language == "python" and words in text]
    return found


def method(name, config=base_digits, **model):
    """The method of a config for digits with this network."""
    config = config.get_config()
    config.model.update(name=name, width=2, **model)
    return make_method(config, DIGITS)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory, with the guide's files and others; what it adds is forgotten."""
    (tmp_path / "my_network.py").write_text(code("class ConvNet"))
    (tmp_path / "test_my_network.py").write_text(code("def test_convnet"))
    (tmp_path / "my_networks.py").write_text(NETWORKS)
    with own_modules(tmp_path, monkeypatch):
        yield tmp_path


@pytest.mark.slow
def test_the_guides_network_runs_by_its_command(folder, compiled):
    ((_, command),) = [block for block in BLOCKS if block[0] == "bash"]
    program, script, *arguments = shlex.split(command)
    assert (program, script) == ("python", "main.py")
    tiny = tiny_runs.TINY | tiny_runs.TINY_INVERSION | {"seeds": "(0,)"}
    del tiny["model.name"]
    flags = [f"--config.{key}={value}" for key, value in tiny.items()]
    status, _, err = tiny_runs.command(*arguments, *flags, cwd=folder, cache=compiled)
    assert (status, err) == (0, "")
    workdir = folder / "runs" / "convnet"
    assert {"train", "invert"} <= {row["stage"] for row in tiny_runs.metrics(workdir)}
    kernel = tiny_runs.models(workdir)["seed0['params']['backbone']['conv1']['kernel']"]
    assert kernel.shape == (3, 3, 32, 32)


def test_the_guides_test_passes(folder):
    sys.path.append(str(folder))
    importlib.import_module("test_my_network").test_convnet()


def test_its_fields_are_set(folder):
    backbone = method("my_network:ConvNet").classifier.backbone
    assert (backbone.width, backbone.blocks, backbone.dtype) == (2, 2, jnp.float32)
    half = make_classifier("my_network:ConvNet", 10, dtype=jnp.bfloat16).backbone
    assert (half.width, half.dtype) == (16, jnp.bfloat16)


def test_a_network_without_batch_norm(folder, fast_runs):
    config = tiny_runs.make_config("lwf", epochs=1, milestones=(), model__name="my_networks:Net")
    tiny_runs.run(config, folder / "run")
    assert {row["task"] for row in tiny_runs.metrics(folder / "run")} == {1, 2}
    assert not any("batch_stats" in name for name in tiny_runs.models(folder / "run"))


@pytest.mark.parametrize("name", ["Net", "Foreign"])
def test_only_without_statistics_such_a_network_is_inverted(folder, name):
    with pytest.raises(UserError, match=r"^config\.inversion\.statistics=\d+: network my_networks"):
        method(f"my_networks:{name}", abd_digits)
    config = tiny_runs.make_config(
        "abd",
        epochs=1,
        milestones=(),
        inversion__statistics=0.0,
        model__name=f"my_networks:{name}",
    )
    abd = make_method(config, DIGITS)
    generator = abd.inversion_stage.inversion

    def loss():
        state = abd.init(tiny.ZEROS, (8, 8, 1))
        made, latents = state.generator, jnp.ones((2, LATENT_SIZE))
        variables = made.params, made.batch_stats, state.variables
        return inversion.loss(generator, abd.classifier, *variables, jnp.int32(2), latents)

    _, (terms, _) = jax.jit(loss)()
    assert terms["statistics"] == 0 and all(np.isfinite(term) for term in terms.values())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my_netwrks:Net", "there is no module 'my_netwrks', neither installed nor in /.*"),
        ("my_networks:Nett", "my_networks has no class 'Nett'; check the name after the colon"),
        ("my_networks:make", "make is not a Flax Linen module; inherit flax.linen.module.Module"),
        ("my_networks:Unset", "its field 'depth' has no default"),
        ("my_networks:Map", r"for 2 images it returns float32 \[2, 8, 8, 1\]; return features"),
        ("my_networks:Pair", "for 2 images it returns tuple; return features"),
        ("my_networks:Whole", r"for 2 images it returns int32 \[2, 3\]; return features"),
        ("my_networks:Mean", r"for 2 images it returns float32 \[1, 64\]; return features"),
        ("my_networks:Drops", r"cannot map images float32 \[2, 8, 8, 1\]: InvalidRngError: "),
        ("my_networks:Counts", "its variables cache are not kept"),
        ("my_networks:Fails", "cannot map images .*: TypeError: dot_general"),
        ("my_networks:Unweighted", "cannot map images .*: TypeError: .*positional arguments"),
    ],
)
def test_what_is_no_network(folder, name, words):
    with pytest.raises(UserError, match=words) as raised:
        method(name)
    assert str(raised.value).startswith(f"config.model.name={name}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_the_table_of_names():
    rows = re.findall(r"^\| (`resnet.*?) \| .* \| (.+?) \| (.+?) \|$", GUIDE, re.MULTILINE)
    assert len(rows) == 8
    for names, sizes, layers in rows:
        names = re.findall(r"`(\w+)`", names)
        sizes, layers = ((row.split(", ") * 3)[:3] for row in (sizes, layers))
        for name, size, count in zip(names, sizes, layers, strict=False):
            depth = 20
            module = make_classifier(name.replace("resnetN", f"resnet{depth}"), 10)
            shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
            assert shapes["params"]["head"]["kernel"].shape == (int(size), 10), name
            count = depth + int(count[1:].replace(" ", "")) if count[0] == "N" else int(count)
            assert len(jax.tree.leaves(shapes["batch_stats"])) == 2 * count, name
