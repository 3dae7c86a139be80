"""The compact golden set: the full set's numbers, of every method, in a few megabytes."""

import zipfile

import numpy as np
import pytest

from cljax.methods import METHODS
from tests.goldens.make_compact import NAMES, select
from tests.helpers import compact
from tests.helpers.goldens import COMPACT, FULL, GOLDENS

SIZE = 8_000_000
FULL_SETS = [path for path in (GOLDENS, FULL) if all((path / name).is_dir() for name in NAMES)][:1]
# Kinds of golden files under another name than the method's.
METHOD_OF = {
    "update_deepinv": "deep_inversion",
    "update_deepinv_lwf": "deep_inversion_lwf",
    "update_ete": "e2e",
    "lucir_update_incremental": "lucir",
}
# The reference codes train no update of these: `oracle` is `base` on all images, and LibContinual
# has the three others in forms of its own. R-DFCIL's random states alone are 3.6 MB, and no draw
# predicts them, so its updates are in the full set only.
NO_UPDATE = {"oracle", "icarl", "wa", "ewc", "rdfcil"}


@pytest.fixture(scope="module")
def archives():
    """Files and texts by name of the archive."""
    return {name: compact.read(COMPACT / f"{name}.zip") for name in NAMES}


def methods_with_an_update(archives):
    """Methods with the tensors after a step in a file."""
    found = set()
    for name, (files, _) in archives.items():
        for file, arrays in files.items():
            if any("after" in array for array in arrays):
                prefix, kind = {"dfcil": ("update_", ""), "lucir": ("lib_", "libcontinual_")}[name]
                found.add(METHOD_OF.get(file, kind + file.removeprefix(prefix)))
    return found


def test_every_method_has_an_update(archives):
    assert set(METHODS) - methods_with_an_update(archives) == NO_UPDATE


@pytest.mark.parametrize("file", ["update_dgr", "lucir_update_incremental", "lib_ewc"])
def test_a_missing_update_is_found(archives, file):
    fewer = {
        name: ({f: arrays for f, arrays in files.items() if f != file}, texts)
        for name, (files, texts) in archives.items()
    }
    assert len(set(METHODS) - methods_with_an_update(fewer)) == len(NO_UPDATE) + 1


def test_size():
    files = [path for path in COMPACT.iterdir() if path.is_file()]
    assert {path.name for path in files} == {f"{name}.zip" for name in NAMES}
    assert sum(path.stat().st_size for path in files) <= SIZE


def compare(found, want):
    """Names, dtypes, shapes and bits."""
    assert [*found] == [*want]
    for name, values in want.items():
        assert (found[name].dtype, found[name].shape) == (values.dtype, values.shape), name
        assert found[name].tobytes() == values.tobytes(), name


if FULL_SETS:  # a checkout alone has nothing to compare with, and skips nothing

    @pytest.mark.parametrize("name", NAMES)
    def test_arrays_are_those_of_the_full_set(archives, name):
        """Bit for bit; only large float64 arrays are left out."""
        files, texts = archives[name]
        want, want_texts = select(FULL_SETS[0] / name)
        assert texts == want_texts
        assert [*files] == [*want]
        for file, arrays in want.items():
            compare(files[file], arrays)
        stems = {path.stem for path in (FULL_SETS[0] / name).glob("*.npz")}
        assert {*files} - {"herding_order"} == stems - {"herding_order"}


def special_values(dtype):
    """Every kind of float, in positions that a prediction of zero does not favor."""
    info = np.finfo(dtype)
    values = [0, 1, info.tiny, info.smallest_subnormal, info.max, info.eps, np.inf, np.nan, 1 / 3]
    return np.array([*values, *(-value for value in values)], dtype)


@pytest.fixture
def written(tmp_path):
    """An archive of arrays of all dtypes, and the arrays."""
    states = {
        "M/weight": special_values("f4"),
        "T/weight": special_values("f4")[::-1],
        "wide": special_values("f8").reshape(2, 9),
        "labels": np.arange(-3, 3),
        "pixels": np.arange(256, dtype=np.uint8),
        "order": np.arange(300, dtype=np.int16),
        "names": np.array(["bn1.weight", "é"]),
        "scalar": np.array(2.5, np.float32),
    }
    path = tmp_path / "dfcil.zip"
    compact.write(path, {"states": states}, {"README.md": b"text"})
    return path, states


def test_an_archive_returns_what_was_written(written):
    path, states = written
    files, texts = compact.read(path)
    assert texts == {"README.md": b"text"}
    assert [*files] == ["states"]
    compare(files["states"], states)


def test_files_of_an_archive(written, tmp_path):
    path, states = written
    compact.expand(path, tmp_path / "dfcil")
    assert {path.name for path in (tmp_path / "dfcil").iterdir()} == {"states.npz", "README.md"}
    assert (tmp_path / "dfcil" / "README.md").read_bytes() == b"text"
    with np.load(tmp_path / "dfcil" / "states.npz", allow_pickle=False) as archive:
        compare(dict(archive), states)


def test_the_same_arrays_give_the_same_archive(written, tmp_path):
    path, states = written
    (tmp_path / "again").mkdir()
    again = tmp_path / "again" / "dfcil.zip"
    compact.write(again, {"states": states}, {"README.md": b"text"})
    assert again.read_bytes() == path.read_bytes()


def test_another_number_is_refused(written, tmp_path):
    path, _ = written
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["4.0"] = bytes([members["4.0"][0] ^ 1]) + members["4.0"][1:]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match="states/M/weight differs"):
        compact.read(path)
