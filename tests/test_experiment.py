"""The story of a run: what it computes, compiles, refuses and leaves behind."""

import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import experiment, rng, training
from cljax.errors import UserError
from tests.helpers import tiny_runs

# TensorStore complains once more, from a thread of its own, of a file that it could not read.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def spoil(monkeypatch):
    """spoil(n, change): `change` is applied to what the n-th epoch, from 1, returns."""
    run_epoch = training.run_epoch

    def arrange(n: int, change):
        epochs = []

        def spoiled(*args):
            epochs.append(None)
            result = run_epoch(*args)
            return change(result) if len(epochs) == n else result

        monkeypatch.setattr(training, "run_epoch", spoiled)
        return lambda: monkeypatch.setattr(training, "run_epoch", run_epoch)

    return arrange


@pytest.mark.slow
def test_settings_of_jax_change_nothing(reference, compiled, tmp_path):
    variables = {
        "JAX_DEBUG_INFS": "1",
        "JAX_DEBUG_NANS": "1",
        "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
        "JAX_DEFAULT_PRNG_IMPL": "rbg",
        "JAX_DISABLE_JIT": "1",
        "JAX_ENABLE_X64": "1",
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
        "JAX_SOFTMAX_CUSTOM_JVP": "1",
        "JAX_THREEFRY_PARTITIONABLE": "0",
        "JAX_TRANSFER_GUARD": "disallow",
    }
    flags = tiny_runs.arguments(tmp_path)
    status, _, err = tiny_runs.command(*flags, cache=compiled, variables=variables)
    assert (status, err) == (0, "")
    tiny_runs.assert_same_run(tmp_path, reference)


def test_settings_of_a_caller_change_nothing_and_stay(reference, fast_runs, tmp_path):
    changed = {"jax_enable_x64": True, "jax_threefry_partitionable": False}
    before = {name: getattr(jax.config, name) for name in changed}
    try:
        for name, value in changed.items():
            jax.config.update(name, value)
        tiny_runs.run(tiny_runs.make_config(max_tasks=1), tmp_path)
        assert {name: getattr(jax.config, name) for name in changed} == changed
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    rows = tiny_runs.metrics(tmp_path)
    assert rows and rows == tiny_runs.metrics(reference)[: len(rows)]


OUT_OF_MEMORY = {
    "XLA": RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore"),
    "XLA's allocator": jax.errors.JaxRuntimeError("INTERNAL: Failed to allocate 9 bytes"),
    "CUDA": RuntimeError("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
    "cuBLAS": RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"),
    "C++": RuntimeError("std::bad_alloc"),
    "Python": MemoryError(),
    "NumPy": np._core._exceptions._ArrayMemoryError((10**15,), np.dtype(np.uint8)),
    "the system": OSError(12, "Cannot allocate memory"),
}


@pytest.mark.parametrize("where", ["data", "epoch"])
@pytest.mark.parametrize("who", OUT_OF_MEMORY)
def test_used_up_memory_is_one_line(fast_runs, monkeypatch, tmp_path, who, where):
    def fail(*args, **kwargs):
        raise OUT_OF_MEMORY[who]

    if where == "data":
        monkeypatch.setattr(experiment.problem_lib, "make_problem", fail)
    else:
        monkeypatch.setattr(training, "run_epoch", fail)
    with pytest.raises(UserError) as error:
        tiny_runs.run(tiny_runs.make_config(), tmp_path)
    message = str(error.value)
    which = "host" if who in ("Python", "NumPy", "the system") else "device"
    assert message.startswith(f"the {which} is out of memory (") and "\n" not in message
    for key in ("batch_size", "eval.batch_size", "model.width", "seeds", "execution.seeds"):
        assert f"config.{key}" in message


def test_other_errors_stay_as_they_are(fast_runs, monkeypatch, tmp_path):
    def fail(*args):
        raise RuntimeError("INTERNAL: another error")

    monkeypatch.setattr(training, "run_epoch", fail)
    with pytest.raises(RuntimeError, match="another error"):
        tiny_runs.run(tiny_runs.make_config(), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["nonsense", "cuda"])
def test_a_platform_that_jax_does_not_have(tmp_path, platform):
    variables = {"JAX_PLATFORMS": platform, "CUDA_VISIBLE_DEVICES": ""}
    status, _, err = tiny_runs.command("--config=abd_digits", cwd=tmp_path, variables=variables)
    tiny_runs.assert_one_line(status, err, f"JAX_PLATFORMS={platform}: JAX finds no such device")
    assert list(tmp_path.iterdir()) == []


def test_results_and_files(reference):
    content = json.loads((reference / "results.json").read_text())
    assert content["complete"] and content["method"] == "abd"
    assert content["task_sizes"] == [2, 2] and content["tasks_total"] == 2
    assert [len(row) for row in content["accuracy"][0]] == [1, 2]
    assert {"compile", "train", "invert", "evaluate", "save", "total"} == set(content["seconds"])
    first, second = content["cost"]
    assert first["images"] == {"train": 2 * 2 * 8, "invert": 4 * 8}  # epochs, steps, batch
    assert second["images"] == {"train": 2 * 2 * 8}
    assert first["seconds"].keys() == {"compile", "train", "invert", "evaluate"}
    assert second["peak_device_bytes"] is None  # a CPU
    peak = second["peak_host_bytes"]  # none if an earlier run of this process needed as much
    assert peak is None or peak > 10**8  # JAX alone needs that much
    ((_, carried),) = content["carried_bytes"]
    assert carried.keys() == {"classifier", "teacher", "generator", "total"}
    assert carried["teacher"] == carried["classifier"]
    names = {path.name for path in reference.iterdir()}
    assert names >= {
        "checkpoints",
        "config.json",
        "log.txt",
        "metrics.jsonl",
        "models",
        "plots",
        "results.json",
        "tensorboard",
    }
    rows = [(row["task"], row["stage"], row["epoch"]) for row in tiny_runs.metrics(reference)]
    assert rows == [
        (1, "train", 1),
        (1, "train", 2),
        (1, "invert", 1),
        (1, "invert", 2),
        (2, "train", 1),
        (2, "train", 2),
    ]
    axis = [row["global_epoch"] for row in tiny_runs.metrics(reference) if row["stage"] == "train"]
    assert axis == [1, 2, 3, 4]
    assert {path.name for path in (reference / "models").iterdir()} == {"1", "2"}
    assert [path.name for path in reference.rglob("dreamed*")] == ["dreamed_task1_seed0.png"]


@pytest.mark.slow
def test_in_process_run_is_the_users(fast_runs, reference, tmp_path):
    tiny_runs.run(tiny_runs.make_config(), tmp_path)
    tiny_runs.assert_same_run(tmp_path, reference)


@pytest.mark.slow
def test_seeds_together_are_the_seeds_alone(fast_runs, tmp_path):
    tiny_runs.run(tiny_runs.make_config(seeds=(3, 1)), tmp_path / "both")
    together, both = tiny_runs.results(tmp_path / "both"), tiny_runs.arrays(tmp_path / "both")
    for place, seed in enumerate((3, 1)):
        workdir = tmp_path / str(seed)
        tiny_runs.run(tiny_runs.make_config(seeds=(seed,)), workdir)
        alone = tiny_runs.results(workdir)
        for key in ("accuracy", "accuracy_within_task", "class_orders", "test_images"):
            assert together[key][place] == alone[key][0]
        rows = [row for row in tiny_runs.metrics(tmp_path / "both") if row["seed"] == seed]
        assert rows == tiny_runs.metrics(workdir)
        own = {name: array for name, array in both.items() if name.startswith(f"seed{seed}.")}
        tiny_runs.assert_same_arrays(own, tiny_runs.arrays(workdir))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("base", {"max_tasks": 1}),
        ("rehearsal", {"model__name": "resnet8"}),
        ("rdfcil", tiny_runs.STABLE),
    ],
)
def test_vmapped_seeds_are_the_seeds_alone(fast_runs, tmp_path, name, settings):
    settings = {"epochs": 1, "seeds": (3, 1), **settings}
    tiny_runs.run(
        tiny_runs.make_config(name, execution__seeds="vmap", **settings), tmp_path / "vmap"
    )
    tiny_runs.run(tiny_runs.make_config(name, **settings), tmp_path / "sequential")
    pairs = zip(
        tiny_runs.metrics(tmp_path / "vmap"),
        tiny_runs.metrics(tmp_path / "sequential"),
        strict=True,
    )
    for mapped, plain in pairs:
        assert mapped["seed"] == plain["seed"]
        assert mapped["loss"] == pytest.approx(plain["loss"], rel=1e-4)
    mapped, plain = (tiny_runs.arrays(tmp_path / name) for name in ("vmap", "sequential"))
    assert mapped.keys() == plain.keys()
    for name, array in mapped.items():
        np.testing.assert_allclose(array, plain[name], rtol=1e-3, atol=1e-4, err_msg=name)


def draws(config, task, place: int = 0) -> dict[str, np.ndarray]:
    """What each random stream draws first."""
    problem = tiny_runs.make_problem(config)
    method, state = problem.method, problem.states[place]
    images = problem.data.train_images[:8]
    key = rng.key(state.streams.augmentation, "augment train", 0, 0, 0)
    return {
        "class_order": problem.streams[place].class_order,
        "init": np.asarray(jax.flatten_util.ravel_pytree(state.params)[0]),
        "data_order": np.asarray(
            method.training.prepare(method, state, task, problem.data, jnp.int32(0)).order
        ),
        "augmentation": np.asarray(
            method.preprocessing.train(images, method.preprocessing.draw(key, len(images)))
        ),
        "generator": np.asarray(jax.flatten_util.ravel_pytree(state.generator.params)[0]),
    }


@pytest.mark.slow
def test_one_stream_can_change_alone(compiled):
    config = tiny_runs.make_config()
    task = tiny_runs.make_problem(config).tasks(0)[0]
    before = draws(config, task)
    assert before.keys() == set(config.streams)
    for name in config.streams:
        config = tiny_runs.make_config(**{f"streams__{name}": 1})
        after = draws(config, task)
        changed = {key for key in before if not np.array_equal(before[key], after[key])}
        assert changed == {name}
    everything = draws(tiny_runs.make_config(seeds=(1,)), task)
    assert all(not np.array_equal(before[key], everything[key]) for key in before)


@pytest.mark.parametrize("form", ["list", "json", "txt", "npy"])
def test_class_order(fast_runs, tmp_path, form):
    order = [7, 2, 9, 4]
    spec = "7,2,9,4"
    if form != "list":
        spec = str(tmp_path / f"order.{form}")
        if form == "npy":
            np.save(spec, np.array(order))
        else:
            (tmp_path / f"order.{form}").write_text(
                "[7, 2, 9, 4]" if form == "json" else "7 2\n9,4"
            )
    config = tiny_runs.make_config("base", data__class_order=spec, num_tasks=2)
    if form == "list":
        config.update({"max_tasks": 1, "epochs": 1})
        tiny_runs.run(config, tmp_path / "run")
        assert tiny_runs.results(tmp_path / "run")["class_orders"] == [[7, 2]]
    else:
        (stream,) = tiny_runs.make_problem(config).streams
        assert stream.class_order.tolist() == order and stream.task_sizes == (2, 2)


@pytest.mark.slow
def test_own_images_and_a_larger_first_task(compiled, tmp_path):
    # Five classes that differ in brightness, of 6x6 colour images: learned in no time.
    random = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 60), ("test", 25)):
        labels = np.arange(count) % 5
        images = labels[:, None, None, None] * 50 + random.integers(0, 20, (count, 6, 6, 3))
        arrays |= {f"x_{split}": images.astype(np.uint8), f"y_{split}": labels}
    np.savez(tmp_path / "mine.npz", **arrays)
    config = tiny_runs.make_config(
        "base",
        data__name="npz",
        data__path=str(tmp_path / "mine.npz"),
        data__per_class=0,
        data__class_order="sequential",
        first_task_size=3,
        num_tasks=3,
        epochs=8,
        milestones=(),
    )
    tiny_runs.run(config, tmp_path / "run")
    content = tiny_runs.results(tmp_path / "run")
    assert content["dataset"] == "npz" and content["class_orders"] == [[0, 1, 2, 3]]
    assert content["task_sizes"] == [3, 1] and content["test_images"] == [[15, 5]]
    assert content["accuracy"][0][0][0] > 60
    # Other images of the same name are no continuation.
    arrays["x_test"][0] += 1
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(UserError, match="other images or labels"):
        tiny_runs.run(config, tmp_path / "run")


@pytest.mark.slow
def test_validation_mode(compiled, tmp_path):
    config = tiny_runs.make_config("base", data__validation=True, data__per_class=20, max_tasks=1)
    tiny_runs.run(config, tmp_path)
    content = tiny_runs.results(tmp_path)
    (stream,) = tiny_runs.make_problem(config).streams
    assert content["test_images"] == [stream.eval_counts.tolist()]
    assert stream.eval_counts[0] + stream.train_counts[0] == 40
    assert not set(stream.eval_indices) & set(stream.train_indices[0, : stream.train_counts[0]])


@pytest.mark.slow
def test_infinite_loss_stops_the_run(fast_runs, spoil, reference, tmp_path):
    def change(states):
        nan = {"local": jnp.float32(jnp.nan)}
        return states.map(lambda state: state.replace(sums=state.sums | nan))

    mend = spoil(6, change)
    with pytest.raises(UserError) as error:
        tiny_runs.run(tiny_runs.make_config(), tmp_path)
    message = str(error.value)
    assert "not finite in task 2, train epoch 2, seed 0: loss" in message
    assert "local nan" in message and "head" in message and "\n" not in message
    content = tiny_runs.results(tmp_path)
    assert content["tasks_done"] == 1 and not content["complete"]
    assert all(np.isfinite(array).all() for array in tiny_runs.arrays(tmp_path).values())
    mend()  # as if a lower rate had been there from the start
    tiny_runs.run(tiny_runs.make_config(), tmp_path)
    tiny_runs.assert_same_run(tmp_path, reference)


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [5, 6])  # the second is the task's last
def test_weights_that_are_not_finite_are_not_saved(fast_runs, spoil, reference, tmp_path, epoch):
    def change(states):
        def spoiled(state):
            params = jax.tree.map(lambda p: p * jnp.inf, state.learner.params)
            return state.replace(learner=state.learner.replace(params=params))

        return states.map(spoiled)

    mend = spoil(epoch, change)
    with pytest.raises(UserError, match="task 2: the state is not finite"):
        tiny_runs.run(tiny_runs.make_config(), tmp_path)
    assert tiny_runs.results(tmp_path)["tasks_done"] == 1
    mend()
    tiny_runs.run(tiny_runs.make_config(), tmp_path)
    tiny_runs.assert_same_run(tmp_path, reference)


def test_large_rate_is_told(fast_runs, tmp_path):
    with pytest.raises(UserError, match="not finite in task 1, train epoch 1, seed 0: loss"):
        tiny_runs.run(tiny_runs.make_config(optimizer__lr=1e30), tmp_path)


def listing(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_first_task_of_another_run(fast_runs, reference, tmp_path):
    before = listing(reference)
    config = tiny_runs.make_config(first_task_from=str(reference))
    tiny_runs.run(config, tmp_path)
    assert listing(reference) == before
    # The rest of the run is that of the run it was taken from.
    assert tiny_runs.results(tmp_path) == tiny_runs.results(reference)
    assert tiny_runs.metrics(tmp_path) == tiny_runs.metrics(reference)[4:]  # without both stages
    found = tiny_runs.arrays(tmp_path)
    tiny_runs.assert_same_arrays(found, tiny_runs.arrays(reference))


def test_first_task_of_another_method_and_a_seed_of_many(fast_runs, reference, tmp_path):
    shutil.copytree(reference, tmp_path / "abd")
    config = tiny_runs.make_config("base", first_task_from=str(tmp_path / "abd"), max_tasks=1)
    config.model.pretrained = "absent.npz"  # all its weights would be replaced
    tiny_runs.run(config, tmp_path / "base")
    content, other = tiny_runs.results(tmp_path / "base"), tiny_runs.results(reference)
    assert content["accuracy"][0][0] == other["accuracy"][0][0]
    assert tiny_runs.metrics(tmp_path / "base") == []
    shutil.rmtree(tmp_path / "abd")  # it was needed once only
    tiny_runs.run(config, tmp_path / "base")


def test_bias_layers_start_anew_after_the_first_task_of_another_method(
    fast_runs, reference, tmp_path
):
    config = tiny_runs.make_config(
        "bic", first_task_from=str(reference), max_tasks=1, batch_size=8, eval__batch_size=64
    )
    tiny_runs.run(config, tmp_path)
    assert (
        tiny_runs.results(tmp_path)["accuracy"][0][0]
        == tiny_runs.results(reference)["accuracy"][0][0]
    )
    alpha = tiny_runs.arrays(tmp_path)["seed0.params['bias_layers']['alpha']"]
    np.testing.assert_array_equal(alpha, np.ones(10))


@pytest.mark.slow
def test_rdfcil_goes_on_from_the_first_task_of_abd(fast_runs, reference, tmp_path):
    """On ABD's network: its projections are its own, and its head is drawn anew for new classes."""
    config = tiny_runs.make_config("rdfcil", first_task_from=str(reference))
    tiny_runs.run(config, tmp_path)
    found, other = tiny_runs.results(tmp_path), tiny_runs.results(reference)
    assert found["accuracy"][0][0] == other["accuracy"][0][0]
    stages = {(row["task"], row["stage"]) for row in tiny_runs.metrics(tmp_path)}
    assert stages == {(2, "invert"), (2, "train"), (2, "heads")}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model__width": 8}, r"its network computes something else \(model\.width: 4 -> 8\)"),
        ({"data__mean": (0.5,)}, r"data\.mean: \[.*\] -> \[0\.5\]"),
        ({"data__std": (0.5,)}, r"data\.std: \[.*\] -> \[0\.5\]"),
        ({"dtype": "bfloat16"}, r"dtype: float32 -> bfloat16"),
        ({"seeds": (0, 1)}, r"has the seeds \[0\], not 1"),
        ({"streams__class_order": 1}, "other classes with seed 0"),
        ({"task_sizes": (3, 2)}, "other classes with seed 0"),
        ({"data__per_class": 12}, "its data differ"),
        ({"data__validation": True}, "other classes|validation"),
        ({"data__standardise": False}, r"data\.standardise: True -> False"),
    ],
)
def test_first_task_that_does_not_fit(reference, tmp_path, settings, words):
    config = tiny_runs.make_config(first_task_from=str(reference), **settings)
    with pytest.raises(UserError, match=words) as error:
        experiment.run(config, tmp_path)
    assert f"config.first_task_from={reference}" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def unfinished(folder):
    (folder / "results.json").unlink()


def other_data_set(folder):
    content = json.loads((folder / "results.json").read_text()) | {"dataset": "cifar100"}
    (folder / "results.json").write_text(json.dumps(content))


def older_version(folder):
    content = json.loads((folder / "results.json").read_text()) | {"format": 1}
    (folder / "results.json").write_text(json.dumps(content))


def other_program(folder):
    (folder / "results.json").write_text("{}")


def damaged_model(folder):
    path = max((folder / "models" / "1").rglob("d/*"), key=lambda path: path.stat().st_size)
    os.truncate(path, 10)


def no_model(folder):
    shutil.rmtree(folder / "models")


def odd(name, **change):
    """Changes entries of a JSON file."""

    def apply(folder):
        content = json.loads((folder / name).read_text()) | change
        (folder / name).write_text(json.dumps(content))

    return apply


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (odd("results.json", seeds=0), r"results\.json: damaged.*seeds: "),
        (odd("results.json", task_sizes=[]), r"results\.json: damaged.*task_sizes: "),
        (odd("results.json", class_orders=[]), r"results\.json: damaged.*different lengths"),
        (odd("results.json", test_images=[[]]), r"results\.json: damaged.*test_images\.0: "),
        (odd("config.json", data=3), r"config\.json: damaged.*data: "),
        (odd("config.json", model=None), r"config\.json: damaged.*model: "),
        (lambda f: (f / "config.json").write_text("[" * 10**5), r"config\.json: .*too deeply"),
        (unfinished, "no run there has finished its first task"),
        (other_data_set, "a run on cifar100, not on digits"),
        (older_version, "another program or version: format 1 instead of 2"),
        (other_program, "another program or version"),
        (damaged_model, "models/1"),
        (no_model, "models/1"),
    ],
)
def test_first_task_that_is_not_there(reference, tmp_path, change, words):
    other = shutil.copytree(reference, tmp_path / "other")
    change(other)
    before = listing(other)
    config = tiny_runs.make_config(first_task_from=str(other))
    with pytest.raises(UserError, match=words) as error:
        experiment.run(config, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert listing(other) == before
    assert not (tmp_path / "run").exists()
