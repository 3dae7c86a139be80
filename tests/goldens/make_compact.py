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
# Arrays of other files are predicted from these.
_FIRST = ("states", "herding_order", "lucir_resnet32")


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
    files = {file: files[file] for file in sorted(files, key=_rank)}
    return files, {path.name: path.read_bytes() for path in sorted(texts)}


def herding_order(features: np.ndarray) -> np.ndarray:
    """Finds the draw behind each sample: features [6, 500, 64] -> int16 [6, 500]."""
    draws = herding_draws()[0].astype(np.float32)
    distances = np.abs(features[:, :, None, :4] - draws[:, None, :, :4]).sum(-1)
    return distances.argmin(-1).astype(np.int16)


def _rank(file):
    """Sorts files by name, after those from which they are predicted."""
    return file == "float64", file not in _FIRST, file


def main(full: Path) -> None:
    """Writes both archives and prints their sizes."""
    COMPACT.mkdir(exist_ok=True)
    for name in NAMES:
        path = COMPACT / f"{name}.zip"
        compact.write(path, *select(full / name))
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
