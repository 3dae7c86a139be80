"""Images, and wrong workdirs, for the commands that use what a run has saved."""

import json
import os
import shutil

import numpy as np

from cljax import cli
from cljax.data import sources
from cljax.settings import DataSettings
from tests.helpers import tiny_runs


def digits() -> sources.Dataset:
    """scikit-learn's digits."""
    return sources.load(DataSettings(name="digits"))


def call(module, *argv) -> None:
    """Runs a command of the program in this process."""
    cli.call(module.run, module.parse([str(arg) for arg in argv]))


def standardised(dataset, images) -> np.ndarray:
    """uint8 images as networks see them, float32."""
    scaled = images.astype(np.float32) / 255
    return (scaled - np.float32(dataset.mean)) / np.float32(dataset.std)


def truncate_model(folder):
    """Cuts the largest file of the second model."""
    path = max((folder / "models" / "2").rglob("d/*"), key=lambda path: path.stat().st_size)
    os.truncate(path, 10)


def odd(name, **change):
    """Changes entries of a JSON file."""

    def apply(folder):
        content = json.loads((folder / name).read_text()) | change
        (folder / name).write_text(json.dumps(content))

    return apply


def write(name, text):
    """Replaces a file."""
    return lambda folder: (folder / name).write_text(text)


def remove(name):
    """Removes a file or a directory."""

    def apply(folder):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return apply


def wider(folder):
    """Says that the network is another one."""
    content = json.loads((folder / "config.json").read_text())
    content["model"]["width"] = 8
    (folder / "config.json").write_text(json.dumps(content))


def pipe(name):
    """Puts a named pipe in the place of a file: reading it would never end."""

    def apply(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return apply


def odd_record(folder):
    """Claims images of a billion pixels a side."""
    change = {"image_shape": [10**9, 10**9, 3]}
    tiny_runs.change_record(
        folder / "models" / "2", lambda record: record["dataset"].update(change)
    )


# What is wrong with a workdir of two tasks and seed 0, flags, and what the one line says.
WRONG = {
    "absent": (shutil.rmtree, [], "not a workdir of cljax"),
    "unfinished": (remove("results.json"), [], "has not finished a task yet"),
    "no config": (remove("config.json"), [], "not a workdir of cljax"),
    "task": (None, ["--task=3"], "task 3: .* has finished 2 of 2 tasks; use 1 to 2"),
    "task 0": (None, ["--task=0"], "task 0: .* use 1 to 2"),
    "no models": (remove("models"), [], "models"),
    "truncated model": (truncate_model, ["--task=2"], "models/2: "),
    "another network": (wider, ["--task=2"], "models/[12]: does not fit the run's config.json"),
    "odd record": (odd_record, ["--task=2"], "models/2: damaged.*image_shape"),
    "truncated results": (write("results.json", '{"format": 2, '), [], "not valid JSON"),
    "deep results": (write("results.json", "[" * 10**5), [], "nested too deeply"),
    "another format": (odd("results.json", format=1), [], "format 1 instead of 2"),
    "odd results": (odd("results.json", tasks_done=7), [], "results.json: damaged"),
    "odd tasks": (odd("results.json", task_sizes="x"), [], "results.json: damaged.*task_sizes"),
    "pipe": (pipe("results.json"), [], "results.json"),
    "truncated config": (write("config.json", "{"), [], "config.json: not valid JSON"),
    "odd config": (odd("config.json", model=3), [], "config.json: damaged.*config.model"),
    "strange config": (odd("config.json", further=3), [], "config.json: damaged.*further"),
}
