"""Chooses the images that saved classifiers are scored on."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cljax import build
from cljax import problem as problem_lib
from cljax import settings as settings_lib
from cljax.data import residence, sources
from cljax.data.sources import Dataset
from cljax.errors import UserError
from cljax.problem import Problem
from cljax.saved.runs import SavedRun
from cljax.settings import Settings, may_change


def change(settings: Settings, **changes: Any) -> Settings:
    """Returns settings with others in place; `data` and `eval` are changed key by key.

    Raises:
      UserError: a setting is wrong.
    """
    values = settings.plain()
    for name, value in changes.items():
        values[name] = values[name] | dict(value) if isinstance(value, Mapping) else value
    return settings_lib.read(values)


def make_problem(run: SavedRun, settings: Settings, data: Mapping[str, Any]) -> Problem:
    """Makes the run's problem, with its own test images or others in their place.

    Args:
      run: the run.
      settings: its settings, perhaps with fewer seeds.
      data: keys of `config.data` that differ, with their values. The same images at another place,
        or another fold of them, are known by their checksum; others must have the same classes.

    Raises:
      UserError: the run's own data are missing or changed, or the other images do not fit.
    """
    _, record = run.read_models(1)
    shown_settings = change(settings, data=data)
    shown = sources.load(shown_settings.data)
    is_own = problem_lib.fingerprint(shown) == record.data
    if is_own:  # where they are now
        moved = {key: value for key, value in data.items() if may_change(f"data.{key}")}
        settings = change(settings, data=moved)
    problem = problem_lib.make_problem(settings, shown if is_own else None)
    if problem.fingerprint != record.data:
        raise UserError(
            f"{run.workdir}: {settings.data.name} has other images or labels than when the run "
            "trained; name its data by --data.dir or --data.path"
        )
    orders = run.results["class_orders"]
    places = [run.settings.seeds.index(seed) for seed in settings.seeds]
    if problem.class_orders != [orders[place] for place in places]:
        raise UserError(
            f"{run.workdir}: config.data.class_order={settings.data.class_order} names another "
            "order than when the run trained"
        )
    if is_own and shown_settings.data.validation == settings.data.validation:
        return problem
    return _replace_images(problem, settings, shown_settings, shown)


def _replace_images(
    problem: Problem, settings: Settings, shown_settings: Settings, shown: Dataset
) -> Problem:
    """Puts other evaluation images in place; training images stay those of the run."""
    own = problem.dataset
    if shown.class_names != own.class_names:
        raise UserError(
            f"--data.name={shown.name}: has other classes than {own.name}, which the run learned"
        )
    if (shown.image_shape, shown.input_size) != (own.image_shape, own.input_size):
        raise UserError(
            f"--data.name={shown.name}: its images are {list(shown.image_shape)}, those of the run "
            f"{list(own.image_shape)}; set --data.image_size, or use other images"
        )
    others = problem_lib.make_streams(shown_settings, shown)
    split = others[0].eval_split
    names = ("eval_split", "eval_indices", "eval_counts")
    streams = [
        dataclasses.replace(stream, **{name: getattr(other, name) for name in names})
        for stream, other in zip(problem.streams, others, strict=True)
    ]
    images, labels = getattr(shown, f"{split}_images"), getattr(shown, f"{split}_labels")
    both = dataclasses.replace(own, name=shown.name, test_images=images, test_labels=labels)
    data, line = residence.place(both, settings.data.residence, False, build.make_mesh(settings))
    return dataclasses.replace(problem, dataset=both, data=data, residence=line, streams=streams)
