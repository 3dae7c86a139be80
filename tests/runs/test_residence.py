"""Runs whose images stay on the host leave the same as those whose images are on the device."""

import os
import signal
import subprocess
import sys

import pytest

from cljax import experiment
from cljax.compute.host_images import HostImages
from tests.helpers import tiny_runs

pytestmark = pytest.mark.usefixtures("round_as_users_do")


def run_both(tmp_path, name, **settings):
    for residence in ("device", "stream"):
        config = tiny_runs.make_config(name, data__residence=residence, **settings)
        tiny_runs.run(config, tmp_path / residence)
    return tmp_path / "stream", tmp_path / "device"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("abd", {}),
        ("lucir", {"execution__loop": "compiled", "eval__read_outs": ("cnn", "nme", "ncm")}),
        ("bic", {"seeds": (0, 1), "execution__seeds": "vmap"}),
        ("rehearsal", {"data__validation": True, "exemplars__strategy": "herding"}),
    ],
)
def test_same_bits(name, settings, tmp_path):
    tiny_runs.assert_same_run(*run_both(tmp_path, name, **settings))


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bits(interrupt, tmp_path):
    config = tiny_runs.make_config("lucir", data__residence="stream")
    tiny_runs.run(config, tmp_path / "whole")
    interrupt(signal.SIGTERM, 2, 1)
    with pytest.raises(experiment.Stopped):
        tiny_runs.run(config, tmp_path / "stopped")
    assert len(tiny_runs.metrics(tmp_path / "stopped")) == 2
    config.data.residence = "device"  # as on a machine with more memory
    tiny_runs.run(config, tmp_path / "stopped")
    tiny_runs.assert_same_run(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize(
    ("memory", "where"),
    [(None, "device"), (10**9, "device"), (10**4, "host")],
)
def test_auto_tells_why(memory, where, monkeypatch):
    monkeypatch.setattr("cljax.compute.device.memory", lambda: memory)
    problem = tiny_runs.make_problem(tiny_runs.make_config("base"))
    on_host = isinstance(problem.data.train_images, HostImages)
    assert on_host == isinstance(problem.data.eval_images, HostImages) == (where == "host")
    assert problem.residence.startswith(
        f"config.data.residence=auto: images stay on the {where}; they need 0.000"
    )


# As many images as Tiny-ImageNet has, and larger than the limit; the file has no blocks on disk.
MANY = """
import io, sys, threading, time
import numpy as np
from rich.console import Console
from cljax import experiment
from cljax.data import sources
from configs import lucir_tiny_imagenet

folder = sys.argv[1]
shape = 100_000, 64, 64, 3
images = np.memmap(f"{folder}/images", np.uint8, "w+", shape=shape)
places = np.arange(len(images), dtype=np.int32)
labels = np.where(places % 50 == 0, places // 50 % 20, 20 + places % 180).astype(np.int32)
images[:, 0, 0, 0] = labels
names = tuple(map(str, range(200)))
moments = (0.5,) * 3, (0.25,) * 3
sources.load = lambda settings: sources.Dataset(
    "many", images, labels, images[:9000], labels[:9000], 200, names, *moments
)
peak = 0

def watch():
    global peak
    while True:
        with open("/proc/self/status") as status:
            [line] = [line for line in status if line.startswith("RssAnon")]
        peak = max(peak, int(line.split()[1]) * 1024)
        time.sleep(0.01)

threading.Thread(target=watch, daemon=True).start()
config = lucir_tiny_imagenet.get_config()
config.update(epochs=1, milestones=(), first_task_size=10, num_tasks=20, max_tasks=2)
config.model.update(name="resnet8_lucir", width=4)
config.data.update(residence="stream", class_order="sequential")
experiment.run(config, f"{folder}/run", Console(file=io.StringIO()))
print(peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the system does not tell")
def test_memory_is_bounded(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MANY, tmp_path],
        cwd=tiny_runs.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout)
    print(f"{peak / 1e9:.2f} GB beyond the file")
    assert 0 < peak < 1_500_000_000
