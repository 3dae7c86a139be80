"""Modules that a user writes in the current directory."""

import contextlib
import importlib
import sys


@contextlib.contextmanager
def own_modules(folder, monkeypatch):
    """`folder` is the current directory; its modules, `my_...` and `test_my_...`, are forgotten."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    loaded = set(sys.modules)
    importlib.invalidate_caches()
    yield
    for name in set(sys.modules) - loaded:
        if name.startswith(("my_", "test_my_")):
            del sys.modules[name]
