"""python -m cljax.export: what it writes gives the run's logits where there is no cljax."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import flatbuffers
import jax
import jaxlib
import numpy as np
import pytest
import safetensors.numpy
from jax import export as jax_export

import cljax
from cljax.errors import UserError
from cljax.export import __main__ as export
from cljax.interop import classifier_to_torch, generator_to_torch
from cljax.saved.models import read_learned
from cljax.saved.runs import open_run
from tests.helpers import pth, saved, tiny_runs

# Python without site-packages, and so without cljax; JAX is found by the names of its folders.
ISOLATED = """
import runpy, sys
sys.path += sys.argv[1].split(":")
sys.modules["cljax"] = None  # it would be found where the tests' environment has it as a package
sys.argv = sys.argv[2:]
try:
    import cljax
except ImportError:
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
TOLERANCE = 1e-5


def run_isolated(*argv) -> str:
    modules = (jax, jaxlib, flatbuffers, np)
    path = ":".join({str(Path(module.__file__).parents[1]) for module in modules})
    command = [sys.executable, "-I", "-S", "-c", ISOLATED, path, *map(str, argv)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def exported(resnet_run, tmp_path_factory):
    """The export of the first task's classifier."""
    out = tmp_path_factory.mktemp("export") / "abd"
    saved.call(export, resnet_run, "--task=1", f"--out={out}")
    return out


@pytest.fixture(scope="module")
def images():
    return saved.digits().test_images[:33]


def test_the_script_in_an_environment_without_cljax(resnet_run, exported, images, tmp_path):
    np.save(tmp_path / "images.npy", images)
    printed = run_isolated(exported / "run.py", tmp_path / "images.npy", tmp_path / "logits.npy")
    model = cljax.load(resnet_run, 1)
    found = np.load(tmp_path / "logits.npy")
    np.testing.assert_allclose(found, model.logits(images), rtol=0, atol=TOLERANCE)
    assert printed.split() == model.predict(images)
    script = (exported / "run.py").read_text()
    assert "cljax" not in script and len(script.splitlines()) < 25


def test_the_program_takes_any_batch(resnet_run, exported, images):
    program = jax_export.deserialize(bytearray((exported / "forward.stablehlo").read_bytes()))
    weights = safetensors.numpy.load_file(exported / "model.safetensors")
    model = cljax.load(resnet_run, 1)
    for count in (1, 2, 33):
        logits, features = program.call(weights, images[:count])
        np.testing.assert_allclose(logits, model.logits(images[:count]), atol=TOLERANCE)
        np.testing.assert_allclose(features, model.features(images[:count]), atol=TOLERANCE)
    assert set(program.platforms) == {"cpu", "cuda", "rocm", "tpu"}


def test_the_weights_are_those_of_the_run(resnet_run, exported):
    weights = safetensors.numpy.load_file(exported / "model.safetensors")
    arrays = tiny_runs.models(resnet_run, 1)
    for name, array in weights.items():
        path = "".join(f"['{part}']" for part in name.split("."))
        np.testing.assert_array_equal(array, arrays[f"seed0{path}"])
    assert not any("generator" in name for name in weights)


def test_what_the_numbers_mean(resnet_run, exported):
    content = json.loads((exported / "config.json").read_text())
    results, dataset = tiny_runs.results(resnet_run), saved.digits()
    assert content["classes"] == results["class_names"][0][:2]
    assert content["network"]["name"] == "resnet8" and content["network"]["width"] == 4
    assert content["preprocessing"]["mean"] == pytest.approx(dataset.mean)
    assert content["preprocessing"]["image_shape"] == [8, 8, 1]
    provenance = content["provenance"]
    assert provenance["seen_accuracy"] == results["seen_accuracy"][0][0]
    assert provenance["config"] == json.loads((resnet_run / "config.json").read_text())
    versions = json.loads((resnet_run / "results.json").read_text())["versions"]
    assert provenance["versions"] == versions  # the commit included


def test_an_export_is_loaded_as_a_run_is(resnet_run, exported, images):
    model, own = cljax.load(exported), cljax.load(resnet_run, 1)
    assert (model.classes, model.class_ids) == (own.classes, own.class_ids)
    np.testing.assert_allclose(model.logits(images), own.logits(images), atol=TOLERANCE)
    assert model.predict(images) == own.predict(images)
    with pytest.raises(UserError, match="an export has one model"):
        cljax.load(exported, task=1)


@pytest.mark.slow
def test_logits_that_a_method_changes(fast_runs, images, tmp_path):
    """BiC corrects them; its layers are whole numbers."""
    config = tiny_runs.make_config("bic", method__correct_at_test=True)
    tiny_runs.run(config, tmp_path / "run")
    saved.call(export, tmp_path / "run", f"--out={tmp_path / 'out'}")
    own = cljax.load(tmp_path / "run")
    np.testing.assert_allclose(
        cljax.load(tmp_path / "out").logits(images), own.logits(images), atol=TOLERANCE
    )
    np.save(tmp_path / "images.npy", images)
    arguments = tmp_path / "images.npy", tmp_path / "logits.npy"
    run_isolated(tmp_path / "out" / "run.py", *arguments)
    np.testing.assert_allclose(np.load(arguments[1]), own.logits(images), atol=TOLERANCE)


def test_for_pytorch(resnet_run, tmp_path):
    """Names and numbers; docs/interop.md says where the reference code puts the files."""
    saved.call(export, resnet_run, "--task=1", "--format=pytorch", f"--out={tmp_path / 'out'}")
    learned = read_learned(open_run(resnet_run), 1)
    state = learned.state
    generator = learned.method.inversion_stage.inversion.generator
    found = {"params": state.generator.params, "batch_stats": state.generator.batch_stats}
    tiny_runs.assert_same_arrays(
        pth.read(tmp_path / "out" / "generator.pth"), generator_to_torch(generator, found)
    )
    tiny_runs.assert_same_arrays(
        pth.read(tmp_path / "out" / "class.pth"),
        classifier_to_torch(learned.method.classifier, state.variables, 1),
    )


def test_a_task_without_a_generator(resnet_run, tmp_path):
    saved.call(export, resnet_run, "--format=pytorch", f"--out={tmp_path}")
    assert {path.name for path in tmp_path.iterdir()} == {"class.pth", "config.json"}


def test_a_directory_that_is_not_empty(resnet_run, tmp_path, capsys):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(SystemExit):
        saved.call(export, resnet_run, f"--out={tmp_path}")
    assert capsys.readouterr().err == (
        f"error: --out={tmp_path}: is not an empty directory; use a new one\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def cut(name):
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def strange_program(folder):
    """Calls a function of the machine by its name, as a program from elsewhere might."""

    def forward(weights, images):
        found = jax.ffi.ffi_call("strange", jax.ShapeDtypeStruct((1, 2), np.float32))()
        return found, found

    weights = safetensors.numpy.load_file(folder / "model.safetensors")
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), weights)
    checks = [jax_export.DisabledSafetyCheck.custom_call("strange")]
    images = jax.ShapeDtypeStruct((1, 8, 8, 1), "uint8")
    made = jax_export.export(jax.jit(forward), disabled_checks=checks)(like, images)
    (folder / "forward.stablehlo").write_bytes(made.serialize())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (cut("config.json"), "config.json: not valid JSON"),
        (saved.odd("config.json", classes=[]), "config.json: damaged.*classes"),
        (saved.odd("config.json", format="cljax export 9"), "config.json: damaged.*format"),
        (saved.odd("config.json", class_ids=[1]), "different lengths"),
        (saved.odd("config.json", classes=["a"], class_ids=[1]), "forward.stablehlo: not the prog"),
        (cut("model.safetensors"), "model.safetensors: not a .safetensors file"),
        (cut("forward.stablehlo"), "forward.stablehlo: damaged"),
        (saved.write("forward.stablehlo", ""), "forward.stablehlo: damaged"),
        (saved.write("forward.stablehlo", "x" * 9999), "forward.stablehlo: damaged"),
        (saved.remove("forward.stablehlo"), "has no forward.stablehlo"),
        (saved.remove("model.safetensors"), "model.safetensors: cannot read it"),
        (saved.pipe("forward.stablehlo"), "forward.stablehlo: .*not a plain file"),
        (strange_program, "forward.stablehlo: not a program of cljax: it calls strange"),
    ],
)
def test_an_export_that_is_damaged(exported, tmp_path, change, words):
    shutil.copytree(exported, tmp_path / "out")
    change(tmp_path / "out")
    with pytest.raises(UserError, match=words) as error:
        cljax.load(tmp_path / "out")
    assert "\n" not in str(error.value)
