"""From a stream of tasks to what compiled functions are told about one of them."""

import jax.numpy as jnp
import numpy as np

from cljax.data.streams import TaskStream
from cljax.state import Subset, Task


def make_task(
    stream: TaskStream, index: int, train_labels: np.ndarray, joint: bool = False
) -> Task:
    """What compiled functions are told about task `index` (from 0) of a stream.

    Args:
      train_labels: int32 [N], the data set's own class numbers.
      joint: the images of all tasks so far are trained on.
    """
    new = stream.train_indices[index, : stream.train_counts[index]]
    images, capacity = new, stream.train_indices.shape[1]
    if joint:
        images = np.sort(stream.train_images(index))
        capacity = stream.train_indices.size
    labels = stream.label_map[train_labels[new]]
    by_class = [new[labels == k] for k in range(stream.old(index), stream.seen(index))]
    largest = np.bincount(train_labels).max()
    table = np.zeros((max(stream.task_sizes), largest), np.int32)
    counts = np.zeros(len(table), np.int32)
    for row, found in enumerate(by_class):
        table[row, : len(found)] = found
        counts[row] = len(found)
    return Task(
        index=jnp.int32(index),
        old=jnp.int32(stream.old(index)),
        seen=jnp.int32(stream.seen(index)),
        past_images=jnp.int32(stream.train_counts[:index].sum()),
        boundaries=jnp.asarray(np.cumsum([0, *stream.task_sizes]), jnp.int32),
        images=Subset(
            jnp.asarray(np.pad(images, (0, capacity - len(images)))), jnp.int32(len(images))
        ),
        class_images=jnp.asarray(table),
        class_image_counts=jnp.asarray(counts),
        label_map=jnp.asarray(stream.label_map),
        is_first=index == 0,
    )
