"""The commit that a run tells: of its checkout, with a mark for changes, or none."""

import os
import subprocess

import pytest

from cljax import __version__
from cljax.compute import device, source

# No configuration of the user's or a hook's repository has a say.
ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if not k.startswith("GIT_")},
    **{f"GIT_{who}_NAME": "me" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "me@example.com" for who in ("AUTHOR", "COMMITTER")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}


def git(folder, *arguments):
    command = ["git", *arguments]
    process = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, check=True)
    return process.stdout.decode().strip()


@pytest.fixture
def checkout(tmp_path):
    """A repository with a package in it, all committed."""
    package = tmp_path / "checkout" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package.parent / "main.py").touch()
    git(package.parent, "init")
    git(package.parent, "add", "--all")
    git(package.parent, "commit", "--message=first")
    return package.parent


def test_commit_and_changes(checkout):
    package = checkout / "package"
    head = git(checkout, "rev-parse", "HEAD")
    assert len(head) == 40
    assert source._commit(package) == head
    (checkout / "runs").mkdir()
    (checkout / "runs" / "results.json").touch()
    assert source._commit(package) == head, "untracked files do not count"
    (checkout / "main.py").write_text("changed")
    assert source._commit(package) == f"{head}+changes"
    git(checkout, "add", "main.py")
    assert source._commit(package) == f"{head}+changes"


def test_variables_of_a_hook_are_not_heeded(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert source._commit(checkout / "package") == git(checkout, "rev-parse", "HEAD")


def test_an_installed_package_has_none(checkout, tmp_path):
    site = checkout / ".venv" / "site-packages" / "package"
    site.mkdir(parents=True)
    (site / "__init__.py").touch()
    assert source._commit(site) is None, "it is not a part of the checkout around it"
    (tmp_path / "__init__.py").touch()
    assert source._commit(tmp_path) is None, "there is no repository"


def test_nothing_committed_yet(tmp_path):
    (tmp_path / "__init__.py").touch()
    git(tmp_path, "init")
    git(tmp_path, "add", "--all")
    assert source._commit(tmp_path) is None


@pytest.mark.parametrize("script", [None, "exit 1", "sleep 9"])
def test_git_that_is_missing_fails_or_hangs(checkout, tmp_path, monkeypatch, script):
    tools = tmp_path / "tools"
    tools.mkdir()
    if script:
        (tools / "git").write_text(f"#!/bin/sh\nPATH={os.environ['PATH']}\nexec {script}\n")
        (tools / "git").chmod(0o755)
    monkeypatch.setattr(source, "_SECONDS", 0.2)
    monkeypatch.setenv("PATH", str(tools))
    assert source._commit(checkout / "package") is None


@pytest.mark.parametrize("commit", [None, "0123+changes"])
def test_versions(monkeypatch, commit):
    monkeypatch.setattr(source, "commit", lambda: commit)
    versions = device.versions()
    assert versions["cljax"] == __version__ == "0.2.0"
    assert versions.get("commit") == commit
    assert ("commit" in versions) == (commit is not None)
