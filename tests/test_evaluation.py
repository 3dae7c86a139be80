"""Accuracies against a plain NumPy computation."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from cljax.compute.executor import Executor
from cljax.data import streams
from cljax.data.sources import Dataset
from cljax.evaluation import Evaluation, evaluate, make_evaluation_set
from cljax.losses import top_k
from cljax.state import Data, hyperparameters

NUM_CLASSES = 7
SIZES = (2, 1, 3)  # one class never comes


@hyperparameters
class Linear:
    """A method that classifies by a matrix: the state is float [pixels, classes]."""

    num_classes: int

    @property
    def classifier(self):
        return self

    @property
    def preprocessing(self):
        return self

    def test(self, images):
        return images.astype(jnp.float32).reshape(len(images), -1)

    def inference(self, state, images, valid, k):
        return top_k(images @ state, valid, k)


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (157, 3, 3, 1), dtype=np.uint8)
    labels = rng.integers(0, NUM_CLASSES, 157).astype(np.int32)
    names = tuple("abcdefg")
    return Dataset(
        "random", images[:50], labels[:50], images[50:], labels[50:], NUM_CLASSES, names, (0,), (1,)
    )


def make_streams(dataset, seeds=(0, 1)):
    made = [
        streams.make_stream(dataset, seed=s, order_seed=s, num_tasks=0, task_sizes=SIZES)
        for s in seeds
    ]
    return streams.stack_streams(made)


def count_right(dataset, stream, weights, task, k):
    """[2, task + 1] by loops over images."""
    boundaries = np.cumsum((0, *SIZES))
    right = np.zeros((2, task + 1), int)
    for image, label in zip(dataset.test_images, dataset.test_labels, strict=True):
        place = int(stream.label_map[label])
        if place < 0 or place >= boundaries[task + 1]:
            continue
        own = int(np.searchsorted(boundaries, place, side="right")) - 1
        logits = image.reshape(-1).astype(np.float32) @ weights
        ranges = (0, boundaries[task + 1]), (boundaries[own], boundaries[own + 1])
        for row, (first, end) in enumerate(ranges):
            rank = int((logits[first:end] > logits[place]).sum())
            right[row, own] += rank < k
    return right


@pytest.mark.parametrize("batch_size", [0, 5, 16, 1000])
@pytest.mark.parametrize(
    ("sharing", "loop"),
    [("sequential", False), ("sequential", True), ("interleaved", False), ("vmap", True)],
)
def test_against_numpy(dataset, batch_size, sharing, loop):
    executor = Executor(sharing, loop)
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=(9, NUM_CLASSES)).astype(np.float32) for _ in range(2)]
    made = make_streams(dataset)
    data = Data(
        *(
            jnp.asarray(getattr(dataset, f.name.replace("eval", "test")))
            for f in dataclasses.fields(Data)
        )
    )
    for k in (1, 2):
        method, settings = Linear(NUM_CLASSES), Evaluation(batch_size, top_k=k)
        for task in range(3):
            states = executor.distribute([jnp.asarray(w) for w in weights])
            found = evaluate(executor, method, data, made, states, task, settings)
            for one, stream, matrix in zip(found, made, weights, strict=True):
                right = count_right(dataset, stream, matrix, task, k)
                np.testing.assert_array_equal(one, right[None])
    # Tasks and seeds with different numbers of images are one program (two where seeds are mapped
    # and some tasks have equally many batches), another k is another.
    assert executor.num_compilations()["score_batch"] <= (4 if sharing == "vmap" else 2)


def test_evaluation_set_pads_with_images_that_do_not_count(dataset):
    stream = make_streams(dataset)[0]
    evaluation_set = make_evaluation_set(stream, 1, 16)
    assert evaluation_set.indices.shape[0] % 16 == 0
    assert evaluation_set.stop == stream.eval_counts[:2].sum()
    tasks = np.asarray(evaluation_set.tasks)[: stream.eval_counts.sum()]
    np.testing.assert_array_equal(np.bincount(tasks), stream.eval_counts)
    np.testing.assert_array_equal(evaluation_set.boundaries, [0, 2, 3, 6])
    assert evaluation_set.seen == 3


def test_nobody_is_right_by_padding(dataset):
    # All test images look alike to these weights, so every answer is the first class seen.
    made = make_streams(dataset, seeds=(0,))
    data = Data(
        jnp.asarray(dataset.train_images),
        jnp.asarray(dataset.train_labels),
        jnp.asarray(dataset.test_images),
        jnp.asarray(dataset.test_labels),
    )
    executor, settings = Executor(), Evaluation(64)
    states = executor.distribute([jnp.zeros((9, NUM_CLASSES))])
    found = evaluate(executor, Linear(NUM_CLASSES), data, made, states, 2, settings)[0][0]
    first = int((dataset.test_labels == made[0].class_order[0]).sum())
    np.testing.assert_array_equal(found[0], [first, 0, 0])
    assert found[1, 1] == made[0].eval_counts[1]  # the only class of its task
