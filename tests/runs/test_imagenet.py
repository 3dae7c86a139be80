"""Runs on images of ImageNet: two shortened tasks, on the device and from the host."""

import importlib

import pytest

from cljax.data.imagenet import choose
from tests.helpers import tiny_runs
from tests.helpers.imagenet import make_folders

TINY = {
    "data.image_size": 32,
    "model.name": tiny_runs.TINY["model.name"],
    "model.width": 4,
    "epochs": 2,
    "milestones": (1,),
    "batch_size": 8,
    "max_tasks": 2,
    "eval.batch_size": 16,
}
OWN = {
    "abd_imagenet50": {"inversion.steps": 4, "inversion.steps_per_epoch": 2},
    "oracle_imagenet50": {"model.name": "resnet8"},
    "lucir_imagenet_subset": {
        "exemplars.per_class": 1,
        "eval.read_outs": ("nme",),
        "execution.loop": "compiled",
    },
}


pytestmark = pytest.mark.usefixtures("round_as_users_do")


def make_config(name, folder, **settings):
    config = importlib.import_module(f"configs.{name}").get_config()
    config.data.dir = str(folder)
    config.update_from_flattened_dict(TINY | OWN[name] | settings)
    return config


@pytest.mark.slow
@pytest.mark.parametrize("name", ["abd_imagenet50", "lucir_imagenet_subset"])
def test_two_tasks_give_the_same_bits_on_the_device_and_from_the_host(
    name, tmp_path, imagenet_samples
):
    dataset = name.partition("_")[2]
    images = sorted(imagenet_samples.glob("*/*"))
    folder = make_folders(tmp_path / "data", dataset, images, per_class=1)
    for residence in ("device", "stream"):
        config = make_config(name, folder, **{"data.residence": residence})
        shown = tiny_runs.run(config, tmp_path / residence)
    tiny_runs.assert_same_run(tmp_path / "stream", tmp_path / "device")
    results = tiny_runs.results(tmp_path / "stream")
    first = 50 if dataset == "imagenet_subset" else 10
    assert results["complete"] and results["task_sizes"] == [first, 10]
    assert results["top_k"] == (1 if dataset == "imagenet_subset" else 5)
    names = results["class_names"][0]
    known = choose(dataset).names
    assert names == [known[label] for label in results["class_orders"][0]]
    assert {*names} <= {*choose(dataset).used}
    line = f"seed 0: classes in this order: {', '.join(names)}"
    assert line in shown and line in (tmp_path / "stream" / "log.txt").read_text()


@pytest.mark.slow
def test_a_network_learns_real_images_by_heart(tmp_path, imagenet_samples):
    """Two tasks of ten classes, an image each: training and validation images are the same."""
    images = sorted(imagenet_samples.glob("*/*"))
    folder = make_folders(tmp_path / "data", "imagenet50", images, per_class=1)
    for path in (folder / "val").glob("*/*"):
        (source,) = (folder / "train" / path.parent.name).iterdir()
        path.unlink()
        path.symlink_to(source.resolve())
    settings = {"epochs": 60, "milestones": (45,), "eval.top_k": 1, "model.width": 8}
    settings |= {"batch_size": 10}
    settings |= {f"data.augmentation.{name}": False for name in ("resized_crop", "flip")}
    config = make_config("oracle_imagenet50", folder, **settings)
    tiny_runs.run(config, tmp_path / "run")
    first, second = tiny_runs.results(tmp_path / "run")["seen_accuracy"][0]
    assert first >= 90, "ten classes: chance is 10 %"
    assert second >= 70, "twenty classes: chance is 5 %"
