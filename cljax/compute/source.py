"""Finds the commit of the running program."""

import functools
import os
import subprocess
from pathlib import Path

_SECONDS = 10  # on a slow network disk; a run does not wait longer for this


@functools.cache
def commit() -> str | None:
    """Returns the commit of the checkout that contains the package, or None.

    The commit is read once, at the first call, because later changes do not reach the running
    program.

    Returns:
      The full hash, followed by "+changes" if tracked files differ from it. None if the package is
      installed, git is missing, or git fails.
    """
    return _commit(Path(__file__).resolve().parent)


def _commit(package: Path) -> str | None:
    try:
        # An environment inside a checkout has the package, but not as a part of that checkout.
        _git(package, "ls-files", "--error-unmatch", "--", "__init__.py")
        status = _git(
            package, "status", "--porcelain=v2", "--branch", "--untracked-files=no"
        ).splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    headers = dict(line[2:].split(" ", 1) for line in status if line.startswith("# "))
    found = headers.get("branch.oid", "(initial)")
    if found == "(initial)":  # nothing is committed yet
        return None
    return found + ("+changes" if len(status) > len(headers) else "")


def _git(folder, *arguments) -> str:
    # A hook's variables name the repository of the hook, not the one around the package.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    process = subprocess.run(
        ["git", "--no-optional-locks", *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=_SECONDS,
    )
    return process.stdout.decode(errors="replace")
