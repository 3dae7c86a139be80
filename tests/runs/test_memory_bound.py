"""The host memory of the published network and batch size, with all of CIFAR-100 loaded."""

import os
import subprocess
import sys

import pytest

from tests.helpers import tiny_runs

# A process counts the memory of the one that started it, which is large here; this one is small.
SMALL = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""
DATA_BYTES = 60_000 * (32 * 32 * 3 + 4)
LIMIT = 3_000_000_000


@pytest.mark.slow
@pytest.mark.real_data
def test_abd_on_cifar100_stays_under_3_gb_beyond_the_data(tmp_path, tfds_dir):
    command = [
        sys.executable,
        tiny_runs.ROOT / "main.py",
        f"--config={tiny_runs.ROOT / 'configs' / 'abd_cifar100.py'}",
        "--config.task_sizes=(1,1)",  # of 500 images: three steps each
        "--config.epochs=1",
        "--config.milestones=()",
        "--config.inversion.steps=3",
        "--config.compilation_cache=",  # compiling needs more memory than reading
        f"--config.data.dir={tfds_dir}",
        f"--workdir={tmp_path / 'run'}",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", SMALL, *command], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert tiny_runs.results(tmp_path / "run")["complete"]
    unit = 1 if sys.platform == "darwin" else 1024
    beyond = int(done.stdout) * unit - DATA_BYTES
    print(f"{beyond / 1e9:.2f} GB beyond the data")
    assert 0 < beyond < LIMIT
