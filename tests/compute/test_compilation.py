"""Where compiled programs are kept, and that a second start finds them there."""

import io
import os
import pwd

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache
from rich.console import Console

from cljax.compute import compilation
from cljax.errors import UserError
from tests.helpers import tiny_runs


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    """JAX keeps no programs; the user's cache folder is empty, and given back."""
    names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update(names[0], None)
    compilation_cache.reset_cache()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    yield tmp_path / "user"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def keep(place: str) -> str:
    """`enable_compilation_cache`; what the console showed."""
    console = Console(file=io.StringIO(), width=200)
    compilation.enable_compilation_cache(place, console)
    return console.file.getvalue()


def compile_one():
    """Compiles a tiny program, as a process does that has just started."""
    jax.clear_caches()
    assert jax.jit(lambda x: x * 3 + 1)(jnp.float32(2)) == 7


def files(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*-cache")}


@pytest.mark.parametrize("place", ["auto", "named"])
def test_programs_are_kept_and_found(no_cache, tmp_path, place):
    folder = tmp_path / place if place == "named" else no_cache / "cljax" / "programs"
    compile_one()
    assert not folder.exists()
    assert keep(place if place == "auto" else str(folder)) == ""
    hits = []

    def count(event, **kwargs):
        hits.extend([event] * event.endswith("/cache_hits"))

    jax.monitoring.register_event_listener(count)
    try:
        compile_one()
        kept = files(folder)
        assert kept and not hits
        compile_one()
        assert files(folder) == kept and len(hits) == len(kept)
    finally:
        jax.monitoring.unregister_event_listener(count)


def test_home_without_xdg(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compilation.default_cache_folder() == tmp_path / ".cache" / "cljax" / "programs"


def test_a_folder_that_jax_was_told_of_stays(no_cache, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "jax"))
    assert keep("auto") == ""
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "jax")
    assert not no_cache.exists()
    keep("")
    assert jax.config.jax_compilation_cache_dir is None
    compile_one()
    assert not (tmp_path / "jax").exists()


def test_a_folder_that_cannot_be_written(no_cache, tmp_path):
    (tmp_path / "user").write_text("no folder")  # as without permission, but also for root
    shown = keep("auto")
    assert shown.startswith("warning: cannot write") and shown.count("\n") == 1
    assert jax.config.jax_compilation_cache_dir is None
    with pytest.raises(UserError, match=r"config\.compilation_cache: cannot write .*user/mine"):
        keep(str(tmp_path / "user" / "mine"))


OTHERS_WRITE = {
    "the folder": ("programs", 0o777),
    "by the group": ("programs", 0o770),
    "sticky": ("programs", 0o1777),
    "a parent": ("", 0o777),
}


@pytest.mark.parametrize("place", ["auto", "named", "jax"])
@pytest.mark.parametrize("where", OTHERS_WRITE)
def test_a_folder_that_others_can_write_is_not_used(no_cache, tmp_path, place, where):
    folder = no_cache / "cljax" / "programs"
    part, mode = OTHERS_WRITE[where]
    folder.mkdir(parents=True)
    (folder.parent / part).chmod(mode)
    if place == "jax":
        jax.config.update("jax_compilation_cache_dir", str(folder))
    shown = keep(str(folder) if place == "named" else "auto")
    assert shown.startswith(f"warning: {folder} is not used, because others can write to ")
    assert shown.count("\n") == 1 and "compiled programs are not cached" in shown
    assert jax.config.jax_compilation_cache_dir is None
    compile_one()
    assert not files(folder)


def test_a_folder_of_another_user_is_not_used(no_cache, monkeypatch):
    folder = no_cache / "cljax"
    folder.mkdir(parents=True)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    if os.getuid() == 0:
        os.chown(folder, 12345, -1)
    assert f"because {folder} belongs to another user" in keep("auto")
    assert jax.config.jax_compilation_cache_dir is None


def test_a_new_folder_is_the_users_alone_also_in_tmp(no_cache):
    no_cache.mkdir()
    no_cache.chmod(0o1777)  # as /tmp
    before = os.umask(0)
    try:
        assert keep("auto") == ""
    finally:
        os.umask(before)
    for folder in (no_cache / "cljax", no_cache / "cljax" / "programs"):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_without_a_home_there_is_no_cache(no_cache, tmp_path, monkeypatch):
    def no_entry(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    monkeypatch.delenv("HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.chdir(tmp_path)
    shown = keep("auto")
    assert shown.startswith("warning: no home directory is known") and shown.count("\n") == 1
    assert jax.config.jax_compilation_cache_dir is None
    with pytest.raises(UserError, match="~/programs: the home directory is not known"):
        keep("~/programs")
    assert list(tmp_path.iterdir()) == []


def test_damaged_program_is_compiled_again(no_cache, recwarn):
    keep("auto")
    compile_one()
    for path in (no_cache / "cljax" / "programs").glob("*-cache"):
        os.truncate(path, path.stat().st_size // 2)
    compile_one()
    assert not recwarn.list


def test_default_folder_is_bounded(no_cache, monkeypatch):
    folder = no_cache / "cljax" / "programs"
    folder.mkdir(parents=True)
    for age in range(6):
        path = folder / f"{age}-cache"
        path.write_bytes(bytes(100) if age != 1 else b"")
        os.utime(path, (1e9 - age, 1e9 - age))
    (folder / "other").write_bytes(bytes(1000))
    monkeypatch.setattr(compilation, "MAX_BYTES", 350)
    keep("auto")
    kept = {path.name for path in folder.iterdir()}
    assert kept == {"0-cache", "2-cache", "3-cache", "other"}


@pytest.mark.slow
def test_second_start_compiles_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    found = []
    for name in ("first", "second"):
        status, _, err = tiny_runs.command(*tiny_runs.arguments(tmp_path / name))
        assert (status, err) == (0, "")
        found.append(files(tmp_path / "user" / "cljax" / "programs"))
    assert found[0] == found[1] and len(found[0]) > 10
    tiny_runs.assert_same_run(tmp_path / "second", tmp_path / "first")
