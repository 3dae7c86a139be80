"""Files of weights: what a network takes of them, what is named, and what is refused."""

import io
import json
import struct
import zipfile

import jax
import ml_dtypes
import numpy as np
import pytest

from cljax.errors import UserError
from cljax.interop import pretrained, torch, write_weights
from cljax.interop.pretrained import read_pretrained
from cljax.models import make_classifier
from tests.helpers import tiny, tiny_runs

FORMS = ["safetensors", "npz"]


def small(classes=10, name="resnet18_imagenet", head="linear"):
    return make_classifier(name, classes, width=1, head=head)


def torch_file(path, module, seed=0, **others):
    """Writes the state dict of a network with random values, as torchvision has it."""
    state = torch.classifier_to_torch(module, tiny.variables(module, seed))
    counters = {f"layer{i}.0.bn1.num_batches_tracked": np.int64(i) for i in (1, 2)}
    write_weights(path, state | counters | others)
    return tiny.variables(module, seed)


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["resnet18_imagenet", "resnet50_imagenet", "resnet8"])
def test_a_state_dict_of_pytorch(form, name, tmp_path):
    path = tmp_path / f"weights.{form}"
    written = torch_file(path, small(name=name))
    variables, left_out = read_pretrained(path, small(name=name))
    same(variables, written)
    assert left_out == [f"layer{i}.0.bn1.num_batches_tracked" for i in (1, 2)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_variables_of_this_program(form, head, tmp_path):
    path, module = tmp_path / f"weights.{form}", small(head=head)
    written = tiny.variables(module, seed=0)
    extra = {"bias_layers": {"alpha": np.ones(3, np.float32)}}
    write_weights(path, written | {"params": written["params"] | extra})
    variables, left_out = read_pretrained(path, module)
    same(variables, written)
    assert left_out == ["params.bias_layers.alpha"]
    variables, left_out = read_pretrained(path, small(classes=9, head=head))
    assert "head" not in variables["params"]
    assert {n for n in left_out if "head" in n} == {
        f"params.head.{n}" for n in written["params"]["head"]
    }


@pytest.mark.parametrize(
    "module", [small(classes=9), small(head="cosine"), small(name="resnet18_imagenet_lucir")]
)
def test_only_a_head_that_fits_is_taken(module, tmp_path):
    path = tmp_path / "weights.safetensors"
    written = torch_file(path, small())
    variables, left_out = read_pretrained(path, module)
    same(variables["params"]["backbone"], written["params"]["backbone"])
    same(variables["batch_stats"], written["batch_stats"])
    fits = isinstance(module.head, type(small().head)) and module.num_classes == 10
    assert ("head" in variables["params"]) == fits
    assert {n for n in left_out if "bn" not in n} == (set() if fits else {"fc.weight", "fc.bias"})


def test_the_stem_of_libcontinual(tmp_path):
    module, path = small(name="resnet18"), tmp_path / "weights.npz"
    written = tiny.variables(module, seed=0)
    theirs = {}
    for name, array in torch.classifier_to_torch(module, written).items():
        stem = name.startswith(("conv1.", "bn1."))
        theirs[name.replace("conv1.", "conv1.0.").replace("bn1.", "conv1.1.") if stem else name] = (
            array
        )
    assert "conv1.1.running_mean" in theirs
    write_weights(path, theirs)
    same(read_pretrained(path, module).variables, written)
    same(torch.classifier_from_torch(module, theirs), written)


def test_other_floats_become_float32(tmp_path):
    module = small()
    state = torch.classifier_to_torch(module, tiny.variables(module, seed=0))
    for kind in (np.float64, np.float16, ml_dtypes.bfloat16):
        path = tmp_path / "weights.safetensors"
        narrow = {name: array.astype(kind) for name, array in state.items()}
        write_safetensors(path, narrow)
        variables, _ = read_pretrained(path, module)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
        wanted = {name: array.astype(np.float32) for name, array in narrow.items()}
        same(variables, torch.classifier_from_torch(module, wanted))


def write_safetensors(path, arrays, header=None):
    """The format by its specification, for types that are not NumPy's own, and wrong headers."""
    kinds = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    entries, data = {}, b""
    for name, array in arrays.items():
        stop = len(data) + array.nbytes
        kind, shape = kinds[array.dtype.name], list(array.shape)
        entries[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), stop]}
        data += array.tobytes()
    text = json.dumps(header or entries).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("resnet34_imagenet", "surplus: layer1.2.conv1.weight, .* more"),
        ("resnet50_imagenet", "surplus: .*misshapen"),
        ("resnet18", r"misshapen: conv1.weight \[4, 3, 3, 3\] instead of \[4, 3, 7, 7\]"),
        ("resnet8_lucir", "missing: .*layer1.1.*; misshapen: "),
    ],
)
def test_weights_of_another_network(other, words, tmp_path):
    path = tmp_path / "weights.npz"
    torch_file(path, small(name=other))
    with pytest.raises(UserError, match=f"^{path}: file and network differ; .*{words}"):
        read_pretrained(path, small())


def test_other_image_channels(tmp_path):
    path = tmp_path / "weights.npz"
    torch_file(path, small())
    with pytest.raises(UserError, match=r"conv1.weight \[4, 3, 7, 7\] instead of \[4, 1, 7, 7\]"):
        read_pretrained(path, small(), image_channels=1)


def npz(path, content, name="conv1.weight.npy"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)


def header_of(shape, descr="<f4"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


HUGE = {"conv1.weight": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("a.pth", lambda p: p.touch(), r"must end with .safetensors or .npz; pickles"),
        ("a.npz", lambda p: None, "cannot read it: No such file"),
        ("a.npz", lambda p: p.mkdir(), "cannot read it: "),
        ("a.npz", lambda p: p.write_bytes(b"no"), "not a .npz file of plain arrays: "),
        ("a.safetensors", lambda p: p.write_bytes(b""), "not a .safetensors file of plain arrays"),
        ("a.safetensors", lambda p: p.write_bytes(b"\xff" * 99), "not a .safetensors file"),
        ("a.safetensors", lambda p: write_safetensors(p, {}, HUGE), "not a .safetensors file"),
        (
            "a.npz",
            lambda p: npz(p, header_of((2**40,))),
            r"misshapen: conv1.weight \[1099511627776",
        ),
        ("a.npz", lambda p: npz(p, header_of((4, 3, 7, 7), "|O")), "it holds objects"),
        ("a.npz", lambda p: npz(p, b"cos\nsystem\n(S'true'\ntR."), "not a .npz file of plain"),
        ("a.npz", lambda p: npz(p, b"text", "readme.txt"), "not a .npz file of plain"),
    ],
)
def test_files_that_are_not_read(name, write, words, tmp_path):
    write(tmp_path / name)
    with pytest.raises(UserError, match=words) as error:
        read_pretrained(tmp_path / name, small())
    assert str(error.value).startswith(str(tmp_path / name)) and "\n" not in str(error.value)


def test_a_header_that_claims_more_than_the_file_has(tmp_path):
    module, path = small(), tmp_path / "weights.npz"
    torch_file(path, module)
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents["conv1.weight.npy"] = contents["conv1.weight.npy"][:-1]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match="it has 2351 of the 2352 bytes of float32"):
        read_pretrained(path, module)


@pytest.mark.parametrize(
    ("value", "words"),
    [(np.nan, "file: bn1.bias holds NaN or infinity"), (1e300, "file: bn1.bias holds NaN")],
)
def test_values_that_are_not_finite_in_float32(value, words, tmp_path):
    path = tmp_path / "weights.npz"
    torch_file(path, small(), **{"bn1.bias": np.full(4, value)})
    with pytest.raises(UserError, match=words):
        read_pretrained(path, small())


def test_a_type_that_is_not_read(tmp_path):
    path = tmp_path / "weights.safetensors"
    entry = {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}
    module = small()
    state = torch.classifier_to_torch(module, tiny.variables(module, seed=0))
    del state["bn1.bias"]
    write_safetensors(path, state)
    size = struct.unpack("<Q", path.read_bytes()[:8])[0]
    header, data = json.loads(path.read_bytes()[8 : 8 + size]), path.read_bytes()[8 + size :]
    entry["data_offsets"] = [len(data), len(data) + 4]
    text = json.dumps(header | {"bn1.bias": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data + b"abcd")
    with pytest.raises(UserError, match=r"bn1\.bias is F8_E4M3, which is not read"):
        read_pretrained(path, module)


def test_no_other_ending_is_written(tmp_path):
    with pytest.raises(UserError, match="must end with"):
        write_weights(tmp_path / "weights.pt", {})
    assert not list(tmp_path.iterdir())


def settings(path, **others):
    return tiny_runs.make_config(
        "base",
        seeds=(0, 1),
        max_tasks=1,
        epochs=1,
        milestones=(),
        model__name="resnet8",
        model__pretrained=str(path),
        **others,
    )


@pytest.mark.slow
def test_a_run_starts_with_the_weights_and_resumes_without_the_file(
    fast_runs, tmp_path, monkeypatch
):
    path = tmp_path / "weights.npz"
    module = make_classifier("resnet8", 7, width=4)
    variables = tiny.variables(module, seed=0)
    kernel = variables["params"]["backbone"]["conv1"]["kernel"]
    variables["params"]["backbone"]["conv1"]["kernel"] = kernel[:, :, :1]
    write_weights(path, variables)
    seen, start = [], pretrained.start_from

    def started(*args):
        seen.extend(start(*args))
        return list(seen)

    monkeypatch.setattr(pretrained, "start_from", started)
    # So small a rate changes no weight, so that the model after the task shows the start.
    run = tmp_path / "run"
    shown = tiny_runs.run(settings(path, optimizer__lr=1e-30), run)
    words = "took the weights of the backbone; not taken: params.head"
    assert words in (run / "log.txt").read_text() and words in shown
    saved = tiny_runs.models(run)
    for seed in (0, 1):
        prefix = f"seed{seed}['params']"
        found = saved[f"{prefix}['backbone']['stage1_block0']['conv1']['kernel']"]
        want = variables["params"]["backbone"]["stage1_block0"]["conv1"]["kernel"]
        np.testing.assert_array_equal(found, want)
    heads = [saved[f"seed{seed}['params']['head']['kernel']"] for seed in (0, 1)]
    assert (heads[0] != heads[1]).any()
    path.unlink()
    del seen[:]
    tiny_runs.run(settings(path, optimizer__lr=1e-30), run)
    assert not seen
    with pytest.raises(UserError, match=f"config.model.pretrained={path}: cannot read it: No such"):
        tiny_runs.run(settings(path), tmp_path / "other")
    assert not (tmp_path / "other").exists()
