"""docs/interop.md and docs/results.md: their code reads a run's saved model and exports it."""

import re
import sys
import textwrap
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from cljax import interop
from cljax.interop.pretrained import read_pretrained
from cljax.models import make_classifier
from tests.helpers import tiny_runs
from tests.helpers.goldens import state_dict

pytestmark = pytest.mark.slow


def blocks(page, language):
    text = (tiny_runs.ROOT / "docs" / page).read_text()
    found = re.findall(rf"^ *```{language}\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(code) for code in found]


EXPORT, TO_TORCH, FROM_TORCH, FROM_TORCHVISION, WRITE = blocks("interop.md", "python")


@pytest.fixture(scope="module")
def workdir(resnet_run, tmp_path_factory):
    """The workdir of a tiny run, where the pages look for it."""
    workdir = tmp_path_factory.mktemp("user") / "runs" / "abd_digits"
    workdir.parent.mkdir()
    workdir.symlink_to(resnet_run)
    return workdir


@pytest.fixture
def exported(workdir, monkeypatch):
    """What the first block leaves: its variables, and a file."""
    monkeypatch.chdir(workdir.parents[1])
    exec(EXPORT, variables := {})
    return variables


def test_a_saved_model_becomes_a_state_dict(workdir, exported):
    assert exported["task"] == 2
    saved = tiny_runs.models(workdir, 2)
    with np.load("abd_digits.npz", allow_pickle=False) as archive:
        written = dict(archive)
    assert written["last.weight"].shape == (10, saved["seed0['params']['head']['kernel']"].shape[0])
    for ours, theirs, axes in (
        ("['params']['backbone']['conv1']['kernel']", "conv1.weight", (3, 2, 0, 1)),
        ("['params']['head']['kernel']", "last.weight", (1, 0)),
        ("['batch_stats']['backbone']['bn1']['var']", "bn1.running_var", (0,)),
    ):
        np.testing.assert_array_equal(written[theirs], saved["seed0" + ours].transpose(axes))
    back = interop.classifier_from_torch(exported["module"], written, image_channels=1)
    found = {"seed0" + jax.tree_util.keystr(p): a for p, a in jax.tree.leaves_with_path(back)}
    tiny_runs.assert_same_arrays(found, saved)


def test_for_pytorch(exported, monkeypatch):
    # PyTorch is not required, and this page needs no more of it.
    saved = {}
    torch = SimpleNamespace(
        from_numpy=lambda array: ("tensor", array),
        save=lambda content, path: saved.update({path: content}),
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    exec(TO_TORCH, {"np": np})
    (content,) = saved.values()
    assert list(saved) == ["abd_digits.pt"]
    assert content.keys() == exported["state_dict"].keys()
    for name, (kind, array) in content.items():
        assert kind == "tensor"
        np.testing.assert_array_equal(array, exported["state_dict"][name])


def test_from_the_reference_code(exported, goldens, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("original.npz", **state_dict(goldens, "M"))
    exec(FROM_TORCH, exported)
    assert exported["logits"].shape == (1, 100)
    assert np.isfinite(exported["logits"]).all() and np.ptp(exported["logits"]) > 0


def test_weights_to_start_with(exported):
    exec(WRITE, exported)
    module, channels = exported["module"], exported["channels"]
    variables, left_out = read_pretrained("abd_digits.safetensors", module, channels)
    assert not left_out
    jax.tree.map(np.testing.assert_array_equal, variables, exported["variables"])


def test_weights_of_torchvision(monkeypatch):
    # Neither PyTorch nor torchvision is required, and this page needs no more of them.
    saved = {}
    network = SimpleNamespace(state_dict=lambda: "state")
    models = SimpleNamespace(resnet18=lambda weights: {"IMAGENET1K_V1": network}[weights])
    save = SimpleNamespace(save_file=lambda content, path: saved.update({path: content}))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=models))
    monkeypatch.setitem(sys.modules, "safetensors.torch", save)
    exec(FROM_TORCHVISION, {})
    assert saved == {"resnet18.safetensors": "state"}


def test_orbax_alone_reads_a_saved_model(workdir, monkeypatch):
    (code,) = (text for text in blocks("results.md", "python") if "StandardCheckpointer" in text)
    assert "cljax" not in code
    abd = workdir.parent / "abd" / "models"
    abd.mkdir(parents=True)
    (abd / "5").symlink_to(workdir / "models" / "2")
    monkeypatch.chdir(workdir.parents[1])
    exec(code, variables := {})
    tiny_runs.assert_same_arrays(variables["arrays"], tiny_runs.models(workdir, 2))


def test_what_the_package_offers():
    networks = ("autoencoder", "classifier", "generator")
    functions = [f"{n}_{way}_torch" for n in networks for way in ("from", "to")]
    assert interop.__all__ == [*functions, "write_weights"]
    module = make_classifier("resnet8", 10, 4)
    with pytest.raises(Exception, match=r"missing: conv1\.weight"):
        interop.classifier_from_torch(module, {})
