"""docs/adding_a_dataset.md: its commands and its code do what it says, on tiny data."""

import re
import shlex
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags
from PIL import Image

from cljax import settings
from cljax.data import sources, streams
from cljax.errors import UserError
from cljax.models import make_generator
from tests.helpers import tiny_imagenet, tiny_runs
from tests.helpers.tiny_runs import make_method

GUIDE = (tiny_runs.ROOT / "docs" / "adding_a_dataset.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", GUIDE, re.DOTALL)
COMMANDS = {
    command.rpartition("=runs/")[2].strip(): shlex.split(command.replace("\\\n", ""))
    for language, command in BLOCKS
    if language == "bash"
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
]
TINY = tiny_runs.TINY | {"model.name": "resnet8"}


def code(words):
    """The one piece of Python in the guide that contains the words."""
    (found,) = [text for language, text in BLOCKS if language == "python" and words in text]
    return found


def parse(command, **settings):
    """The config of a command of the guide, and its workdir, as main.py gets them."""
    assert command[:2] == ["python", "main.py"]
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True)
    workdir = flags.DEFINE_string("workdir", None, "", flag_values=values)
    with mock.patch.object(sys, "argv", command[1:]):  # which config_flags reads besides
        assert len(values(command[1:])) == 1, "an argument is no flag"
    config, tiny = config.value, dict(TINY)
    if "inversion" in config:
        tiny |= tiny_runs.TINY_INVERSION
    config.update_from_flattened_dict(tiny | {k.replace("__", "."): v for k, v in settings.items()})
    return config, workdir.value


def make_stream(config, dataset):
    """The first seed's tasks."""
    return streams.make_stream(
        dataset,
        seed=0,
        order_seed=0,
        order=config.data.class_order,
        num_tasks=config.num_tasks,
        max_tasks=config.max_tasks,
    )


def run(name, **settings):
    """Runs a command of the guide, but for its later tasks; returns its results."""
    config, workdir = parse(COMMANDS[name], max_tasks=1, **settings)
    tiny_runs.run(config, workdir)
    return tiny_runs.results(Path(workdir))


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch):
    """The working directory: that of a user, with the configs in it."""
    (tmp_path / "configs").symlink_to(tiny_runs.ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def photos(checkout):
    """The folder of the guide, and two classes more."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for name in ("cat", "dog", "eel", "fox"):
            (checkout / "photos" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (20, 16 + number, 3), np.uint8)
                Image.fromarray(pixels).save(checkout / "photos" / split / name / f"{number}.png")


def test_every_command_of_the_guide_is_tried():
    assert list(COMMANDS) == ["tiny", "cifar10", "signs", "photos", "stripes", "ordered"]


def test_tiny_imagenet(checkout, fast_runs, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(checkout / "cache"))
    (checkout / "archives").mkdir()
    tiny_imagenet.write_archive(checkout / "archives", tiny_imagenet.make_files())
    config, workdir = parse(COMMANDS["tiny"], num_tasks=3, max_tasks=2, batch_size=4)
    tiny_runs.run(config, workdir)
    results = tiny_runs.results(Path(workdir))
    assert results["complete"] and results["dataset"] == "tiny_imagenet"
    assert results["task_sizes"] == [1, 1]
    stages = [(row["task"], row["stage"]) for row in tiny_runs.metrics(Path(workdir))]
    assert list(dict.fromkeys(stages)) == [(1, "train"), (1, "invert"), (2, "train")]


@pytest.mark.real_data
def test_tfds_set(checkout, tfds_dir):
    (checkout / "tfds").symlink_to(tfds_dir)
    config, _ = parse(COMMANDS["cifar10"])
    dataset = sources.load(settings.read(config).data)
    assert dataset.train_images.shape == (100, 32, 32, 3)
    assert make_method(config, dataset).training.batch_size == 8
    stream = make_stream(config, dataset)
    assert len(stream.class_order) == 4 and stream.task_sizes == (2, 2)


def test_npz_file(checkout, fast_runs):
    rng = np.random.default_rng(0)
    arrays = {
        "train_images": rng.integers(0, 256, (40, 8, 8, 1), np.uint8),
        "train_labels": np.arange(40) % 4,
        "test_images": rng.integers(0, 256, (8, 8, 8, 1), np.uint8),
        "test_labels": np.arange(8) % 4,
    }
    exec(code("np.savez"), arrays)
    config, _ = parse(COMMANDS["signs"])
    assert not config.data.augmentation.flip
    results = run("signs")
    assert results["complete"] and results["dataset"] == "npz"
    assert results["test_images"] == [[4]]


def test_folder(photos, checkout, fast_runs):
    as_written, _ = parse(COMMANDS["photos"])
    make_generator(as_written.inversion.generator, (as_written.data.image_size,) * 2 + (3,))
    results = run("photos", data__image_size=8)
    assert results["complete"] and results["dataset"] == "folder"
    assert results["test_images"] == [[6]]
    assert (checkout / "photos" / ".cljax_cache" / "8.npz").is_file()


def test_class_order_of_a_folder(photos, checkout):
    exec(code("order.json"), {})
    assert (checkout / "order.json").read_text() == "[1, 0]"
    config, _ = parse(COMMANDS["ordered"], data__image_size=8)
    dataset = sources.load(settings.read(config).data)
    assert dataset.class_names == ("cat", "dog", "eel", "fox")
    stream = make_stream(config, dataset)
    assert stream.class_order.tolist() == [1, 0] and stream.task_sizes == (1, 1)
    assert set(stream.train_indices[0]) == set(np.flatnonzero(dataset.train_labels == 1))


def test_source_of_ones_own(checkout, monkeypatch, fast_runs):
    monkeypatch.setattr(sources, "SOURCES", dict(sources.SOURCES))
    (checkout / "stripes.py").write_text(code("SOURCES"))
    results = run("stripes", data__per_class=0, batch_size=16, epochs=4, milestones=(3,))
    assert results["complete"] and results["dataset"] == "stripes"
    assert results["test_images"] == [[40]]
    assert results["accuracy"][0][0][0] > 90, "two widths: chance is 50 %"


def test_table_of_generators():
    table = GUIDE.split("made for a side of |")[1].split("\n\n")[0]
    rows = re.findall(r"\| `(\w+)` \| (\d+) \| (\d+) \|", table)
    assert len(rows) == 4
    for name, multiple, side in rows:
        multiple, side = int(multiple), int(side)
        make_generator(name, (side, side, 1))
        make_generator(name, (multiple, multiple, 3))
        with pytest.raises(UserError, match=f"multiple of {multiple}, not"):
            make_generator(name, (side + multiple // 2,) * 2 + (3,))
