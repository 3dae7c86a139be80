"""The resized images of a folder are kept for the next run, as long as no file has changed."""

import logging
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from cljax.data import cache as cache_lib
from cljax.data import folder_source
from cljax.data.folder_source import load_folder
from tests.helpers import folders
from tests.helpers.folders import SIZE, shades


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """See folders.make."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
    return folders.make(tmp_path / "photos")


@pytest.fixture
def reads(monkeypatch):
    """The names of the image files that are decoded."""
    names, read = [], folder_source._read_image

    def count(path, size):
        names.append(path.name)
        return read(path, size)

    monkeypatch.setattr(folder_source, "_read_image", count)
    return names


def test_images_are_read_once(folder, reads):
    first = load_folder(str(folder), SIZE)
    assert len(reads) == 8
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == [".cljax_cache"]
    assert [path.name for path in (folder / ".cljax_cache").iterdir()] == ["8.npz"]
    second = load_folder(str(folder), SIZE)
    assert len(reads) == 8 and second[2] == first[2]
    for one, other in zip(first[:2], second[:2], strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    shutil.move(folder, folder.with_name("moved"))
    assert shades(load_folder(str(folder.with_name("moved")), SIZE)[0]) == [40, 30, 10, 20]
    assert len(reads) == 8


def test_images_are_mapped_from_the_cache(folder, reads, monkeypatch):
    monkeypatch.setattr(folder_source, "_BLOCK_BYTES", 3 * SIZE**2)  # an image
    monkeypatch.setattr(cache_lib, "_SMALL", 0)
    for _ in range(2):
        (images, labels), _, _ = load_folder(str(folder), SIZE)
        assert isinstance(images, np.memmap) and not images.flags.writeable
        assert shades((images, labels)) == [40, 30, 10, 20]
    assert len(reads) == 8


def change_content(folder):
    path = folder / "train" / "ant" / "0.png"
    Image.new("RGB", (12, 10), (99,) * 3).save(path)
    return [40, 99, 10, 20]


def change_time_only(folder):
    path = folder / "train" / "ant" / "0.png"
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    return [40, 30, 10, 20]


def change_size_only(folder):
    path = folder / "train" / "ant" / "0.png"
    status = path.stat()
    with path.open("ab") as file:
        file.write(b" ")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return [40, 30, 10, 20]


def add_image(folder):
    shutil.copy2(folder / "train" / "Bee" / "0.png", folder / "train" / "cat" / "2.png")
    return [40, 30, 10, 20, 40]


def remove_image(folder):
    (folder / "train" / "cat" / "0.png").unlink()
    return [40, 30, 20]


def change_content_only(folder):
    path = folder / "train" / "ant" / "0.png"
    status = path.stat()
    Image.new("RGB", (12, 10), (31,) * 3).save(path)
    os.truncate(path, max(status.st_size, path.stat().st_size))  # Pillow ignores what follows
    assert path.stat().st_size == status.st_size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return [40, 31, 10, 20]


def rename_image(folder):
    (folder / "train" / "cat" / "0.png").rename(folder / "train" / "cat" / "3.png")
    return [40, 30, 20, 10]


def rename_class(folder):
    for split in ("train", "test"):
        (folder / split / "ant").rename(folder / split / "ape")
    return [40, 30, 10, 20]


def rename_test_image(folder):
    (folder / "test" / "cat" / "0.png").rename(folder / "test" / "cat" / "3.png")
    return [40, 30, 10, 20]


CHANGES = (
    change_content,
    change_time_only,
    change_size_only,
    change_content_only,
    add_image,
    remove_image,
    rename_image,
    rename_class,
    rename_test_image,
)


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_the_files_is_noticed(folder, reads, change):
    load_folder(str(folder), SIZE)
    expected = change(folder)
    reads.clear()
    assert shades(load_folder(str(folder), SIZE)[0]) == expected
    assert len(reads) == len(expected) + 4
    assert shades(load_folder(str(folder), SIZE)[0]) == expected
    assert len(reads) == len(expected) + 4


def test_sizes_are_kept_apart(folder, reads):
    for size, count in ((8, 8), (4, 16), (8, 16), (4, 16)):
        assert load_folder(str(folder), size)[0][0].shape[1:] == (size, size, 3)
        assert len(reads) == count
    shutil.copy(folder / ".cljax_cache" / "8.npz", folder / ".cljax_cache" / "4.npz")
    assert load_folder(str(folder), 4)[0][0].shape[1:] == (4, 4, 3)


def damages():
    def cut(content):
        return content[: len(content) // 2]

    def flip(content):
        place = content.index(bytes([40] * 100)) + 50
        return content[:place] + b"\0" + content[place + 1 :]

    return {"cut": cut, "a byte": flip, "empty": lambda _: b"", "text": lambda _: b"text"}


@pytest.mark.parametrize("name", damages())
def test_damaged_caches_are_written_anew(folder, reads, name):
    load_folder(str(folder), SIZE)
    cache = folder / ".cljax_cache" / "8.npz"
    whole = cache.read_bytes()
    cache.write_bytes(damages()[name](whole))
    assert shades(load_folder(str(folder), SIZE)[0]) == [40, 30, 10, 20]
    assert len(reads) == 16
    load_folder(str(folder), SIZE)
    assert len(reads) == 16


def test_caches_of_wrong_arrays_or_pickles_are_not_trusted(folder, reads):
    load_folder(str(folder), SIZE)
    cache = folder / ".cljax_cache" / "8.npz"
    with np.load(cache) as archive:
        good = dict(archive)

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(folder / "sprung"),)

    for changes in (
        {"train": good["train"][:-1]},
        {"train": good["train"].astype(np.int16)},
        {"test": good["test"][..., :1]},
        {"stamp": np.array("another")},
        {"train": np.array([Trap()], dtype=object)},
    ):
        np.savez(cache, **good | changes)
        reads.clear()
        assert shades(load_folder(str(folder), SIZE)[0]) == [40, 30, 10, 20]
        assert len(reads) == 8
    assert not (folder / "sprung").exists()


OTHERS_WRITE = {
    "the file's folder": lambda folder: (folder / ".cljax_cache").chmod(0o777),
    "a parent": lambda folder: folder.chmod(0o775),
}


@pytest.mark.parametrize("where", OTHERS_WRITE)
def test_a_cache_that_others_can_change_is_not_used(folder, reads, tmp_path, where):
    load_folder(str(folder), SIZE)
    OTHERS_WRITE[where](folder)
    before = (folder / ".cljax_cache" / "8.npz").stat()
    for _ in range(2):
        load_folder(str(folder), SIZE)
    assert len(reads) == 16  # once into the user's cache folder
    assert (folder / ".cljax_cache" / "8.npz").stat() == before
    (cache,) = (tmp_path / "user_cache" / "cljax").iterdir()
    assert cache.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_cache_that_is_no_plain_file_is_not_waited_for(folder, reads, kind):
    (folder / ".cljax_cache").mkdir()
    path = folder / ".cljax_cache" / "8.npz"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    for _ in range(2):
        assert shades(load_folder(str(folder), SIZE)[0]) == [40, 30, 10, 20]
    assert len(reads) == 8


def test_read_only_folders_use_the_users_cache(folder, reads, tmp_path):
    (folder / ".cljax_cache").write_text("no folder")  # as unwritable, but also for root
    for _ in range(2):
        assert shades(load_folder(str(folder), SIZE)[0]) == [40, 30, 10, 20]
    assert len(reads) == 8
    (cache,) = (tmp_path / "user_cache" / "cljax").iterdir()
    assert cache.name.endswith("-8.npz")
    shutil.copytree(folder, tmp_path / "other")  # another folder has another cache
    load_folder(str(tmp_path / "other"), SIZE)
    assert len(list((tmp_path / "user_cache" / "cljax").iterdir())) == 2


def test_without_any_place_for_a_cache_there_is_a_warning(folder, reads, tmp_path, monkeypatch):
    (folder / ".cljax_cache").write_text("no folder")
    (tmp_path / "user_cache").write_text("no folder either")
    warnings = []
    log = logging.getLogger("cljax")
    monkeypatch.setattr(log, "warning", lambda message, *args: warnings.append(message % args))
    assert shades(load_folder(str(folder), SIZE)[0]) == [40, 30, 10, 20]
    (warning,) = warnings
    assert "the next run decodes all files again" in warning and "\n" not in warning
    for place in (folder / ".cljax_cache" / "8.npz", tmp_path / "user_cache" / "cljax"):
        assert f"cannot write {place}" in warning


def test_a_killed_or_failed_write_leaves_no_half_cache(folder, reads, tmp_path, monkeypatch):
    (folder / ".cljax_cache").mkdir()
    (folder / ".cljax_cache" / ".8.npz.1.tmp").write_text("half")

    def fail(member, images):
        member.write(next(images.read()).data)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_lib, "_write_blocks", fail)
    assert shades(load_folder(str(folder), SIZE)[0]) == [40, 30, 10, 20]
    assert list((folder / ".cljax_cache").iterdir()) == []
    assert list((tmp_path / "user_cache" / "cljax").iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
    load_folder(str(folder), SIZE)
    assert [path.name for path in (folder / ".cljax_cache").iterdir()] == ["8.npz"]
