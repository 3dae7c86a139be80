"""examples/using_a_model.ipynb and docs/using_a_model.md: their code runs as it is."""

import json
import os
import re
import shlex

import matplotlib
import numpy as np
import pytest
from PIL import Image

from cljax import dream, predict
from cljax.evaluate import __main__ as evaluate
from cljax.export import __main__ as export
from tests.helpers import saved, tiny_runs

COMMANDS = {
    "cljax.predict": predict,
    "cljax.evaluate": evaluate,
    "cljax.dream": dream,
    "cljax.export": export,
}


@pytest.fixture
def user(resnet_run, tmp_path, monkeypatch):
    """The directory of a user who has run `python main.py`."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "abd_digits").symlink_to(resnet_run)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tiny_runs.ROOT), prepend=os.pathsep)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    return tmp_path


@pytest.mark.slow
def test_the_notebook(user, capfd):
    matplotlib.use("agg")
    content = json.loads((tiny_runs.ROOT / "examples" / "using_a_model.ipynb").read_text())
    assert all(not cell.get("outputs") for cell in content["cells"])
    variables = {}
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), variables)
    classes = tiny_runs.results(user / "runs" / "abd_digits")["class_names"][0]
    assert variables["first"].classes == tuple(classes[:2])
    last = capfd.readouterr().out.splitlines()[-1]
    predictions = variables["last"].predict(variables["images"][:5])
    assert last == str(predictions)
    assert len(variables["dreams"].images) == 16


@pytest.mark.slow
def test_the_page(user, capsys):
    text = (tiny_runs.ROOT / "docs" / "using_a_model.md").read_text()
    (python,) = re.findall("```python\n(.*?)```", text, re.DOTALL)
    images = saved.digits().test_images[:2]
    exec(python.replace("task=3", "task=2"), {"images": images})
    found = set()
    (user / "pictures").mkdir()
    for name in ("photo.jpg", "pictures/one.png"):
        Image.fromarray(np.zeros((30, 20, 3), np.uint8)).save(user / name)
    for line in re.findall("^python -m (.*)$", text, re.MULTILINE):
        name, *flags = shlex.split(line.replace("--task=4", "--task=1"))
        saved.call(COMMANDS[name], *flags, *(["--out=scores"] if name.endswith("evaluate") else []))
        found.add(name)
    assert found == COMMANDS.keys()
    for name in ("exported/run.py", "task-1/generator.pth", "dreams.png", "scores/evaluation.json"):
        assert (user / name).is_file(), name
    assert "photo.jpg: " in capsys.readouterr().out


@pytest.mark.parametrize("page", ["README.md", "docs/using_a_model.md"])
def test_every_command_is_named(page):
    text = (tiny_runs.ROOT / page).read_text()
    for name in COMMANDS:
        assert f"python -m {name} " in text
