"""Class orders, schedules and weights of LUCIR's experiments against the original's."""

import numpy as np
import pytest

from cljax import settings
from cljax.data import streams
from cljax.data.streams import class_order
from configs import lucir_cifar100, lucir_imagenet1000, lucir_imagenet_subset
from tests.helpers.tiny_runs import empty_dataset, make_method
from tests.test_build import CIFAR


@pytest.mark.parametrize("seed", [0, 1, 2, 1993])
def test_class_orders(lucir_goldens, seed):
    arrays = lucir_goldens("protocol")
    for run in range(3):
        want = arrays[f"class_order.seed{seed}_run{run}"]
        np.testing.assert_array_equal(class_order(f"numpy:{seed}:runs", 100, run), want)
    want = arrays[f"class_order_libcontinual.seed{seed}"]
    np.testing.assert_array_equal(class_order(f"numpy:{seed}", 100, 7), want)


def test_learning_rates(lucir_goldens):
    arrays = lucir_goldens("protocol")
    method = make_method(lucir_cifar100.get_config(), CIFAR)
    for stage, name in (
        (method.training, "original_cifar"),
        (method.finetuning_stage, "original_class_balanced_finetuning"),
        (method.training, "libcontinual_lucir"),
    ):
        rates = [stage.learning_rate(epoch) for epoch in range(stage.epochs)]
        np.testing.assert_allclose(rates, arrays[f"lr.{name}"], rtol=1e-6)


@pytest.mark.parametrize(
    ("module", "sizes"),
    [(lucir_imagenet_subset, (50, *[10] * 5)), (lucir_imagenet1000, (500, *[100] * 5))],
)
def test_imagenet(lucir_goldens, module, sizes):
    """Section 6.4 of the specification; the network is of no interest here."""
    arrays, config = lucir_goldens("protocol"), module.get_config()
    config.model.name = "resnet8_lucir"
    found = streams.split_sizes(sum(sizes), config.num_tasks, config.first_task_size)
    assert found == sizes and config.data.class_order == "numpy:1993"
    method = make_method(config, empty_dataset(512, 512, 3, num_classes=1000, input_size=224))
    rates = [method.training.learning_rate(epoch) for epoch in range(method.training.epochs)]
    np.testing.assert_allclose(rates, arrays["lr.original_imagenet"], rtol=1e-6)
    optimizer = method.training.optimizer
    assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 1e-4)
    assert method.training.batch_size == 128 and not method.training.drop_last
    found = method.lamda, method.margin, method.num_hard_negatives, method.ranking_weight
    assert found == (10.0, 0.5, 2, 1.0)
    assert config.exemplars.per_class == 20 and config.eval.mirror == "none"
    assert method.balanced_finetuning == (module is lucir_imagenet1000)


@pytest.mark.parametrize("phases", [1, 2, 5, 10, 25, 50])
def test_phases_and_weights(lucir_goldens, phases):
    arrays = lucir_goldens("protocol")
    config = lucir_cifar100.get_config()
    sizes = streams.split_sizes(100, phases + 1, config.first_task_size)
    seen = np.cumsum(sizes)
    np.testing.assert_array_equal(seen, arrays[f"classes_seen.{phases}_phases"])
    weights = config.method.lamda * np.sqrt(seen[:-1] / np.array(sizes[1:]))
    np.testing.assert_allclose(weights, arrays[f"cur_lamda.{phases}_phases"], rtol=1e-6)
    assert settings.read(config).scaled(config.epochs) == 160
