"""Runs main.py with CIFAR-100's archive on another server: with_archive.py URL SIZE SHA256 FLAGS...

All else is as the user finds it: no flag says where the images come from.
"""

import runpy
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

if __name__ == "__main__":
    url, size, sha256 = sys.argv[1:4]
    sys.argv = [str(ROOT / "main.py"), *sys.argv[4:]]
    sys.path[0] = str(ROOT)
    from cljax.data.cifar_files import CIFAR
    from cljax.data.download import RemoteFile

    CIFAR["cifar100"] = replace(CIFAR["cifar100"], remote=RemoteFile(url, int(size), sha256))
    runpy.run_path(sys.argv[0], run_name="__main__")
