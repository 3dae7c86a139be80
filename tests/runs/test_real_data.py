"""ABD on real CIFAR-100 as a user runs it, cut down, stopped and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import FAST_RUN
from tests.helpers import tiny_runs

ROOT = Path(__file__).parents[2]
SMALL = (
    "--config=configs/abd_cifar100.py",
    "--config.num_tasks=20",
    "--config.max_tasks=2",
    "--config.model.name=resnet8",
    "--config.data.per_class=96",
    "--config.batch_size=32",
    "--config.epochs=3",
    "--config.milestones=(2,)",
    "--config.optimizer.lr=0.02",
    "--config.inversion.steps=24",
    "--config.inversion.steps_per_epoch=6",
)


@pytest.mark.slow
@pytest.mark.real_data
def test_two_tasks_of_cifar100_with_a_stop_within_the_inversion(tmp_path, tfds_dir):
    workdir = tmp_path / "run"
    command = [sys.executable, "main.py", *SMALL, f"--workdir={workdir}"]
    command.append(f"--config.data.dir={tfds_dir}")
    variables = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "XLA_FLAGS": FAST_RUN}
    process = {"cwd": ROOT, "env": os.environ | variables, "text": True}

    first = subprocess.Popen(command, stdout=subprocess.PIPE, **process)
    metrics = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and '"invert"' in metrics.read_text()):
        assert first.poll() is None and time.monotonic() < deadline, "no inversion was reached"
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 128 + signal.SIGTERM, output
    assert "run the same command to resume" in output

    second = subprocess.run(command, capture_output=True, timeout=600, **process)
    assert second.returncode == 0, second.stderr
    assert "resuming" in second.stdout
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    addresses = [(row["task"], row["stage"], row["epoch"]) for row in rows]
    train, invert = [(1, "train", e) for e in (1, 2, 3)], [(1, "invert", e) for e in (1, 2, 3, 4)]
    assert addresses == train + invert + [(2, "train", e) for e in (1, 2, 3)]

    results = json.loads((workdir / "results.json").read_text())
    assert results["complete"] and results["task_sizes"] == [5, 5]
    assert results["accuracy"][0][0][0] > 30, "five classes: chance is 20 %"
    assert len(results["accuracy"][0][1]) == 2
    assert (workdir / "plots" / "dreamed_task1_seed0.png").stat().st_size > 10_000


def run_to_the_end(flags, workdir):
    """Runs main.py as a user does; returns its results.json."""
    command = [sys.executable, "main.py", *flags, f"--workdir={workdir}"]
    environment = os.environ | {"XLA_FLAGS": FAST_RUN}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return json.loads((workdir / "results.json").read_text())


@pytest.mark.slow
@pytest.mark.real_data
def test_two_phases_of_lucir_on_cifar100(tmp_path, tfds_dir):
    """Ten classes, then ten more, with all read-outs."""
    flags = [
        "--config=configs/lucir_cifar100.py",
        "--config.first_task_size=10",
        "--config.num_tasks=10",
        "--config.max_tasks=2",
        "--config.model.name=resnet8_lucir",
        "--config.data.per_class=60",
        "--config.exemplars.per_class=10",
        "--config.batch_size=32",
        "--config.epochs=6",
        "--config.milestones=(4,)",
        f"--config.data.dir={tfds_dir}",
    ]
    results = run_to_the_end(flags, tmp_path / "run")
    assert results["complete"] and results["class_orders"][0][:3] == [68, 56, 78]
    found = {"own": results, **results["read_outs"]}
    assert list(found) == ["own", "nme", "ncm"]
    for one in found.values():
        assert one["seen_accuracy"][0][0] > 20, "ten classes: chance is 10 %"
        assert one["seen_accuracy"][0][1] > 8, "twenty classes: chance is 5 %"


TINY_IMAGENET = {
    "abd": ("--config.model.name=resnet8", "--config.inversion.steps=8"),
    "lucir": (
        "--config.model.name=resnet8_lucir",
        "--config.first_task_size=10",
        "--config.num_tasks=20",
        "--config.exemplars.per_class=4",
    ),
}


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("name", TINY_IMAGENET)
def test_two_tasks_of_tiny_imagenet_on_the_device_and_from_the_host(
    name, tmp_path, tiny_imagenet_dir
):
    """Ten classes, then ten more, of the archive; the same numbers wherever the images are."""
    flags = [
        f"--config=configs/{name}_tiny_imagenet.py",
        *TINY_IMAGENET[name],
        "--config.max_tasks=2",
        "--config.model.width=4",
        "--config.data.per_class=8",
        "--config.batch_size=8",
        "--config.epochs=3",
        "--config.milestones=()",
        f"--config.data.dir={tiny_imagenet_dir}",
    ]
    for residence in ("device", "stream"):
        run_to_the_end([*flags, f"--config.data.residence={residence}"], tmp_path / residence)
    results = tiny_runs.results(tmp_path / "stream")
    assert results == tiny_runs.results(tmp_path / "device")
    rows = tiny_runs.metrics(tmp_path / "stream")
    assert rows == tiny_runs.metrics(tmp_path / "device")
    assert results["complete"] and results["task_sizes"] == [10, 10]
    if name == "lucir":
        assert results["class_orders"][0][:3] == [168, 136, 51]
    losses = [row["loss"] for row in rows if (row["task"], row["stage"]) == (1, "train")]
    assert losses[2] < losses[0]
