"""Every command that uses a saved model answers a wrong workdir in one line."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from cljax import dream, predict
from cljax.evaluate import __main__ as evaluate
from cljax.export import __main__ as export
from tests.helpers import saved


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "zero.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    return path


def commands(out, image):
    return {
        "predict": (predict, [image]),
        "evaluate": (evaluate, [f"--out={out}"]),
        "dream": (dream, [f"--out={out / 'dreams.png'}"]),
        "export": (export, [f"--out={out}"]),
    }


@pytest.mark.parametrize("wrong", saved.WRONG)
@pytest.mark.parametrize("name", ["predict", "evaluate", "dream", "export"])
def test_one_line(reference, image, tmp_path, capsys, name, wrong):
    change, flags, words = saved.WRONG[wrong]
    workdir = tmp_path / "run"
    shutil.copytree(reference, workdir)
    if change:
        change(workdir)
    module, arguments = commands(tmp_path / "out", image)[name]
    with pytest.raises(SystemExit) as ended:
        saved.call(module, workdir, *arguments, *flags)
    assert ended.value.code == 1
    *before, line = capsys.readouterr().err.splitlines()
    assert not before and line.startswith("error: ") and re.search(words, line), line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["predict", "dream", "export"])
def test_a_seed_that_is_not_there(reference, image, tmp_path, capsys, name):
    module, arguments = commands(tmp_path / "out", image)[name]
    with pytest.raises(SystemExit):
        saved.call(module, reference, *arguments, "--seed=7")
    assert capsys.readouterr().err == f"error: seed 7: {reference} has seeds 0\n"
