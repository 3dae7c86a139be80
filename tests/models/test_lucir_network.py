"""LUCIR's network and head: the original's numbers, and the head's own rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from cljax import inversion
from cljax.errors import UserError
from cljax.interop import torch
from cljax.losses import unit_vectors
from cljax.models import CosineHead, imprint, make_classifier
from tests.helpers import lucir, tiny
from tests.helpers.goldens import PRECISIONS, channels_first, optimized_jit
from tests.helpers.lucir import OLD, SEEN

precisions = pytest.mark.parametrize("precision", PRECISIONS)


def cosine_classifier(dtype=jnp.float32):
    return make_classifier("resnet8_lucir", 10, width=4, dtype=dtype, head="cosine")


@pytest.mark.slow
@precisions
def test_resnet32(lucir_goldens, precision):
    expected = lucir.Expected(lucir_goldens, "lucir_resnet32", precision)
    module, variables = lucir.network(lucir_goldens, precision, "lucir_resnet32")
    outputs, maps, trained, statistics = lucir.passes(module, variables, expected["x"], precision)
    logits, features, scores = map(np.asarray, outputs)
    expected.close("eval.features", features)
    expected.close("eval.scores_before_scale", scores[:, :OLD])
    expected.close("eval.logits", logits[:, :OLD])
    expected.close("split.eval_logits", logits[:, :SEEN])
    expected.close("split.eval_old_scores_before_scale", scores[:, :OLD])
    expected.close("split.eval_new_scores_before_scale", scores[:, OLD:SEEN])
    logits, features, _ = map(np.asarray, trained)
    expected.close("train.features", features)
    expected.close("train.logits", logits[:, :OLD])
    expected.close("split.train_logits", logits[:, :SEEN])
    maps["bn1"] = np.maximum(maps["bn1"], 0)
    for name, place in lucir.MAPS.items():
        name, found = f"eval.{place}_first_image", channels_first(maps[name])[:1]
        expected.close(name, found, of=np.abs(found).max())
    after = lucir.tensors(module, variables | {"batch_stats": statistics}, precision)
    for name in ("bn1", "layer2.0.downsample.1", "layer3.4.bn2"):
        for kind in ("mean", "var"):
            expected.close(f"train.{name}.running_{kind}_after", after[f"{name}.running_{kind}"])
    unmodified = lucir.baseline(lucir_goldens, precision)
    outputs = lucir.passes(*unmodified, expected["x"], precision)[0]
    expected.close("eval.features_if_the_last_relu_were_kept", outputs.features)
    expected.all_compared("x", "split.fc2_weight")


def test_evaluation(lucir_goldens):
    """Float32 features; predictions of the head and of two sets of class means."""
    expected = lucir.Expected(lucir_goldens, "lucir_evaluation", "float32")
    module, variables = lucir.network(lucir_goldens, "float32")
    padded = np.concatenate([expected["x"], expected["x"][:8]]).reshape(3, 16, 3, 32, 32)
    parts = [lucir.passes(module, variables, images, "float32")[0] for images in padded]
    logits, features, _ = (np.concatenate(part)[:40] for part in zip(*parts, strict=True))
    expected.close("features", features)
    cosines = np.einsum("bd,kdm->mbk", unit_vectors(features), expected["class_means"])
    nme, ncm = cosines.argmax(-1)
    np.testing.assert_array_equal(nme, expected["nme_predictions"])
    np.testing.assert_array_equal(ncm, expected["ncm_predictions"])
    predictions = logits[:, :OLD].argmax(-1), nme, ncm
    accuracies = [100 * np.mean(found == expected["y"]) for found in predictions]
    np.testing.assert_allclose(accuracies, expected["accuracy_cnn_nme_ncm"], rtol=1e-6)


@pytest.mark.parametrize("phase", [1, 2])
def test_imprinting(lucir_goldens, phase):
    expected = lucir_goldens("lucir_imprinting")
    images = lucir_goldens("lucir_herding_and_means")
    labels = expected[f"phase{phase}.imprinted_classes"]
    found = images["features_train"][labels] * images["phase_scale"][phase - 1]
    old_rows = expected[f"phase{phase}.fc1_weight"]
    old = len(old_rows)
    # Room for a third class and for more images of each.
    random = np.random.default_rng(0)
    features = random.normal(size=(3, 510, 64)).astype(np.float32)
    features[:2, :500] = found
    before = random.normal(size=(64, 6)).astype(np.float32)
    before[:, :old] = old_rows.T
    after = jax.jit(imprint)(before, features, jnp.array([500, 500, 0]), jnp.int32(old))
    want = before.copy()
    want[:, old : old + 2] = expected[f"phase{phase}.fc2_weight"].T
    np.testing.assert_allclose(after, want, atol=1e-6)
    np.testing.assert_array_equal(after[:, :old], before[:, :old])
    np.testing.assert_array_equal(after[:, old + 2 :], before[:, old + 2 :])
    lengths = np.linalg.norm(after[:, old : old + 2], axis=0)
    np.testing.assert_allclose(lengths, expected[f"phase{phase}.average_old_norm"][[0, 0]], 1e-6)


def test_imprinting_of_classes_of_unequal_sizes_under_vmap():
    random = np.random.default_rng(1)
    kernels = random.normal(size=(2, 5, 8)).astype(np.float32)
    features = random.normal(size=(2, 3, 4, 5)).astype(np.float32)
    counts, old = np.array([[4, 1, 0], [2, 3, 4]]), np.array([3, 5])
    found = jax.vmap(imprint)(kernels, features, counts, old)
    for i in range(2):
        want = kernels[i].copy()
        length = np.linalg.norm(kernels[i][:, : old[i]], axis=0).mean()
        for c, n in enumerate(counts[i]):
            if n:
                x = features[i, c, :n]
                mean = (x / np.linalg.norm(x, axis=1, keepdims=True)).mean(0)
                want[:, old[i] + c] = length * mean / np.linalg.norm(mean)
        np.testing.assert_allclose(found[i], want, rtol=1e-5, atol=1e-6)


@precisions
def test_round_trip_of_the_original_state(lucir_goldens, precision):
    stored = lucir_goldens("lucir_resnet32")
    state = {k[6:]: v.astype(precision) for k, v in stored.items() if k.startswith("state.")}
    module = make_classifier("resnet32_lucir", 50, head="cosine")
    returned = torch.classifier_to_torch(module, torch.classifier_from_torch(module, state))
    assert list(returned) == [name for name in state if "num_batches" not in name]
    for name, tensor in returned.items():
        assert tensor.dtype == precision
        np.testing.assert_array_equal(tensor, state[name])


def test_a_split_head_is_read_as_one(lucir_goldens):
    stored = lucir_goldens("lucir_resnet32")
    params = lucir.network(lucir_goldens, "float32", "lucir_resnet32")[1]["params"]
    kernel = params["head"]["kernel"]
    np.testing.assert_array_equal(kernel[:, :OLD], stored["state.fc.weight"].T)
    np.testing.assert_array_equal(kernel[:, OLD:SEEN], stored["split.fc2_weight"].T)
    assert params["head"]["scale"].shape == ()


@pytest.mark.parametrize("kind", ["resnet8_projection", "resnet8_lucir"])
@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_round_trip_of_our_variables(kind, head):
    module = make_classifier(kind, 10, width=4, head=head)
    variables = tiny.variables(module, seed=0)
    returned = torch.classifier_from_torch(module, torch.classifier_to_torch(module, variables))
    jax.tree.map(np.testing.assert_array_equal, returned, variables)


def test_parameter_count_without_head():
    module = make_classifier("resnet32_lucir", 100, head="cosine")
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["backbone"])) == 466_256
    assert {k: v.shape for k, v in shapes["head"].items()} == {"kernel": (64, 100), "scale": ()}


def test_initial_values():
    """Convolutions: variance 2/fan_out; both heads: uniform within 1/sqrt(D); scale 1."""
    module = make_classifier("resnet8_lucir", 100, head="cosine")
    init = jax.jit(module.init)
    params = init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    found = jax.tree_util.tree_leaves_with_path(params["backbone"])
    kernels = [leaf for path, leaf in found if path[-1].key == "kernel"]
    assert len(kernels) == 1 + 3 * 2 + 2
    for kernel in kernels:
        fan_out = kernel.size // kernel.shape[2]
        spread = 5 / np.sqrt(2 * kernel.size)  # five standard errors
        np.testing.assert_allclose(kernel.std() * np.sqrt(fan_out / 2), 1, atol=spread)
    linear = make_classifier("resnet8_lucir", 100).head
    linear_params = linear.init(jax.random.key(0), jnp.zeros((1, 64)))["params"]
    for head in (params["head"], linear_params):
        kernel = np.abs(head["kernel"])
        assert 0.99 / 8 < kernel.max() <= 1 / 8
        np.testing.assert_allclose(kernel.mean(), 1 / 16, rtol=0.05)
    assert params["head"]["scale"] == 1


def test_the_last_relu_alone_is_left_out():
    """With it the features are the rectified ones' mean; everything before is the same."""
    module = make_classifier("resnet8_lucir", 10, width=4)
    rectified = make_classifier("resnet8_projection", 10, width=4)
    variables = tiny.variables(module, seed=0)
    maps = {}
    for each in (module, rectified):
        outputs, captured = optimized_jit(
            lambda v, x, each=each: each.apply(
                v, x, capture_intermediates=True, mutable=["intermediates"]
            )
        )(variables, tiny.images(3, seed=1))
        found = captured["intermediates"]["backbone"]
        maps[each] = [found[f"stage{i}_block0"]["__call__"][0] for i in (1, 2, 3)]
        np.testing.assert_allclose(outputs.features, maps[each][2].mean((1, 2)), rtol=1e-6)
    for i in (0, 1):
        assert (np.asarray(maps[module][i]) >= 0).all()
        np.testing.assert_array_equal(maps[module][i], maps[rectified][i])
    assert (np.asarray(maps[module][2]) < 0).any()
    np.testing.assert_array_equal(np.maximum(maps[module][2], 0), maps[rectified][2])


def test_cosine_head():
    random = np.random.default_rng(0)
    features, kernel = random.normal(size=(3, 5)), random.normal(size=(5, 4))
    scale = np.float64(2.5)
    want = features @ kernel
    want /= np.linalg.norm(features, axis=1)[:, None] * np.linalg.norm(kernel, axis=0)

    @jax.jit
    def head(kernel, scale, features):
        return CosineHead(4).apply({"params": {"kernel": kernel, "scale": scale}}, features)

    with jax.enable_x64(True):
        logits, scores = head(kernel, scale, features)
        np.testing.assert_allclose(scores, want, rtol=1e-12)
        np.testing.assert_allclose(logits, 2.5 * want, rtol=1e-12)
        check_grads(head, (kernel, scale, features), order=1, modes=["rev"])


def test_cosine_head_of_zero_vectors():
    """Cosine 0, and no gradient from them; the others are not disturbed."""
    random = np.random.default_rng(0)
    features = random.normal(size=(3, 5)).astype(np.float32)
    kernel = random.normal(size=(5, 4)).astype(np.float32)
    features[1], kernel[:, 2] = 0, 0

    def total(kernel, features):
        logits, scores = CosineHead(4).apply({"params": {"kernel": kernel, "scale": 2.0}}, features)
        return jnp.square(logits - 1).sum(), scores

    (_, scores), (of_kernel, of_features) = jax.jit(
        jax.value_and_grad(total, (0, 1), has_aux=True)
    )(kernel, features)
    assert not scores[1].any() and not scores[:, 2].any()
    assert not of_features[1].any() and not of_kernel[:, 2].any()
    assert np.isfinite(of_features).all() and np.isfinite(of_kernel).all()
    assert of_features[0].any() and of_kernel[:, 0].any()


def test_unit_vectors_are_bounded_below():
    vectors = np.array([[3.0, -4.0], [3e-13, -4e-13], [3e-12, -4e-12], [0, 0]], np.float32)
    want = [[0.6, -0.8], [0.3, -0.4], [0.6, -0.8], [0, 0]]
    np.testing.assert_allclose(unit_vectors(vectors), want, rtol=1e-6)
    np.testing.assert_allclose(unit_vectors(vectors.T, axis=0).T, want, rtol=1e-6)


def test_cosines_of_half_precision_features_are_computed_in_float32():
    random = np.random.default_rng(0)
    features = jnp.asarray(random.normal(size=(8, 64)), jnp.bfloat16)
    params = {"kernel": random.normal(size=(64, 20)).astype(np.float32), "scale": np.float32(7)}
    logits, scores = CosineHead(20).apply({"params": params}, features)
    exact, _ = CosineHead(20).apply({"params": params}, features.astype(jnp.float32))
    assert logits.dtype == scores.dtype == jnp.float32
    np.testing.assert_array_equal(logits, exact)


def test_half_precision_network():
    module = cosine_classifier(jnp.bfloat16)
    variables = tiny.variables(cosine_classifier(), seed=0)
    images = tiny.images(4, seed=1)
    outputs = jax.jit(module.apply)(variables, images)
    exact = jax.jit(cosine_classifier().apply)(variables, images)
    assert all(array.dtype == jnp.float32 for array in outputs)
    np.testing.assert_allclose(outputs.scores, exact.scores, atol=0.05)


def test_classify_gives_the_logits_of_features():
    module = cosine_classifier()
    variables = tiny.variables(module, seed=0)
    outputs = jax.jit(module.apply)(variables, tiny.images(2, seed=1))
    classified = module.apply(variables, outputs.features, method="classify")
    np.testing.assert_allclose(classified, outputs.logits, rtol=1e-5, atol=1e-7)


def test_inversion_matches_the_statistics_of_projections_too():
    module = cosine_classifier()
    variables = tiny.variables(module, seed=0)
    _, collected = jax.jit(lambda v, x: module.apply(v, x, mutable=["moments"]))(
        variables, tiny.images(4, seed=1)
    )
    divergences = tiny.divergences(variables["batch_stats"], collected["moments"])
    mean = inversion.statistics_divergence(variables["batch_stats"], collected["moments"])
    np.testing.assert_allclose(mean, np.mean([*divergences.values()]), rtol=1e-6)
    assert len(divergences) == 1 + 3 * 2 + 2
    assert {f"backbone/stage{i}_block0/shortcut_bn" for i in (2, 3)} <= set(divergences)


def test_unknown_networks_and_heads():
    with pytest.raises(UserError, match=r"resnetN_rdfcil with N = 6n\+2"):
        make_classifier("resnet33_lucir", 10)
    with pytest.raises(UserError, match="head='softmax': unknown head; choose linear or cosine"):
        make_classifier("resnet32_lucir", 10, head="softmax")
