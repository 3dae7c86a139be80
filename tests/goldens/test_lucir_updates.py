"""LUCIR's updates against the original's numbers: losses, gradients, parameters after.

The method's own steps, and its ablations as losses of the head alone.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import losses
from cljax.methods.libcontinual import LibContinualLUCIR
from cljax.methods.lucir import LUCIR, ClassBalancedFinetuning
from cljax.models import imprint
from cljax.optimizers import SGD, Group
from cljax.stages import TrainStage
from cljax.state import Batch, hyperparameters
from tests.helpers import lucir, tiny
from tests.helpers.goldens import PRECISIONS, channels_last, enable, jit, optimized_jit
from tests.helpers.lucir import NUM_CLASSES, OLD, SEEN

pytestmark = pytest.mark.slow

precisions = pytest.mark.parametrize("precision", PRECISIONS)
PUBLISHED = SGD(0.1, 0.9, 5e-4)
NUM_HARD_NEGATIVES, MARGIN = 2, 0.5


def class_loss(logits, labels, seen):
    return losses.cross_entropy(logits, labels, losses.class_range(logits.shape[-1], 0, seen))


def ranking(scores, labels, old, start, stop):
    """The margin ranking loss with negatives among the classes start..stop-1."""
    negatives = losses.class_range(scores.shape[-1], start, stop)
    return losses.margin_ranking(scores, labels, old, negatives, NUM_HARD_NEGATIVES, MARGIN)


def make_method(module, cls=LUCIR, **settings):
    """LUCIR with its published values."""
    return cls(
        classifier=module,
        preprocessing=tiny.PLAIN,
        training=TrainStage("train", 1, 0, 16, PUBLISHED),
        memory=tiny.NO_MEMORY,
        finetuning_stage=ClassBalancedFinetuning("balance", 1, 0, 16, SGD(0.01, 0.9, 1e-4)),
        **settings,
    )


@jit
def step(method, state, task, batch):
    """The new state, the gradients, the metrics, and the outputs of student and teacher."""
    key = jax.random.key(0)

    def loss(params):
        return method.observe(state.replace(params=params), task, batch, key).loss

    grads = jax.grad(loss)(state.params)
    outputs, _ = method.train_forward(state, batch.images)
    targets = method.classifier.apply(state.teacher, batch.images).features
    state, metrics = tiny.update(method.training, method, state, task, batch, 0, key)
    return state, grads, (metrics, outputs, targets)


@functools.cache
def two_steps(goldens, file, precision, old, seen):
    """For each step: the state before it, and what `step` returns.

    In float32 the second step starts where the first one leads in float64, since errors of the
    earliest layers would grow from step to step.
    """
    module, start = lucir.network(goldens, precision)
    method, arrays = make_method(module), goldens(file)
    exact = precision == "float64" or two_steps(goldens, file, "float64", old, seen)
    result = []
    with enable(precision):
        before = tiny.learner(**start, teacher=start)
        before = before.replace(opt_state=PUBLISHED.init(start["params"]))
        task = tiny.task(old, seen, is_first=old == 0)
        for i in (1, 2):
            images = channels_last(arrays[f"step{i}.x"], precision)
            batch = Batch(images, arrays[f"step{i}.y"].astype(np.int32), None)
            after, *others = step(method, before, task, batch)
            result.append((before, after, *others))
            following = after if exact is True else exact[0][1]
            before = jax.tree.map(
                lambda x: np.asarray(x, precision) if np.ndim(x) or x.dtype.kind == "f" else x,
                following,
            )
    return result


def tensors(goldens, precision, variables):
    """PyTorch's tensors of the golden network, the head's old rows also by the unsplit name."""
    module, _ = lucir.network(goldens, precision)
    found = lucir.tensors(module, variables, precision)
    return found | {"fc.weight": found["fc.fc1.weight"]}


def largest(array):
    return np.abs(array).max()


def is_late(name):
    """The earliest layers' gradients have passed all ReLUs, of which some switch in float32."""
    return any(part in name for part in ("fc.", "layer3.4", "running"))


def compare_gradients(expected, grads):
    """Those of step 1, by PyTorch's names."""
    for name in [name for name in expected.arrays if name.startswith("grad_step1.")]:
        found = grads[name.removeprefix("grad_step1.")]
        expected.close(name, found, 1e-4 if is_late(name) else 1e-2, largest(expected[name]))


def compare_parameters(expected, i, before, after):
    """Parameters and running statistics after step i, as far as stored; and all norms.

    In float32 early layers and norms are measured by their change.
    """
    for name in [name for name in expected.arrays if name.startswith(f"after_step{i}.")]:
        tensor = name.removeprefix(f"after_step{i}.")
        if tensor == "l2_norm_of_every_parameter":
            names = expected["parameter_names"]
            norms = np.array([np.linalg.norm(after[n]) for n in names], expected.precision)
            changes = np.array([np.linalg.norm(after[n] - before[n]) for n in names])
            expected.close(name, norms, 1e-2, changes + 1e-4 * norms)
        elif is_late(tensor):
            expected.close(name, after[tensor], 1e-6)
        else:
            expected.close(name, after[tensor], 1e-2, largest(after[tensor] - before[tensor]))


def compare_steps(expected, goldens, steps, frozen):
    """Gradients of step 1, and what both steps make of the parameters."""
    for i, (before, after, grads, _) in enumerate(steps, start=1):
        of = functools.partial(tensors, goldens, expected.precision)
        if i == 1:
            compare_gradients(expected, of(after.variables | {"params": grads}))
        compare_parameters(expected, i, of(before.variables), of(after.variables))
        kernels = [np.asarray(state.params["head"]["kernel"]) for state in (before, after)]
        np.testing.assert_array_equal(kernels[1][:, frozen], kernels[0][:, frozen])


@precisions
def test_incremental_phase(lucir_goldens, precision):
    file = "lucir_update_incremental"
    expected = lucir.Expected(lucir_goldens, file, precision)
    hyperparameters = {
        "lamda": 5.0,
        "cur_lamda": 5 * np.sqrt(OLD / (SEEN - OLD)),
        "dist": MARGIN,
        "K": NUM_HARD_NEGATIVES,
        "lw_mr": 1.0,
        "lr": PUBLISHED.learning_rate,
        "momentum": PUBLISHED.momentum,
        "weight_decay": PUBLISHED.weight_decay,
    }
    for name, value in hyperparameters.items():
        np.testing.assert_allclose(expected[name], value, rtol=1e-12)
    weight = float(expected["cur_lamda"])
    steps = two_steps(lucir_goldens, file, precision, OLD, SEEN)
    for i, (*_, (metrics, outputs, targets)) in enumerate(steps, start=1):
        expected.close(f"step{i}.student_features", outputs.features)
        expected.close(f"step{i}.teacher_features", targets)
        expected.close(f"step{i}.scores_before_scale", np.asarray(outputs.scores)[:, :SEEN])
        distance = np.asarray(metrics["distillation"]) / np.array(weight, precision)
        expected.close(f"step{i}.loss_less_forget_before_lamda", distance)
        expected.close(f"step{i}.loss_cross_entropy", metrics["class"])
        expected.close(f"step{i}.loss_margin_ranking", metrics["ranking"])
        expected.close(f"step{i}.loss_total", metrics["loss"])
    assert float(metrics["ranking"]) == 0  # of step 2, which has no old image
    compare_steps(expected, lucir_goldens, steps, np.r_[:OLD, SEEN:NUM_CLASSES])
    inputs = [f"step{i}.{name}" for i in (1, 2) for name in "xy"]
    expected.all_compared(*hyperparameters, *inputs, "fc2_weight_before", "parameter_names")


@precisions
def test_first_phase(lucir_goldens, precision):
    """Cross entropy alone."""
    file = "lucir_update_first_phase"
    expected = lucir.Expected(lucir_goldens, file, precision)
    steps = two_steps(lucir_goldens, file, precision, 0, OLD)
    for i, (*_, (metrics, _, _)) in enumerate(steps, start=1):
        assert set(metrics) == {"loss", "class", "accuracy"}
        expected.close(f"step{i}.loss_total", metrics["loss"])
    compare_steps(expected, lucir_goldens, steps, np.r_[OLD:NUM_CLASSES])
    inputs = [f"step{i}.{name}" for i in (1, 2) for name in "xy"]
    expected.all_compared(*inputs, "parameter_names")


def first_batch(goldens, network, precision):
    """Labels, the student's features in train mode and the teacher's outputs, of batch 1."""
    arrays = goldens("lucir_update_incremental")
    teacher, _, student, _ = lucir.passes(*network, arrays["step1.x"], precision)
    return arrays["step1.y"].astype(np.int32), student.features, teacher


def head_step(loss, params, trained):
    """Parts of a loss of the head's parameters, and the head after a step on their sum."""

    @jit
    def observe(params):
        def objective(params):
            parts = loss(params)
            return sum(parts.values()), parts

        return jax.grad(objective, has_aux=True)(params)

    grads, parts = observe(params)
    params, _ = PUBLISHED.update(grads, PUBLISHED.init(params), params, trained, 1.0)
    return parts, params


@precisions
@pytest.mark.parametrize("variant", ["less_forget_only", "hardest_of_all_classes", "mimic_scores"])
def test_ablations(lucir_goldens, precision, variant):
    """One step of the head, whose features do not depend on what is ablated."""
    expected = lucir.Expected(lucir_goldens, "lucir_update_ablations", precision)
    module, variables = lucir.network(lucir_goldens, precision)
    labels, features, teacher = first_batch(lucir_goldens, (module, variables), precision)
    names = {"cross_entropy": "cross_entropy_unweighted"}
    weights = {"cross_entropy": 1.0}
    if variant == "mimic_scores":
        names["scores"], weights["scores"] = "mse_unweighted", OLD
    else:
        names["features"] = "cosine_embedding_unweighted"
        weights["features"] = float(lucir_goldens("lucir_update_incremental")["cur_lamda"])
    if variant == "hardest_of_all_classes":
        names["ranking"], weights["ranking"] = "margin_ranking_unweighted", 1.0

    def loss(head):
        logits, scores = module.head.apply({"params": head}, features)
        old = losses.class_range(NUM_CLASSES, 0, OLD)
        parts = {
            "cross_entropy": class_loss(logits, labels, SEEN),
            "features": losses.cosine_distance(features, teacher.features),
            "ranking": ranking(scores, labels, OLD, 0, SEEN),
            "scores": losses.score_distance(scores, teacher.scores, old) / OLD,
        }
        return {name: weights[name] * parts[name] for name in names}

    start = OLD if variant != "mimic_scores" else 0
    with enable(precision):
        trained = {"kernel": losses.class_range(NUM_CLASSES, start, SEEN), "scale": True}
        parts, head = head_step(loss, variables["params"]["head"], trained)
        for name, stored in names.items():
            expected.close(f"{variant}.{stored}", parts[name] / weights[name])
        expected.close(f"{variant}.loss_total", sum(parts.values()))
    kernel = np.asarray(head["kernel"]).T
    expected.close(f"{variant}.after_step1.fc.fc1.weight", kernel[:OLD], 1e-6)
    expected.close(f"{variant}.after_step1.fc.fc2.weight", kernel[OLD:SEEN], 1e-6)
    expected.close(f"{variant}.after_step1.fc.sigma", np.asarray(head["scale"])[None], 1e-6)
    others = [name for name in expected.arrays if not name.startswith(variant)]
    expected.all_compared(*others)


@precisions
def test_baseline(lucir_goldens, precision):
    """Distillation of logits; KL averaged over all entries, times T^2 beta OLD, is `distillation`.

    But for the teacher's entropy, which has no gradient.
    """
    expected = lucir.Expected(lucir_goldens, "lucir_update_ablations", precision)
    module, variables = network = lucir.baseline(lucir_goldens, precision)
    labels, features, teacher = first_batch(lucir_goldens, network, precision)
    old = losses.class_range(SEEN, 0, OLD)
    temperature, beta = (expected[f"baseline.{name}"] for name in ("T", "beta"))

    def loss(head):
        logits, _ = module.head.apply({"params": head}, features)
        distilled, entropy = (
            losses.distillation(x, teacher.logits, old, temperature=float(temperature))
            for x in (logits, teacher.logits)
        )
        return {"cross_entropy": class_loss(logits, labels, SEEN), "kl": distilled - entropy}

    assert temperature**2 * beta == 1
    with enable(precision):
        head = variables["params"]["head"]
        parts, head = head_step(loss, head, {"kernel": True, "bias": True})
        expected.close("baseline.cross_entropy_unweighted", parts["cross_entropy"])
        expected.close("baseline.kl_div_mean_over_all_elements", parts["kl"] / OLD, 1e-7)
        expected.close("baseline.loss_total", sum(parts.values()))
    expected.close("baseline.after_step1.fc.weight", np.asarray(head["kernel"]).T, 1e-6)
    expected.close("baseline.after_step1.fc.bias", head["bias"], 1e-6)
    others = [name for name in expected.arrays if not name.startswith("baseline")]
    before = "baseline.fc_weight_before", "baseline.fc_bias_before"
    expected.all_compared("baseline.T", "baseline.beta", *before, *others)


@precisions
def test_class_balanced_finetuning(lucir_goldens, precision):
    """Two steps of the whole kernel alone, on features in eval mode, which are the teacher's."""
    file = "lucir_update_class_balanced_finetuning"
    expected = lucir.Expected(lucir_goldens, file, precision)
    batches = lucir_goldens("lucir_update_incremental")
    module, variables = lucir.network(lucir_goldens, precision)
    head, weight = variables["params"]["head"], float(expected["cur_lamda"])
    names = ("lr", "momentum", "weight_decay")
    optimizer = SGD(*(float(expected[name]) for name in names))

    @jit
    def observe(head, features, labels):
        def loss(head):
            logits, scores = module.head.apply({"params": head}, features)
            parts = {
                "loss_less_forget_before_lamda": losses.cosine_distance(features, features),
                "loss_cross_entropy": class_loss(logits, labels, SEEN),
                "loss_margin_ranking": ranking(scores, labels, OLD, OLD, SEEN),
            }
            total = sum(parts.values()) + (weight - 1) * parts["loss_less_forget_before_lamda"]
            return total, (parts | {"loss_total": total}, scores)

        return jax.grad(loss, has_aux=True)(head)

    with enable(precision):
        opt_state = optimizer.init(head)
        trained = {"kernel": losses.class_range(NUM_CLASSES, 0, SEEN), "scale": False}
        for i in (1, 2):
            outputs = lucir.passes(module, variables, batches[f"step{i}.x"], precision)[0]
            labels = batches[f"step{i}.y"].astype(np.int32)
            grads, (parts, scores) = observe(head, outputs.features, labels)
            head, opt_state = optimizer.update(grads, opt_state, head, trained, 1.0)
            expected.close(f"step{i}.scores_before_scale", scores[:, :SEEN])
            for name, part in parts.items():
                if (i, name) != (2, "loss_margin_ranking"):
                    expected.close(f"step{i}.{name}", part)
                else:
                    assert part == 0
            name = f"step{i}.loss_less_forget_before_lamda"
            if precision == "float64":  # what PyTorch's 1e-12 leaves
                np.testing.assert_allclose(parts[name[6:]], expected[name], atol=1e-15)
            kernel = np.asarray(head["kernel"]).T
            expected.close(f"after_step{i}.fc.fc1.weight", kernel[:OLD], 1e-6)
            expected.close(f"after_step{i}.fc.fc2.weight", kernel[OLD:SEEN], 1e-6)
    assert head["scale"] == variables["params"]["head"]["scale"]
    np.testing.assert_array_equal(kernel[SEEN:], variables["params"]["head"]["kernel"].T[SEEN:])
    expected.all_compared(*names, "cur_lamda")


@jit
def losses_of(methods, state, task, batch):
    return [method.observe(state, task, batch, jax.random.key(0)).loss for method in methods]


@precisions
def test_the_methods_switches_are_the_ablations(lucir_goldens, precision):
    expected = lucir.Expected(lucir_goldens, "lucir_update_ablations", precision)
    module, variables = lucir.network(lucir_goldens, precision)
    switches = {
        "less_forget_only": {"ranking_weight": 0.0},
        "hardest_of_all_classes": {"hard_negatives": "all"},
        "mimic_scores": {"distillation": "scores", "ranking_weight": 0.0},
    }
    arrays = lucir_goldens("lucir_update_incremental")
    with enable(precision):
        images = channels_last(arrays["step1.x"], precision)
        batch = Batch(images, arrays["step1.y"].astype(np.int32), None)
        state = tiny.learner(**variables, teacher=variables)
        methods = [make_method(module, **settings) for settings in switches.values()]
        found = losses_of(methods, state, tiny.task(OLD, SEEN), batch)
    for variant, loss in zip(switches, found, strict=True):
        expected.close(f"{variant}.loss_total", loss)
    frozen = {
        variant: method.get_parameters(variables["params"], tiny.task(OLD, SEEN))["head"]["kernel"]
        for variant, method in zip(switches, methods, strict=True)
    }
    assert [int(mask.sum()) for mask in frozen.values()] == [SEEN - OLD, SEEN - OLD, SEEN]


@precisions
def test_the_methods_extra_stage_is_class_balanced_finetuning(lucir_goldens, precision):
    """Its first step; everything but the kernel stays bit for bit."""
    file = "lucir_update_class_balanced_finetuning"
    expected = lucir.Expected(lucir_goldens, file, precision)
    arrays = lucir_goldens("lucir_update_incremental")
    module, variables = lucir.network(lucir_goldens, precision)
    method = make_method(module)
    with enable(precision):
        images = channels_last(arrays["step1.x"], precision)
        batch = Batch(images, arrays["step1.y"].astype(np.int32), None)
        state = tiny.learner(**variables, teacher=variables)
        state = state.replace(opt_state=method.finetuning_stage.optimizer.init(state.params))
        run = jit(tiny.update)
        task, key = tiny.task(OLD, SEEN), jax.random.key(0)
        after, metrics = run(method.finetuning_stage, method, state, task, batch, 0, key)
    expected.close("step1.loss_total", metrics["loss"])
    kernel = np.asarray(after.params["head"]["kernel"]).T
    expected.close("after_step1.fc.fc1.weight", kernel[:OLD], 1e-6)
    expected.close("after_step1.fc.fc2.weight", kernel[OLD:SEEN], 1e-6)
    head = state.params["head"] | {"kernel": after.params["head"]["kernel"]}
    want = state.replace(params=state.params | {"head": head})
    for one, other in ((after.params, want.params), (after.batch_stats, want.batch_stats)):
        jax.tree.map(np.testing.assert_array_equal, one, other)


@hyperparameters
class LUCIRInGroups(LibContinualLUCIR):
    """LibContinual's parameter groups: the old columns of the head have their own, at rate 0."""

    def get_parameters(self, params, task):
        frozen = jax.tree.map(lambda _: False, params)
        old = frozen | {"head": frozen["head"] | {"kernel": self.classes(0, task.old)}}
        return [Group(super().get_parameters(params, task)), Group(old, 0.0, 0.0)]


@precisions
def test_groups_and_a_teacher_in_train_mode_are_libcontinuals(lucir_goldens, precision):
    """Its LUCIR imprints from given images; then two steps, each with both modes of the teacher."""
    expected = lucir.Expected(lucir_goldens, "lib_lucir", precision)
    batches = lucir_goldens("lucir_update_incremental")
    module, variables = lucir.network(lucir_goldens, precision)
    head = variables["params"]["head"]
    images, labels = expected["imprint.x"], expected["imprint.y"]
    with enable(precision):
        features = lucir.passes(module, variables, images, precision)[0].features
        by_class = jnp.stack([features[labels == label] for label in range(OLD, SEEN)])
        counts = jnp.full(SEEN - OLD, 2)
        kernel = imprint(jnp.asarray(head["kernel"]), by_class, counts, OLD)
        params = variables["params"] | {"head": head | {"kernel": kernel}}
        start = {"params": params, "batch_stats": variables["batch_stats"]}
        expected.close("imprint.fc2_weight", np.asarray(kernel).T[OLD:SEEN], 1e-6)

        methods = [make_method(module, cls) for cls in (LUCIRInGroups, LUCIR)]
        groups = methods[0].get_parameters(params, tiny.task(OLD, SEEN))
        rates = [PUBLISHED.rates(group) for group in groups]
        expected.close("group_lr", np.array([rate for rate, _ in rates], precision))
        expected.close("group_weight_decay", np.array([decay for _, decay in rates], precision))
        state = tiny.learner(**start, teacher=start)
        state = state.replace(opt_state=PUBLISHED.init(params))
        task, key = tiny.task(OLD, SEEN), jax.random.key(0)
        # How the first step rounds in float32 decides what the second one gets right.
        run = optimized_jit(tiny.update)
        weight = np.array(expected["cur_lamda"], precision)
        for i in (1, 2):
            images = channels_last(batches[f"step{i}.x"], precision)
            batch = Batch(images, batches[f"step{i}.y"].astype(np.int32), None)
            in_eval = losses_of(methods[1:], state, task, batch)[0]
            state, metrics = run(methods[0].training, methods[0], state, task, batch, 0, key)
            # Errors of the earliest layers' first step show in the second one.
            loose = 1e-5 if i == 1 else 1e-3
            if i == 1:
                expected.close("step1.loss_with_teacher_in_eval", in_eval, loose, 10.0)
            expected.close(f"step{i}.loss", metrics["loss"], loose, 10.0)
            distance = np.asarray(metrics["distillation"]) / weight
            expected.close(f"step{i}.cosine_embedding_unweighted", distance, loose)
            expected.close(f"step{i}.cross_entropy_unweighted", metrics["class"], loose, 10.0)
            if i == 1:
                expected.close("step1.margin_ranking_unweighted", metrics["ranking"])
            accuracy = np.asarray(metrics["accuracy"], precision)
            expected.close(f"step{i}.acc", accuracy)
            found = tensors(lucir_goldens, precision, state.variables)
            loose = 1e-6 if i == 1 else 1e-2
            for name, tensor in {
                "fc1_weight": "fc.fc1.weight",
                "fc2_weight": "fc.fc2.weight",
                "sigma": "fc.sigma",
            }.items():
                expected.close(f"step{i}.after.{name}", found[tensor], loose)
            conv, before = found["conv1.weight"], tensors(lucir_goldens, precision, start)
            moved = largest(conv - before["conv1.weight"])
            expected.close(f"step{i}.after.conv1_weight", conv, 1e-2 if i == 1 else 1e-1, moved)
    settings = ("group_sizes", "cur_lamda")
    # The original's teacher moves its running statistics, which train mode does not read.
    moved = [f"step{i}.after.teacher_bn1_running_mean" for i in (1, 2)]
    moved.append("step2.loss_with_teacher_in_eval")
    others = ("imprint.x", "imprint.y", "step1.pred", "step2.pred")
    expected.all_compared(*settings, *moved, *others)
