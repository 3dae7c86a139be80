"""Makes the compact golden set from the full one: `python -m tests.goldens.make_compact FULL`.

FULL: the directory with `dfcil/` and `lucir/`. Writes `dfcil.zip` and `lucir.zip` into
`tests/goldens/compact/`; the README beside this file says what they hold.
"""

import sys
from pathlib import Path

import numpy as np

from tests.helpers import compact
from tests.helpers.golden_predictions import herding_draws
from tests.helpers.goldens import COMPACT

NAMES = ("dfcil", "lucir")
# Larger arrays of float64.npz are left out, except those of a case of several steps, where the
# reference code's own float32 run is not close enough to be a reference for every tensor.
LARGEST_FLOAT64 = 7000
ALL_FLOAT64 = "update_abd_chain/"
# Others are predicted from these.
_FIRST_FILES = ("states", "herding_order", "lucir_resnet32")
_FIRST_ARRAYS = ("M/", "state.", "grad_", "features_train", "after_step1.")


def select(folder: Path) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, bytes]]:
    """Reads what the compact set holds of `dfcil/` or `lucir/`.

    Args:
      folder: one of the two directories of the full set.

    Returns:
      Arrays by file and name in the order of storage, and contents of text files by name.
    """
    files = {}
    for path in folder.glob("*.npz"):
        with np.load(path, allow_pickle=False) as archive:
            files[path.stem] = dict(archive)
    if "float64" in files:
        files["float64"] = {
            name: array
            for name, array in files["float64"].items()
            if array.size <= LARGEST_FLOAT64 or name.startswith(ALL_FLOAT64)
        }
    if "lucir_herding_and_means" in files:
        features = files["lucir_herding_and_means"]["features_train"]
        files["herding_order"] = {"order": herding_order(features)}
    texts = [path for path in folder.iterdir() if path.suffix in (".json", ".md")]
    return _sorted(files), {path.name: path.read_bytes() for path in sorted(texts)}


def herding_order(features: np.ndarray) -> np.ndarray:
    """Finds the draw behind each sample: features [6, 500, 64] -> int16 [6, 500]."""
    draws = herding_draws()[0].astype(np.float32)
    distances = np.abs(features[:, :, None, :4] - draws[:, None, :, :4]).sum(-1)
    return distances.argmin(-1).astype(np.int16)


def _sorted(files):
    """Files and arrays by name, those first from which others are predicted."""
    ordered = {}
    for file in sorted(files, key=lambda file: (file == "float64", *_rank(file, _FIRST_FILES))):
        names = sorted(files[file], key=lambda name: _rank(name, _FIRST_ARRAYS))
        ordered[file] = {name: files[file][name] for name in names}
    return ordered


def _rank(name, prefixes):
    ranks = [rank for rank, prefix in enumerate(prefixes) if name.startswith(prefix)]
    return (*ranks, len(prefixes))[0], name


def main(full: Path) -> None:
    """Writes both archives and prints their sizes."""
    COMPACT.mkdir(exist_ok=True)
    for name in NAMES:
        path = COMPACT / f"{name}.zip"
        compact.write(path, *select(full / name))
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
