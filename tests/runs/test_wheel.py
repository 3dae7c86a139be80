"""An installed program is a whole one: the wheel, in an environment without the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import cljax
from tests.helpers import tiny_runs

pytestmark = pytest.mark.slow


def call(*command, **kwargs):
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A repository of its own with the files of this one, as they are now."""
    if not (tiny_runs.ROOT / ".git").exists():
        pytest.skip("not a checkout")
    folder = tmp_path_factory.mktemp("checkout")
    for name in call("git", "ls-files", "-z", cwd=tiny_runs.ROOT).split("\0"):
        if (tiny_runs.ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tiny_runs.ROOT / name, folder / name)
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    for command in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-qm", "now")):
        call("git", *command, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(folder))
    call(sys.executable, "-m", "pip", "wheel", *options, ".", cwd=checkout)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The folder of commands of an environment with the wheel; its dependencies are borrowed."""
    folder = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", "--without-pip", str(folder))
    python = folder / "bin" / "python"
    install = ("--python", str(python), "install", "--no-deps", "--quiet", str(wheel))
    call(sys.executable, "-m", "pip", *install)
    purelib = call(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    # A path that a .pth file adds is searched, but its own .pth files, such as that of an editable
    # installation of this checkout, are not read.
    (Path(purelib.strip()) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"


def test_building_leaves_nothing_untracked(checkout, wheel):
    assert call("git", "status", "--porcelain", cwd=checkout) == ""


def test_what_the_wheel_holds(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names} == {
        "cljax",
        f"cljax-{cljax.__version__}.dist-info",
    }
    configs = {path.name for path in (tiny_runs.ROOT / "configs").glob("*.py")}
    assert {Path(name).name for name in names if name.startswith("cljax/configs/")} == configs
    modules = {str(p.relative_to(tiny_runs.ROOT)) for p in (tiny_runs.ROOT / "cljax").rglob("*.py")}
    assert modules == {n for n in names if n.endswith(".py") and "/configs/" not in n}
    assert "cljax/py.typed" in names  # PEP 561: the types are for its users, too


def test_the_source_distribution_has_no_goldens(checkout, tmp_path):
    """They are most of a checkout's bytes, and only its tests read them."""
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    call(sys.executable, "-c", build, str(tmp_path), cwd=checkout)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = archive.getnames()
    assert any(name.endswith("tests/goldens/test_compact.py") for name in names)
    assert not [name for name in names if "/goldens/compact" in name]


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    """An empty directory, and the variables of a user who knows nothing of the checkout."""
    folder = tmp_path_factory.mktemp("user")
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    return {"cwd": folder, "env": variables | {"JAX_PLATFORMS": "cpu"}}


def test_run_report_and_benchmark_from_another_directory(environment, user, compiled):
    flags = [
        flag
        for flag in tiny_runs.arguments(Path("unused"), model__name="resnet8")
        if "workdir" not in flag
    ]
    user = user | {"env": user["env"] | {"JAX_COMPILATION_CACHE_DIR": compiled}}
    out = call(environment / "cljax", *flags, **user)
    results = json.loads((user["cwd"] / "runs" / "abd_digits" / "results.json").read_text())
    assert results["complete"] and "2 of 2 tasks" in out
    assert results["versions"]["cljax"] == cljax.__version__
    assert "commit" not in results["versions"]
    assert "ABD" in call(environment / "cljax-report", "runs/abd_digits", **user)
    assert (user["cwd"] / "runs" / "report.html").is_file()
    options = ("--config=abd_digits", "--only=plain_step", "--seconds=0.01", "--json=now.json")
    small = ("--config.model.width=4", "--config.data.per_class=10", "--config.batch_size=8")
    assert "plain_step" in call(environment / "cljax-benchmark", *options, *small, **user)
    rows = json.loads((user["cwd"] / "now.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["plain_step"]


def test_version_help_and_configs_of_the_user(environment, user, compiled):
    python = environment / "python"
    found = call(python, "-c", "import cljax; print(cljax.__version__, cljax.__file__)", **user)
    assert found.split()[0] == cljax.__version__
    assert found.split()[1].startswith(str(environment.parent))
    assert "abd_cifar100" in call(environment / "cljax", "--help", **user)
    mine = "from configs import abd_digits\n\n\ndef get_config():\n"
    mine += "    config = abd_digits.get_config()\n    config.max_tasks = 1\n    return config\n"
    (user["cwd"] / "mine.py").write_text(mine)
    flags = [
        f for f in tiny_runs.arguments(Path("own"), model__name="resnet8") if "max_tasks" not in f
    ]
    call(environment / "cljax", "--config=mine.py", *flags, **user)
    assert json.loads((user["cwd"] / "own" / "results.json").read_text())["tasks_total"] == 1
