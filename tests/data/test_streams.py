"""Class orders, splits and index arrays, against the original code's numbers and by definition."""

import json
import os

import numpy as np
import pytest

from cljax.data.sources import Dataset
from cljax.data.streams import class_order, make_stream, split_sizes, stack_streams
from cljax.errors import UserError
from tests.helpers.goldens import harness_seed

TRAIN_PER_CLASS, TEST_PER_CLASS = 10, 3


def make_dataset(num_classes=6, train_labels=None, test_labels=None):
    """A data set of given labels, shuffled unless given, whose images are of no interest."""
    rng = np.random.default_rng(7)
    if train_labels is None:
        train_labels = rng.permutation(np.repeat(np.arange(num_classes), TRAIN_PER_CLASS))
    if test_labels is None:
        test_labels = rng.permutation(np.repeat(np.arange(num_classes), TEST_PER_CLASS))
    train_labels, test_labels = (np.asarray(x, np.int32) for x in (train_labels, test_labels))
    return Dataset(
        name="toy",
        train_images=np.zeros((len(train_labels), 2, 2, 1), np.uint8),
        train_labels=train_labels,
        test_images=np.zeros((len(test_labels), 2, 2, 1), np.uint8),
        test_labels=test_labels,
        num_classes=num_classes,
        class_names=tuple(map(str, range(num_classes))),
        mean=(0.0,),
        std=(1.0,),
    )


TERABYTES = b"\x93NUMPY\x01\x00\x76\x00" + (
    b"{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n"
)


def rows(stream):
    return [
        row[:count] for row, count in zip(stream.train_indices, stream.train_counts, strict=True)
    ]


def one_line(error):
    message = str(error.value)
    assert message and "\n" not in message
    return message


def golden_order(goldens, data, place):
    """The seed at a place among those of a data set's class orders, and its order."""
    prefix = f"order/{data}/seed"
    orders = goldens("class_orders")
    seeds = sorted(int(name.removeprefix(prefix)) for name in orders if name.startswith(prefix))
    return seeds[place], orders[f"{prefix}{seeds[place]}"]


@pytest.mark.parametrize("data, num_classes", [("CIFAR10", 10), ("CIFAR100", 100)])
@pytest.mark.parametrize("place", range(5))
def test_shuffled_is_the_originals_order_on_cifar(goldens, data, num_classes, place):
    seed, want = golden_order(goldens, data, place)
    got = class_order("shuffled", num_classes, seed)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("place", range(5))
def test_shuffled_is_the_originals_order_on_tiny_imagenet(goldens, place):
    seed, want = golden_order(goldens, "TinyImageNet", place)
    np.testing.assert_array_equal(class_order("shuffled", 200, seed), want)


@pytest.mark.parametrize("place", range(2))
def test_numpy_1993_is_the_originals_order_on_imagenet(goldens, place):
    seed, want = golden_order(goldens, "ImageNet", place)
    np.testing.assert_array_equal(class_order("numpy:1993", 1000, seed), want)


@pytest.mark.parametrize(
    "case, num_classes, order, split",
    [
        ("CIFAR100_20_20_-1", 100, "shuffled", dict(num_tasks=5)),
        ("CIFAR100_10_10_-1", 100, "shuffled", dict(num_tasks=10)),
        ("CIFAR100_5_5_-1", 100, "shuffled", dict(num_tasks=20)),
        ("CIFAR100_50_20_-1", 100, "shuffled", dict(num_tasks=1, task_sizes=(50, 20, 20, 10))),
        ("TinyImageNet_10_10_-1", 200, "shuffled", dict(num_tasks=20)),
        ("ImageNet_10_10_5", 1000, "numpy:1993", dict(num_tasks=100, max_tasks=5)),
    ],
)
def test_splits_are_the_originals(goldens, case, num_classes, order, split):
    golden = {
        name: goldens("class_orders")[f"split/{case}/{name}"]
        for name in ("sizes", "flat", "flat_logits", "max_task_out_dim")
    }
    dataset = make_dataset(num_classes)
    order_seed = harness_seed(goldens)
    stream = make_stream(dataset, seed=0, order_seed=order_seed, order=order, **split)
    assert stream.task_sizes == tuple(golden["sizes"])
    assert stream.num_tasks == golden["max_task_out_dim"][0]
    np.testing.assert_array_equal(stream.class_order, golden["flat"])
    np.testing.assert_array_equal(stream.label_map[golden["flat"]], golden["flat_logits"])
    never = np.setdiff1d(np.arange(num_classes), golden["flat"])
    assert (stream.label_map[never] == -1).all()


def test_orders_from_text_and_files_agree(tmp_path):
    want = [3, 1, 2]
    (tmp_path / "order.json").write_text(json.dumps(want))
    (tmp_path / "order.txt").write_text("3, 1\n2\n")
    np.save(tmp_path / "order.npy", np.array(want, np.int64))
    files = [str(tmp_path / f"order.{suffix}") for suffix in ("json", "txt", "npy")]
    for spec in ["3,1,2", "(3, 1, 2)", "[3,1,2]", " 3, 1, 2, ", *files]:
        got = class_order(spec, 5, seed=0)
        assert got.dtype == np.int32 and got.tolist() == want
    assert class_order("(4,)", 5, seed=0).tolist() == [4]
    assert class_order("sequential", 4, seed=9).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "spec, complaint",
    [
        ("1,1,2", "class 1 occurs more than once"),
        ("0,5", "config.data.class_order=0,5: the dataset has no class 5; use class ids 0 to 4"),
        ("0,-1", "the dataset has no class -1"),
        ("alphabetical", "no such file; use"),
        ("missing.json", "no such file"),
        ("numpy:x", "no such file"),
        ("numpy:99999999999", "below 2**32"),
        ("numpy:" + "9" * 5000, "below 2**32"),
        ("9" * 5000, "names a class id of more than 18 digits"),
        ("x" * 5000 + ".json", "no such file"),
        ("a\0b.json", "no such file"),
        ("", "no such file"),
    ],
)
def test_bad_orders_are_the_users_mistakes(spec, complaint):
    with pytest.raises(UserError) as error:
        class_order(spec, 5, seed=0)
    assert complaint in one_line(error)


@pytest.mark.parametrize(
    "name, content",
    [
        ("object.json", b'{"order": [1]}'),
        ("fractions.json", b"[1.5, 2]"),
        ("flags.json", b"[true, false]"),
        ("broken.json", b"[1, 2"),
        ("words.txt", b"one two"),
        ("empty.txt", b""),
        ("binary.txt", b"\xff\xfe\x00"),
        ("text.npy", b"1 2 3"),
        ("deep.json", b"[" * 100_000),
        ("nothing.json", b"null"),
        ("nan.json", b"[NaN]"),
        ("infinite.json", b"[1e999]"),
        ("huge.json", b"[" + b"9" * 5000 + b"]"),
        ("archive.npy", b"PK\3\4" + bytes(100)),
        ("terabytes.npy", TERABYTES),
        ("nested.npy", b"\x93NUMPY\x01\x00\x28\x23" + b"-" * 9000),
        ("order.csv", b"1,2,3"),
    ],
)
def test_bad_order_files_are_the_users_mistakes(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        class_order(str(tmp_path / name), 5, seed=0)
    assert name in one_line(error)


def test_a_pipe_with_an_order_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "order.json")
    with pytest.raises(UserError, match="no such file"):
        class_order(str(tmp_path / "order.json"), 5, seed=0)


@pytest.mark.parametrize("array", [np.eye(2, dtype=int), np.array([0.0, 1.0]), np.array(3)])
def test_order_arrays_must_be_flat_integers(tmp_path, array):
    np.save(tmp_path / "order.npy", array)
    with pytest.raises(UserError) as error:
        class_order(str(tmp_path / "order.npy"), 5, seed=0)
    assert "flat list of integer" in one_line(error)


def test_an_order_is_never_unpickled(tmp_path):
    np.save(tmp_path / "order.npy", np.array([1, None], object), allow_pickle=True)
    with pytest.raises(UserError) as error:
        class_order(str(tmp_path / "order.npy"), 5, seed=0)
    assert "not a list of class ids" in one_line(error)


@pytest.mark.parametrize(
    "arguments, want",
    [
        ((100, 5), (20,) * 5),
        ((100, 1), (100,)),
        ((100, 6, 50), (50, 10, 10, 10, 10, 10)),
        ((100, 2, 99), (99, 1)),
        ((100, 1, 100), (100,)),
        ((100, 3, 0, (5, 1, 2)), (5, 1, 2)),
        ((100, 5, 0, (), 2), (20, 20)),
        ((100, 5, 0, (), 9), (20,) * 5),
        ((100, 5, 0, (), 0), (20,) * 5),
        ((10, 1, 0, (4, 3, 3), 2), (4, 3)),
    ],
)
def test_split_sizes(arguments, want):
    assert split_sizes(*arguments) == want


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ((10, 3), "config.num_tasks=3: 10 classes cannot be split into equal tasks; use 1, 2, 5,"),
        ((10, 11), "cannot be split"),
        ((10, 0), "config.num_tasks=0"),
        ((10, -2), "config.num_tasks=-2"),
        ((10, 3, -1), "config.first_task_size=-1"),
        ((10, 3, 10), "after a first task of 10"),
        ((10, 3, 12), "after a first task of 12"),
        ((10, 1, 4), "after a first task of 4; use 2, 3, 4, 7, or set config.task_sizes"),
        ((10, 4, 5), "use 2, 6, or set config.task_sizes"),
        ((10, 1, 0, (5, 6)), "config.task_sizes=(5, 6): each must be 1 or more and their sum, 11"),
        ((10, 1, 0, (5, 6)), "at most the 10 classes"),
        ((10, 1, 0, (5, 0)), "each must be 1 or more"),
        ((10, 1, 0, (12, -2)), "each must be 1 or more"),
    ],
)
def test_impossible_splits_are_the_users_mistakes(arguments, complaint):
    with pytest.raises(UserError) as error:
        split_sizes(*arguments)
    assert complaint in one_line(error)


def test_tasks_partition_the_training_images_in_file_order():
    dataset = make_dataset(6)
    stream = make_stream(dataset, seed=0, order_seed=3, num_tasks=3, first_task_size=2)
    for task, row in enumerate(rows(stream)):
        classes = stream.class_order[stream.old(task) : stream.seen(task)]
        np.testing.assert_array_equal(row, np.flatnonzero(np.isin(dataset.train_labels, classes)))
    assert sorted(np.concatenate(rows(stream))) == list(range(60))
    assert stream.train_counts.tolist() == [20, 20, 20]
    assert stream.train_indices.dtype == stream.train_counts.dtype == np.int32


def test_uneven_tasks_are_padded_with_zeros():
    stream = make_stream(make_dataset(6), seed=0, order_seed=0, num_tasks=1, task_sizes=(1, 3))
    assert stream.train_indices.shape == (2, 30)
    assert stream.train_counts.tolist() == [10, 30]
    assert not stream.train_indices[0, 10:].any()


def test_evaluation_images_come_by_task_then_in_file_order():
    dataset = make_dataset(6)
    stream = make_stream(dataset, seed=0, order_seed=1, num_tasks=3, max_tasks=2)
    assert stream.eval_split == "test"
    assert stream.eval_indices.dtype == stream.eval_counts.dtype == np.int32
    assert stream.eval_counts.tolist() == [6, 6]
    mapped = stream.label_map[dataset.test_labels]
    want = [np.flatnonzero((mapped >= 0) & (mapped < 2)), np.flatnonzero(mapped > 1)]
    np.testing.assert_array_equal(stream.eval_indices, np.concatenate(want))


def test_seen_and_old_count_classes():
    stream = make_stream(make_dataset(6), seed=0, order_seed=0, num_tasks=1, task_sizes=(1, 3, 2))
    assert [stream.old(task) for task in range(3)] == [0, 1, 4]
    assert [stream.seen(task) for task in range(3)] == [1, 4, 6]


def test_order_seed_alone_chooses_the_order():
    dataset = make_dataset(6)
    one, other = (make_stream(dataset, seed=s, order_seed=4, num_tasks=2) for s in (0, 1))
    np.testing.assert_array_equal(one.class_order, other.class_order)
    assert (one.seed, other.seed) == (0, 1)


def test_a_short_list_leaves_classes_without_task():
    dataset = make_dataset(6)
    stream = make_stream(dataset, seed=0, order_seed=0, order="5,0", num_tasks=2)
    assert stream.task_sizes == (1, 1)
    assert stream.label_map.tolist() == [1, -1, -1, -1, -1, 0]
    assert dataset.train_labels[stream.train_indices].tolist() == [[5] * 10, [0] * 10]


def test_validation_holds_out_a_fifth_by_the_runs_seed():
    dataset = make_dataset(6)
    held_out = []
    for seed in range(5):
        stream = make_stream(dataset, seed=seed, order_seed=0, num_tasks=2, validation=True)
        permutation = np.random.RandomState(seed).permutation(60)
        assert stream.eval_split == "train"
        assert sorted(stream.eval_indices) == sorted(permutation[12 * seed : 12 * seed + 12])
        used = np.concatenate([*rows(stream), stream.eval_indices])
        assert sorted(used) == list(range(60))
        assert all((np.diff(row) > 0).all() for row in rows(stream))
        bounds = np.cumsum(stream.eval_counts)
        for task, part in enumerate(np.split(stream.eval_indices, bounds[:-1])):
            mapped = stream.label_map[dataset.train_labels[part]]
            assert (mapped // 3 == task).all() and (np.diff(part) > 0).all()
        held_out.append(tuple(sorted(stream.eval_indices)))
    assert len(set(held_out)) == 5


@pytest.mark.parametrize("seed", [5, -1])
def test_validation_has_five_folds(seed):
    with pytest.raises(UserError) as error:
        make_stream(make_dataset(), seed=seed, order_seed=0, num_tasks=2, validation=True)
    message = one_line(error)
    assert message.startswith("config.data.validation=True") and "seeds 0 to 4" in message


@pytest.mark.parametrize(
    "split, complaint",
    [("train", "class 1 has no training image"), ("test", "task 2 has no evaluation image")],
)
def test_missing_images_matter_only_if_the_run_needs_them(split, complaint):
    dataset = make_dataset(3, **{f"{split}_labels": [0, 2, 0, 2]})
    with pytest.raises(UserError) as error:
        make_stream(dataset, seed=0, order_seed=0, order="0,1,2", num_tasks=3)
    assert complaint in one_line(error)
    stream = make_stream(dataset, seed=0, order_seed=0, order="2,0", num_tasks=2)
    assert stream.task_sizes == (1, 1)


def test_stacked_streams_have_equal_shapes_and_true_counts():
    train = np.repeat(np.arange(4), [2, 4, 6, 8])
    test = np.repeat(np.arange(4), [1, 2, 3, 4])
    dataset = make_dataset(4, train, test)
    streams = [
        make_stream(dataset, seed=0, order_seed=0, order=order, num_tasks=2, max_tasks=1)
        for order in ("0,1,2,3", "2,3,0,1", "1,2,0,3")
    ]
    stacked = stack_streams(streams)
    assert {stream.train_indices.shape for stream in stacked} == {(1, 14)}
    assert {stream.eval_indices.shape for stream in stacked} == {(10,)}
    assert np.stack([s.train_counts for s in stacked]).tolist() == [[6], [14], [10]]
    for before, after in zip(streams, stacked, strict=True):
        np.testing.assert_array_equal(np.concatenate(rows(before)), np.concatenate(rows(after)))
        count = after.eval_counts.sum()
        np.testing.assert_array_equal(after.eval_indices[:count], before.eval_indices)
        assert not after.eval_indices[count:].any()
        assert not after.train_indices[0, after.train_counts[0] :].any()
        np.testing.assert_array_equal(before.label_map, after.label_map)


@pytest.mark.parametrize("validation", [False, True])
def test_shapes_do_not_depend_on_seeds_or_the_number_of_tasks(validation):
    dataset = make_dataset(6, np.repeat(np.arange(6), [9, 8, 12, 11, 7, 10]))
    kinds = {"num_tasks": 3, "validation": validation}
    shapes = set()
    for seed in range(4):
        for max_tasks in (1, 2, 0):
            stream = make_stream(dataset, seed=seed, order_seed=seed, max_tasks=max_tasks, **kinds)
            (stream,) = stack_streams([stream])
            shapes.add((stream.train_indices.shape[1], stream.eval_indices.shape, stream.all_sizes))
    length = 12 if validation else len(dataset.test_labels)
    assert shapes == {(12 + 11, (length,), (2, 2, 2))}


def test_streams_of_different_tasks_do_not_stack():
    dataset = make_dataset(6)
    streams = [make_stream(dataset, seed=0, order_seed=0, num_tasks=n) for n in (2, 3)]
    with pytest.raises(ValueError, match="cannot be stacked"):
        stack_streams(streams)
