"""What a setting must be, and the line that a wrong one gives."""

import math
import typing
from typing import Annotated, Literal

import pytest
from annotated_types import Ge
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from cljax import rng, settings
from cljax.compute.device import PRECISIONS
from cljax.errors import UserError
from cljax.memory import nearest_mean
from cljax.memory.policy import REPLAYS, STRATEGIES
from cljax.models import GENERATORS
from cljax.output import metrics
from cljax.settings import config_files

NAMES = [name for name in config_files.names() if not name.startswith("table_")]
FIELDS = dict(settings.fields())
DIGITS = config_files.load("abd_digits").to_dict()


def change(values, key, value):
    """Nested values with another one at a dotted key."""
    head, _, rest = key.partition(".")
    if not rest:
        return values | {head: value}
    return values | {head: change(values.get(head, {}), rest, value)}


def lines(values) -> tuple[str, ...]:
    """The mistakes in nested values."""
    with pytest.raises(UserError) as error:
        settings.read(values)
    assert "\n" not in "".join(error.value.args)
    return error.value.args


@pytest.mark.parametrize("name", NAMES)
def test_shipped_configs_have_every_setting(name):
    config = config_files.load(name)
    config.grid = ()  # which is not of a single run
    read = settings.read(config)
    del config.grid
    assert read.plain() == ConfigDict(config.to_dict()).to_dict() | read.plain()
    assert settings.read(read.plain()) == read  # as config.json holds it


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("batch_size", 0, "config.batch_size=0: must be a whole number from 1 to 1048576"),
        ("batch_size", True, "config.batch_size=True: must be a whole number from 1 to 1048576"),
        ("epochs", 2.5, "config.epochs=2.5: must be a whole number from 1 to 2147483647"),
        ("optimizer.lr", math.nan, "config.optimizer.lr=nan: must be a finite number above 0"),
        ("optimizer.lr", "0.1", "config.optimizer.lr='0.1': must be a finite number above 0"),
        ("optimizer.momentum", -1.0, "config.optimizer.momentum=-1.0: must be a finite number"),
        ("model.width", 10**30, "must be a whole number from 1 to 4096"),
        ("model.name", "", "config.model.name='': must be text that is not empty"),
        ("seeds", (0, True), "config.seeds: entry 2 is True, must be a whole number from 0 to"),
        ("seeds", (), "config.seeds=(): must be a tuple that is not empty, each entry a whole"),
        ("seeds", 3, "config.seeds=3: must be a tuple that is not empty, each entry a whole"),
        ("seeds", (1, 1), "config.seeds=(1, 1): names a seed twice"),
        ("milestones", (1, -2), "config.milestones: entry 2 is -2, must be a whole number"),
        ("data.std", (0.0,), "config.data.std: entry 1 is 0.0, must be a finite number above 0"),
        ("eval.read_outs", ("knn",), "entry 1 is 'knn', must be one of 'cnn', 'nme', 'ncm'"),
        ("dtype", "float16", "config.dtype='float16': must be one of 'auto', 'float32', 'tf32', "),
        ("data", 3, "config.data=3: must be a block of settings"),
        ("data", None, "config.data=None: must be a block of settings"),
        ("optimizer.lrr", 1.0, "config.optimizer.lrr: the config has no such setting; did you"),
        ("optimizr", 1.0, "config.optimizr: the config has no such setting; did you mean"),
        ("schedule_scale", 1e308, "config.schedule_scale=1e+308: must be a finite number above 0"),
        ("streams.init", settings.LARGEST + 1, "config.streams.init=2147483648: must be a whole"),
        ("max_tasks", -2, "config.max_tasks=-2: must be a whole number from 0"),
        ("data.augmentation.brightness", math.inf, "brightness=inf: must be a finite number"),
        ("data.augmentation.crop_padding", 10**12, "must be a whole number from 0 to 1024"),
        ("eval.batch_size", 10**12, "must be a whole number from 0 to 1048576"),
    ],
)
def test_a_wrong_value_is_one_line_that_says_what_it_must_be(key, value, line):
    (found,) = lines(change(DIGITS, key, value))
    assert line in found


def test_more_than_one_mistake_is_a_line_each():
    wrong = change(change(DIGITS, "epochs", 0), "data.per_class", -1)
    del wrong["seeds"]
    assert set(lines(wrong)) == {
        "config.seeds is missing; set it (a tuple that is not empty, each entry a whole number "
        "from 0 to 2147483647; default (0,))",
        "config.data.per_class=-1: must be a whole number from 0 to 2147483647",
        "config.epochs=0: must be a whole number from 1 to 2147483647",
    }


@pytest.mark.parametrize("key", FIELDS)
def test_a_missing_setting_is_named(key):
    path, _, last = key.rpartition(".")
    values = change(DIGITS, "autoencoder", {"channels": (1, 2, 3), "latents": 4})
    block = values
    for name in path.split(".") if path else ():
        block[name] = dict(block[name])
        block = block[name]
    del block[last]
    (found,) = lines(values)
    assert found.startswith(f"config.{key} is missing; set it (")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"exemplars.total": 3, "exemplars.per_class": 2}, "exclude each other"),
        ({"streams.init": settings.LARGEST, "seeds": (5,)}, "config.streams.init=2147483647: seed"),
        ({"epochs": 2**30, "schedule_scale": 1e3}, "config.epochs=1073741824: times"),
        ({"inversion.steps": 2**30, "schedule_scale": 1e3}, "config.inversion.steps=1073741824"),
    ],
)
def test_settings_that_exclude_each_other(changes, words):
    values = DIGITS
    for key, value in changes.items():
        values = change(values, key, value)
    (found,) = lines(values)
    assert words in found


OWN = {
    "mu": settings.Weight,
    "margin": Annotated[float, Ge(0)],
    "free": float,
    "kind": Literal["a", "b"],
    "flag": bool,
    "sizes": tuple[int, ...],
}


@pytest.mark.parametrize(
    ("own", "line"),
    [
        ({"mu": -1.0}, "config.method.mu=-1.0: must be a finite number from 0"),
        ({"margin": -1.0}, "config.method.margin=-1.0: must be a finite number from 0"),
        ({"free": math.inf}, "config.method.free=inf: must be a finite number"),
        ({"mu": True}, "config.method.mu=True: must be a finite number from 0"),
        ({"kind": "c"}, "config.method.kind='c': must be one of 'a', 'b'"),
        ({"flag": 1}, "config.method.flag=1: must be True or False"),
        ({"sizes": (1, 2.0)}, "config.method.sizes: entry 2 is 2.0, must be a whole number"),
        ({"mue": 1.0}, "config.method.mue: method 'mine' has no such setting; did you mean"),
        ({"rivals": "new"}, "config.method.rivals: this key is gone; use config.method.hard_neg"),
    ],
)
def test_a_methods_own_settings(own, line):
    with pytest.raises(UserError) as error:
        settings.read_method("mine", OWN, own)
    (found,) = error.value.args
    assert line in found


def test_a_methods_own_settings_are_taken_as_they_are():
    own = {"mu": 1, "kind": "b", "sizes": (1, 2)}
    found = settings.read_method("mine", OWN, own)
    assert found == own and type(found["mu"]) is float


def choices(block, name):
    kind = block.model_fields[name].annotation
    kind = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else kind
    return typing.get_args(kind)


@pytest.mark.parametrize(
    ("block", "name", "served"),
    [
        (settings.Settings, "dtype", {"auto", *PRECISIONS}),
        (settings.ExemplarSettings, "strategy", STRATEGIES),
        (settings.ExemplarSettings, "replay", REPLAYS),
        (settings.EvaluationSettings, "mirror", nearest_mean.MIRRORS),
        (settings.EvaluationSettings, "read_outs", metrics.READ_OUTS),
        (settings.InversionSettings, "generator", GENERATORS),
    ],
)
def test_choices_are_those_that_the_program_serves(block, name, served):
    assert sorted(choices(block, name)) == sorted(served)


def test_random_streams_have_an_offset_each():
    names = {*rng.Streams.__dataclass_fields__, "class_order"}
    assert names == set(settings.StreamSettings.model_fields)


def test_what_may_change_when_a_run_resumes():
    assert {key for key in FIELDS if settings.may_grow(key)} == {"seeds", "max_tasks"}
    free = {key for key in FIELDS if settings.may_change(key)}
    assert free == {
        "overwrite",
        "compilation_cache",
        "data.dir",
        "data.path",
        "data.residence",
        "data.url",
        "eval.every_epochs",
        *(key for key in FIELDS if key.split(".")[0] in ("checkpoint", "execution", "mesh")),
    }
    assert not settings.may_change("no.such.key")


def strange():
    """Values of every type that a config file may hold."""
    simple = (
        st.none()
        | st.booleans()
        | st.integers(-(10**40), 10**40)
        | st.floats()
        | st.text(max_size=3)
        | st.binary(max_size=2)
    )
    return simple | st.lists(simple, max_size=3).map(tuple) | st.dictionaries(st.text(), simple)


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), strange(), min_size=1, max_size=4))
@hypothesis_settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
def test_whatever_a_value_is_it_is_read_or_gives_its_line(changes):
    values = DIGITS
    for key, value in changes.items():
        values = change(values, key, value)
    try:
        read = settings.read(values)
    except UserError as error:
        assert error.args
        for line in error.args:
            assert line.startswith("config.") and "\n" not in line and len(line) < 600, line
    else:
        assert settings.read(read.plain()) == read
