"""Checkpoints are whole or absent, and what was damaged later is found."""

import errno
import json
import logging
import os
import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from cljax.errors import UserError
from cljax.output.checkpoints import Checkpoints, checksum, flatten, has_checkpoints, unflatten
from tests.helpers import tiny_runs

# TensorStore complains once more, from a thread of its own, of a file that it could not read.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def checkpoints(tmp_path):
    manager = Checkpoints(tmp_path / "c", keep=2)
    yield manager
    manager.close()


def arrays(n: int) -> dict[str, np.ndarray]:
    """Arrays of all kinds that a state holds; the names are no file names."""
    rng = np.random.default_rng(n)
    return {
        "seed0.params['head']['kernel']": rng.normal(size=(40, 30)).astype(np.float32),
        "scalar": np.float32(n + 0.1) * np.ones((), np.float32),
        "/odd/../name": rng.integers(0, 255, (3, 2), dtype=np.uint8),
        "half": rng.normal(size=5).astype(ml_dtypes.bfloat16),
        "subnormal, infinite and not a number": np.array([1e-45, np.inf, np.nan], np.float32),
        "flag": np.array([True, False]),
        "key": rng.integers(0, 2**32, 2, dtype=np.uint32),
    }


def test_comes_back_bit_for_bit(checkpoints):
    record = {"list": [1, 2.5, None], "nested": {"text": "ü", "third": 1 / 3}, "large": 2**60}
    checkpoints.save(arrays(1), record)
    found, found_record = checkpoints.restore()
    tiny_runs.assert_same_arrays(found, arrays(1))
    assert found_record == record


def test_none_at_first(checkpoints):
    assert checkpoints.restore() is None


def test_newest_wins_and_old_ones_are_pruned(checkpoints):
    for n in range(5):
        checkpoints.save(arrays(n), {"n": n})
    assert checkpoints.restore()[1] == {"n": 4}
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["3", "4"]


def test_keeps_all_on_request(tmp_path):
    models = Checkpoints(tmp_path, keep=None)
    for n in range(5):
        models.save({"a": np.array(n)}, {}, number=n)
    assert [int(models.read(n)[0]["a"]) for n in range(5)] == list(range(5))
    models.close()


def test_the_same_arrays_under_the_same_number_stay(tmp_path, caplog):
    models = Checkpoints(tmp_path, keep=None)
    models.save({"a": np.array(1)}, {}, number=0)
    before = (tmp_path / "0").stat().st_ino
    models.save({"a": np.array(1)}, {}, number=0)
    assert (tmp_path / "0").stat().st_ino == before and not caplog.records
    models.close()


@pytest.mark.parametrize("killed", [None, "before the save", "after the save"])
def test_more_arrays_take_the_place_of_a_part_of_them(tmp_path, caplog, monkeypatch, killed):
    models = Checkpoints(tmp_path, keep=None)
    part, whole = {"a": np.array(1)}, {"a": np.array(1), "b": np.array(2)}
    for number in (1, 2):
        models.save(part, {}, number=number)
    if killed:
        monkeypatch.setattr(models, "_finish_replacing", lambda: None)
    if killed == "before the save":
        models._rename(1, "replaced_1")
    else:
        models.save(whole, {}, number=1)
    models.close()
    models = Checkpoints(tmp_path, keep=None)
    expected = part if killed == "before the save" else whole
    assert models.read(1)[0] == expected and models.read(2)[0] == part
    assert models.holds(1, checksum(part), ("a",)) and models.holds(1, checksum(expected))
    assert not models.holds(1, checksum(part), ("b",))
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2"} and not caplog.records
    models.close()


@pytest.mark.parametrize("foreign", ["other arrays", "damage", "a file", "a directory"])
def test_anything_else_under_a_number_is_set_aside(tmp_path, caplog, foreign):
    models = Checkpoints(tmp_path, keep=None)
    place = tmp_path / "0"
    if foreign == "a file":
        place.write_text("mine")
    elif foreign == "a directory":
        place.mkdir()
        (place / "mine.txt").write_text("mine")
    else:
        models.save({"a": np.array(1)}, {}, number=0)
    if foreign == "damage":
        (place / "record" / "metadata").write_text("{")
    models.save({"a": np.array(2)}, {}, number=0)
    assert models.read(0)[0]["a"] == 2
    assert (tmp_path / "damaged_0").exists()
    assert "not what this run saves" in caplog.text
    models.close()


def test_numbers_go_on_in_another_process(checkpoints):
    checkpoints.save(arrays(0), {"n": 0})
    again = Checkpoints(checkpoints.folder, keep=2)
    again.save(arrays(1), {"n": 1})
    assert again.restore()[1] == {"n": 1}
    assert sorted(path.name for path in again.folder.iterdir()) == ["0", "1"]
    again.close()


def test_unfinished_save_is_no_checkpoint(checkpoints):
    checkpoints.save(arrays(0), {"n": 0})
    checkpoints.save(arrays(1), {"n": 1})
    whole = checkpoints.folder / "1"
    whole.rename(checkpoints.folder / "1.orbax-checkpoint-tmp")
    again = Checkpoints(checkpoints.folder, keep=2)
    assert again.restore()[1] == {"n": 0}
    again.save(arrays(2), {"n": 2})
    assert again.restore()[1] == {"n": 2}
    assert sorted(path.name for path in again.folder.iterdir()) == ["0", "1"]
    again.close()


def test_every_file_counts(checkpoints, tmp_path):
    # Whichever file of the newest checkpoint is cut, flipped or gone: the one before is taken, or
    # the file did not matter.
    checkpoints.save(arrays(0), {"n": 0})
    checkpoints.save(arrays(1), {"n": 1})
    newest = checkpoints.folder / "1"
    files = sorted(path.relative_to(newest) for path in newest.rglob("*") if path.is_file())
    assert len(files) > 3
    fallen_back = 0
    for name in files:
        for damage in ("cut", "flip", "unlink"):
            folder = tmp_path / "copy"
            shutil.copytree(checkpoints.folder, folder)
            spoil(folder / "1" / name, damage)
            copy = Checkpoints(folder, keep=2)
            found, record = copy.restore()
            copy.close()
            tiny_runs.assert_same_arrays(found, arrays(record["n"]))
            fallen_back += record["n"] == 0
            shutil.rmtree(folder)
    assert fallen_back > 3


def spoil(path, damage):
    content = path.read_bytes()
    if damage == "unlink":
        os.unlink(path)
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif content:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :])


def test_damage_is_told_and_its_number_is_free_again(checkpoints, caplog, monkeypatch):
    for n in range(2):
        checkpoints.save(arrays(n), {"n": n})
    (checkpoints.folder / "1" / "record" / "metadata").write_text("{")
    monkeypatch.setattr(logging.getLogger("cljax"), "propagate", True)
    with caplog.at_level("WARNING", logger="cljax"):
        assert checkpoints.restore()[1] == {"n": 0}
    assert f"checkpoint {checkpoints.folder / '1'} is damaged" in caplog.text
    checkpoints.save(arrays(5), {"n": 5})
    assert checkpoints.restore()[1] == {"n": 5}
    names = sorted(path.name for path in checkpoints.folder.iterdir())
    assert names == ["0", "1", "damaged_1"], "nothing is removed"
    (checkpoints.folder / "1" / "record" / "metadata").write_text("{")
    assert checkpoints.restore()[1] == {"n": 0}
    assert (checkpoints.folder / "damaged_1_2").is_dir()


def test_a_strangers_folder_is_left_whole(checkpoints):
    checkpoints.save(arrays(0), {"n": 0})
    (checkpoints.folder / "2020").mkdir()
    (checkpoints.folder / "2020" / "photo.jpg").write_text("x")
    again = Checkpoints(checkpoints.folder, keep=1)
    assert again.restore()[1] == {"n": 0}
    again.save(arrays(1), {"n": 1})
    assert again.restore()[1] == {"n": 1}
    assert next(checkpoints.folder.rglob("photo.jpg")).read_text() == "x"
    again.close()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ESTALE, "Stale file handle"),
        PermissionError(errno.EACCES, "Permission denied"),
        MemoryError(),
        ValueError("DATA_LOSS: Error reading: Input/output error [os_error_code='5']"),
    ],
)
def test_what_cannot_be_read_now_is_no_damage(checkpoints, monkeypatch, error):
    for n in range(2):
        checkpoints.save(arrays(n), {"n": n})
    read = checkpoints._manager.restore

    def fail(number, *args, **kwargs):
        if number == 1:
            raise error
        return read(number, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._manager, "restore", fail)
        with pytest.raises(UserError, match=r"1: cannot be read now .* left as they are") as told:
            checkpoints.restore()
    assert "\n" not in str(told.value) and "overwrite" not in str(told.value)
    assert checkpoints.restore()[1] == {"n": 1}


@pytest.mark.slow
def test_every_flipped_bit_of_a_record_is_found(checkpoints):
    """Wherever it is: in a number, a key or the checksum itself."""
    record = {"cursor": {"task": 1, "stage": 0}, "correct": [[7, 12], [3]], "text": "ü"}
    checkpoints.save(arrays(0), record)
    path = checkpoints.folder / "0" / "record" / "metadata"
    content = path.read_bytes()
    for place in range(0, len(content), 3):
        bit = 1 << place % 8
        path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        try:
            found = checkpoints.read(0)[1]
        except UserError:
            continue
        assert found == record, f"byte {place}, bit {bit}"


def test_wrong_number_in_the_record_is_found(checkpoints):
    checkpoints.save(arrays(0), {})
    path = checkpoints.folder / "0" / "record" / "metadata"
    content = json.loads(path.read_text())
    del content["checksum"]
    content["checksums"]["key"] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="checksum of key does not match"):
        checkpoints.read(0)
    with pytest.raises(UserError, match="all checkpoints are damaged"):
        checkpoints.restore()
    assert (checkpoints.folder / "0").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        ValueError("OUT_OF_RANGE: Failed to write 9 bytes: No space [os_error_code='28']"),
        PermissionError(13, "Permission denied"),
    ],
)
def test_write_error_is_the_users(checkpoints, monkeypatch, error):
    checkpoints.save(arrays(0), {"n": 0})

    def fail(*args, **kwargs):
        (checkpoints.folder / "1.orbax-checkpoint-tmp" / "arrays").mkdir(parents=True)
        raise error

    monkeypatch.setattr(checkpoints._manager, "save", fail)
    with pytest.raises(UserError) as told:
        checkpoints.save(arrays(1), {})
    assert os.strerror(getattr(error, "errno", None) or 28) in str(told.value)
    assert "\n" not in str(told.value)
    assert [path.name for path in checkpoints.folder.iterdir()] == ["0"]
    assert checkpoints.restore()[1] == {"n": 0}


def test_mistake_of_the_program_is_not_the_users(checkpoints):
    with pytest.raises(Exception) as told:
        checkpoints.save({"a": object()}, {})
    assert not isinstance(told.value, UserError)


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        Checkpoints(tmp_path / "file" / "c", keep=1)


def test_reader_leaves_another_runs_folder_as_it_is(checkpoints):
    checkpoints.save(arrays(0), {"n": 0})
    (checkpoints.folder / "1.orbax-checkpoint-tmp").mkdir()  # it is saving at this moment
    reader = Checkpoints(checkpoints.folder, keep=None, read_only=True)
    assert reader.read(0)[1] == {"n": 0}
    reader.close()
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == [
        "0",
        "1.orbax-checkpoint-tmp",
    ]
    absent = checkpoints.folder / "absent"
    reader = Checkpoints(absent, keep=None, read_only=True)
    with pytest.raises(UserError, match=f"{absent}/0"):
        reader.read(0)
    reader.close()
    assert not absent.exists()


def test_tree_by_path_and_back():
    tree = {"a": [jnp.arange(3), None], "b": (jnp.float32(2.5),)}
    flat = flatten(tree, "seed7")
    assert set(flat) == {"seed7['a'][0]", "seed7['b'][0]"}
    back = unflatten(tree, "seed7", flat)
    assert back["a"][1] is None
    np.testing.assert_array_equal(back["a"][0], [0, 1, 2])
    assert back["b"][0].dtype == jnp.float32


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (jnp.zeros(4), r"float32\[3\] for x, expected float32\[4\]"),
        (jnp.zeros(3, jnp.int32), r"expected int32\[3\]"),
        ({"y": jnp.zeros(3)}, r"nothing for x\['y'\]"),
    ],
)
def test_tree_of_another_form(template, words):
    with pytest.raises(UserError, match=words):
        unflatten(template, "x", {"x": np.zeros(3, np.float32)})


def test_what_counts_as_a_checkpoint(tmp_path):
    folder = tmp_path / "checkpoints"
    assert not has_checkpoints(folder)
    (folder / "damaged_3").mkdir(parents=True)
    (folder / "7.orbax-checkpoint-tmp").mkdir()
    assert not has_checkpoints(folder)
    saved = Checkpoints(folder, keep=None)
    saved.save({"a": np.zeros(2)}, {})
    saved.close()
    assert has_checkpoints(folder)
