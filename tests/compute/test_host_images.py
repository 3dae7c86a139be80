"""Images on the host are the same to compiled code as images on the device."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.compute.executor import Executor
from cljax.compute.host_images import HostImages, reporting_mistakes, windows
from cljax.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 4, 5, 3), np.uint8)


def test_compiled_code_indexes_them_as_an_array():
    rows = jnp.array([[3, 49, 3], [0, 7, 1]])
    images = HostImages(IMAGES)
    take = jax.jit(lambda images, rows: images[rows])
    np.testing.assert_array_equal(take(images, rows[0]), IMAGES[rows[0]])
    several = jax.jit(jax.vmap(take, (None, 0)))
    np.testing.assert_array_equal(several(images, rows), IMAGES[rows])
    assert (images.shape, images.dtype) == (IMAGES.shape, np.uint8)
    assert not jax.tree.leaves(images)


def test_a_compiled_loop_waits_for_them():
    @jax.jit
    def total(images, count):
        def body(i, sum_):
            return sum_ + images[jnp.arange(5) + 5 * i].astype(jnp.int32).sum((0, 1, 2))

        return jax.lax.fori_loop(0, count, body, jnp.zeros(3, jnp.int32))

    expected = IMAGES[:35].astype(np.int32).sum((0, 1, 2))
    np.testing.assert_array_equal(total(HostImages(IMAGES), 7), expected)


@pytest.mark.parametrize(
    ("sharing", "loop"),
    [("sequential", False), ("sequential", True), ("interleaved", True), ("vmap", True)],
)
def test_windows_hold_each_steps_images(sharing, loop, monkeypatch):
    monkeypatch.setattr("cljax.compute.host_images._WINDOW_STEPS", 3)
    executor = Executor(sharing, loop)
    orders = [np.random.default_rng(seed).permutation(50) for seed in range(2)]
    starts, stops = [2, 4], [12, 9]  # of batches of 4
    seen = {}
    for first, last, images in windows(executor, HostImages(IMAGES), orders, 4, starts, stops):
        for seed, of_seed in enumerate(executor.collect(images)):
            assert of_seed.shape[:2] == (3 if loop else 1, 4)
            for step in range(first[seed], last[seed]):
                assert (seed, step) not in seen
                seen[seed, step] = np.asarray(of_seed)[step % of_seed.shape[0]]
    assert sorted(seen) == [(0, i) for i in range(2, 12)] + [(1, i) for i in range(4, 9)]
    for (seed, step), batch in seen.items():
        rows = orders[seed][4 * step : 4 * step + 4]
        np.testing.assert_array_equal(batch, IMAGES[rows])


def test_windows_are_read_ahead():
    read = []
    reached = threading.Event()

    class Watched:
        shape = IMAGES.shape

        def __getitem__(self, rows):
            read.append(tuple(rows))
            if len(read) >= 3:
                reached.set()
            return IMAGES[rows]

    found = windows(Executor(), HostImages(Watched()), [np.arange(50)], 10, [0], [5])
    next(found)
    assert reached.wait(10)  # nobody has asked for the others yet
    found.close()


def test_an_error_of_a_reader_reaches_the_run():
    class Broken:
        shape = IMAGES.shape

        def __getitem__(self, rows):
            raise OSError("no such image")

    with pytest.raises(OSError, match="no such image"):
        next(windows(Executor(), HostImages(Broken()), [np.arange(50)], 10, [0], [5]))


def test_a_bad_image_that_compiled_code_asks_for_is_one_line():
    class Broken:
        shape = IMAGES.shape

        def __getitem__(self, rows):
            raise UserError("a.jpg: cannot read it as an image")

    take = jax.jit(lambda images, rows: images[rows])
    with pytest.raises(UserError, match=r"^a.jpg: cannot read"), reporting_mistakes():
        jax.block_until_ready(take(HostImages(Broken()), jnp.arange(3)))
    with pytest.raises(jax.errors.JaxRuntimeError), reporting_mistakes():
        raise jax.errors.JaxRuntimeError("another")
