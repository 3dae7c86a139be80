"""Runs that never were: their results, and what they would have left behind."""

import importlib
import json
from pathlib import Path

from cljax.output import metrics

CLASSES = {"cifar100": 100, "cifar10": 10, "digits": 10}


def results(tasks, seeds, done=None, method="lwf", dataset="digits", size=2):
    """Results of a run in which task j loses five points with every task after it."""
    done = tasks if done is None else done
    correct = [
        [[90 + s - 5 * (t - j) % 90 for j in range(t + 1)] for t in range(done)]
        for s in range(seeds)
    ]
    return metrics.build_results(
        method=method,
        dataset=dataset,
        seeds=list(range(seeds)),
        class_orders=[list(range(size * tasks))] * seeds,
        class_names=[[str(label) for label in range(size * tasks)]] * seeds,
        task_sizes=[size] * tasks,
        test_images=[[100] * tasks] * seeds,
        correct=correct,
        correct_within_task=correct,
        seconds={"train": 1234.5, "total": 1300.0},
        device="cpu",
        versions={"python": "3.11.7", "jax": "0.10.2"},
    )


def write_run(workdir: Path, name: str, done: int | None = None, **settings) -> dict:
    """Leaves config.json and results.json of a run of configs/NAME.py after `done` tasks.

    Settings are written with __ for dots, such as optimizer__lr=0.5.
    Without `done` all tasks are finished; -1: none, and there is no results.json. Returns the
    results.
    """
    config = importlib.import_module(f"configs.{name}").get_config()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in settings.items()})
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(config.to_json())
    if done == -1:
        return {}
    size = CLASSES[config.data.name] // config.num_tasks
    content = results(
        min(config.num_tasks, config.max_tasks or config.num_tasks),
        len(config.seeds),
        done,
        config.method.name,
        config.data.name,
        size,
    )
    content["seeds"] = list(config.seeds)
    (workdir / "results.json").write_text(json.dumps(content))
    return content
