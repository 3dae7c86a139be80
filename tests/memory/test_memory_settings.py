"""The exemplar memory that a config asks for, and settings that make no sense."""

import importlib

import pytest

from cljax import build, settings
from cljax.errors import UserError
from cljax.memory.policy import STRATEGIES

BALANCED = [name for name, strategy in STRATEGIES.items() if strategy.shares]


def load(name="base_digits", **changes):
    config = importlib.import_module(f"configs.{name}").get_config()
    config.exemplars.update(changes)
    return config


def memory_policy(config, supports_exemplars=True):
    return build.memory_policy(settings.read(config), supports_exemplars)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("changes", [{"total": 20}, {"per_class": 3}, {}])
def test_a_strategy_takes_a_total_or_a_number_per_class(strategy, changes):
    config = load(strategy=strategy, **changes)
    makes_sense = strategy in BALANCED or not changes
    if strategy in ("random", "reservoir"):
        makes_sense = "per_class" not in changes
    if not makes_sense:
        with pytest.raises(UserError, match=f"config.exemplars.*'{strategy}'"):
            memory_policy(config)
        return
    memory = memory_policy(config)
    found = memory.size, memory.strategy, memory.per_class
    assert found == (sum(changes.values()), strategy, "per_class" in changes)
    kept = memory.init(10)
    if not changes:
        assert kept is None
    elif memory.per_class:
        assert kept.indices.shape == (30,)
    else:
        assert 20 <= kept.indices.shape[0] < 20 + 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total": 9, "per_class": 2}, r"total=9, \.per_class=2: exclude each other"),
        ({"total": -1}, "exemplars.total=-1: must be a whole number from 0 "),
        ({"per_class": -1}, "exemplars.per_class=-1: must be a whole number from 0 "),
        ({"strategy": "herd"}, "exemplars.strategy='herd': must be one of 'herding', "),
        ({"replay": "some"}, "exemplars.replay='some': must be one of 'all', 'bootstrap'"),
        ({"class_weighting": True}, "class_weighting=True: needs exemplars"),
        ({"total": 9, "strategy": "none"}, "'none' keeps no exemplars"),
        ({"per_class": 2, "strategy": "reservoir"}, "'reservoir' keeps images whatever"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(UserError, match=message):
        memory_policy(load(**changes))


@pytest.mark.parametrize("key", ["total", "per_class"])
def test_a_method_that_keeps_no_images_says_so(key):
    with pytest.raises(UserError, match=f"exemplars.{key}=5: method 'abd' keeps no exemplars"):
        memory_policy(load("abd_digits", **{key: 5}), False)


@pytest.mark.parametrize(
    ("name", "strategy", "replay"),
    [
        ("rehearsal", "random_redraw", "bootstrap"),
        ("lwf_rehearsal", "random_redraw", "bootstrap"),
        ("e2e", "nearest", "all"),
        ("bic", "herding_raw", "all"),
        ("base", "herding", "all"),
    ],
)
def test_shipped_strategies(name, strategy, replay):
    memory = memory_policy(load(f"{name}_cifar100"))
    assert (memory.strategy, memory.replay) == (strategy, replay)
