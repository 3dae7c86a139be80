"""The program's first command on a fresh machine, with a local server in the place of CIFAR's."""

import os
import subprocess
import sys

import numpy as np
import pytest

import cljax
from cljax.data.cifar import load_cifar
from cljax.data.cifar_files import CIFAR
from tests.helpers import tiny_runs
from tests.helpers.cifar_archives import Server, binary_files, remote, write_archive

COMMAND = ("--config=configs/abd_cifar100.py",)
SHORT = (
    "--config.max_tasks=1",
    "--config.epochs=1",
    "--config.milestones=()",
    "--config.data.per_class=20",
    "--config.model.name=resnet8",
    "--config.model.width=4",
)


@pytest.fixture
def archive(tfds_dir, tmp_path):
    """The images of CIFAR-100 in an archive of the authors' layout."""
    train, test, names = load_cifar("cifar100", str(tfds_dir), "")
    arrays = {"names": np.array(names)}
    for split, (images, labels) in (("train", train), ("test", test)):
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images, labels
        arrays[f"{split}_coarse"] = np.zeros_like(labels)
    made = CIFAR["cifar100"]
    (tmp_path / "served").mkdir()
    return write_archive(tmp_path / "served", made.binary, binary_files(made, arrays))


@pytest.mark.slow
@pytest.mark.real_data
def test_the_first_command_on_a_fresh_machine(archive, tfds_dir, tmp_path, compiled):
    (tmp_path / "home").mkdir()
    environment = {
        k: v for k, v in os.environ.items() if k not in ("XDG_CACHE_HOME", "TFDS_DATA_DIR")
    }
    environment |= {"HOME": str(tmp_path / "home"), "JAX_COMPILATION_CACHE_DIR": compiled}

    def run(workdir, *flags, server):
        where = remote(archive, server.url)
        script = [
            str(tiny_runs.ROOT / "tests" / "helpers" / "with_archive.py"),
            where.url,
            str(where.size),
            where.sha256,
        ]
        done = subprocess.run(
            [sys.executable, *script, *COMMAND, *SHORT, f"--workdir={tmp_path / workdir}", *flags],
            capture_output=True,
            text=True,
            cwd=tiny_runs.ROOT,
            env=environment,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    with Server(archive.parent) as server:
        out = run("downloaded", server=server)
        assert out.startswith(f"cljax {cljax.__version__}: abd_cifar100, seeds (0,), in ")
        assert out.index("downloading") < out.index("reading the images") < out.index("train 1/1")
        assert server.url in out
        assert len(server.requests) == 1
        out = run("again", server=server)
        assert "downloading" not in out and "reading the images" not in out
        run("prepared", f"--config.data.dir={tfds_dir}", server=server)
        assert len(server.requests) == 1
    for other in ("again", "prepared"):
        tiny_runs.assert_same_run(tmp_path / other, tmp_path / "downloaded")
    assert (tmp_path / "home" / ".cache" / "cljax" / "downloads" / archive.name).is_file()
