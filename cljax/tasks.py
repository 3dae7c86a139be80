"""From a stream of tasks to what compiled functions are told about one of them."""

import jax
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
    task = Task(
        index=np.int32(index),
        old=np.int32(stream.old(index)),
        seen=np.int32(stream.seen(index)),
        past_images=np.int32(stream.train_counts[:index].sum()),
        boundaries=np.cumsum([0, *stream.task_sizes], dtype=np.int32),
        images=Subset(np.pad(images, (0, capacity - len(images))), np.int32(len(images))),
        class_images=table,
        class_image_counts=counts,
        label_map=stream.label_map,
        is_first=index == 0,
    )
    return jax.device_put(task)  # all at once; `jnp` would compile a program for every shape
