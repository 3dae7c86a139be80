"""Builds the parts of a run from its config, and checks the settings."""

import functools
import math
import typing
from difflib import get_close_matches
from typing import Any, Literal

import jax.numpy as jnp

from cljax import config_files, evaluation, methods
from cljax.compute import mesh
from cljax.compute.device import PRECISIONS
from cljax.compute.executor import Executor
from cljax.data.augment import Augmentation
from cljax.data.preprocessing import Preprocessing
from cljax.errors import UserError
from cljax.evaluation import READ_OUTS
from cljax.inversion import Inversion
from cljax.memory import nearest_mean
from cljax.memory.policy import REPLAYS, STRATEGIES, MemoryPolicy
from cljax.methods.base import Finetune, Parts
from cljax.models import AutoEncoder, Classifier, make_autoencoder, make_classifier, make_generator
from cljax.optimizer import SGD
from cljax.stages import InversionStage, TrainStage

_PLAIN = (bool, float, int, str)


def check_choice(key: str, value, choices) -> None:
    """Raises UserError unless `value`, of config.`key`, is one of `choices`."""
    if value not in choices:
        raise UserError(f"config.{key}: {value!r} is none of {', '.join(choices)}")


def compute_dtype(config) -> jnp.dtype:
    """The dtype of activations; parameters and statistics are float32 always.

    Raises:
      UserError: config.dtype is none of PRECISIONS.
    """
    check_choice("dtype", config.dtype, PRECISIONS)
    return PRECISIONS[config.dtype][0]


def matmul_precision(config) -> str:
    """The precision of matrix products and convolutions, as JAX names it."""
    compute_dtype(config)
    return PRECISIONS[config.dtype][1]


def scaled(config, count: int) -> int:
    """A number of epochs or steps under config.schedule_scale; at least 1 if it was."""
    return max(min(count, 1), round(count * config.schedule_scale))


def classifier(config, dataset) -> Classifier:
    """The network, with a head for every class of the data set."""
    model = config.model
    return make_classifier(
        model.name, dataset.num_classes, model.width, compute_dtype(config), model.head
    )


def preprocessing(config, dataset) -> Preprocessing:
    """The data set's transforms."""
    augmentation = Augmentation(**config.data.augmentation.to_dict())
    mean, std = config.data.mean or dataset.mean, config.data.std or dataset.std
    if not len(mean) == len(std) == len(dataset.mean):
        raise UserError(
            f"config.data.mean and .std: {mean} and {std} must have {len(dataset.mean)} entries, "
            "one a channel"
        )
    if not config.data.standardise:
        mean, std = (0.0,) * len(mean), (1.0,) * len(std)
    return Preprocessing(augmentation, mean, std, compute_dtype(config))


def memory(config, supports_exemplars: bool) -> MemoryPolicy:
    """The exemplar policy.

    Raises:
      UserError: a setting is wrong, settings contradict each other, or the method does not take
        exemplars.
    """
    settings = config.exemplars
    check_choice("exemplars.strategy", settings.strategy, STRATEGIES)
    check_choice("exemplars.replay", settings.replay, REPLAYS)
    for key in ("total", "per_class"):
        if settings[key] < 0:
            raise UserError(f"config.exemplars.{key}: {settings[key]} must be 0 or more")
    if settings.total and settings.per_class:
        raise UserError(
            f"config.exemplars: total={settings.total} and per_class={settings.per_class} exclude "
            "each other; set one of them to 0"
        )
    result = MemoryPolicy(
        size=settings.total or settings.per_class,
        strategy=settings.strategy,
        replay=settings.replay,
        class_weighting=settings.class_weighting,
        per_class=settings.per_class > 0,
    )
    _check_memory(config, result, supports_exemplars)
    return result


def _check_memory(config, memory, supports_exemplars):
    key = "config.exemplars.per_class" if memory.per_class else "config.exemplars.total"
    if memory.size and not supports_exemplars:
        raise UserError(
            f"{key}: {memory.size}, but method {config.method.name!r} keeps no images; set it to 0 "
            "or take another method"
        )
    if memory.size and memory.strategy == "none":
        raise UserError(
            f"{key}: {memory.size}, but config.exemplars.strategy 'none' keeps no images; set the "
            "number to 0 or take another strategy"
        )
    if memory.per_class and not memory.is_balanced:
        raise UserError(
            f"config.exemplars.per_class: strategy {memory.strategy!r} keeps images whatever their "
            "classes; set config.exemplars.total instead or take another strategy"
        )
    if memory.class_weighting and not memory.size:
        raise UserError(
            "config.exemplars.class_weighting: without exemplars no class is rare; set "
            "config.exemplars.total or per_class"
        )


def training(
    config, cls: type[TrainStage] = TrainStage, name: str = "train", lr_scale: float = 1.0
) -> TrainStage:
    """A supervised stage with the config's schedule.

    Args:
      cls: the stage's class.
      lr_scale: multiplies the learning rate.
    """
    milestones = tuple(scaled(config, m) for m in config.milestones)
    return cls(
        name=name,
        epochs=scaled(config, config.epochs),
        save_every=config.checkpoint.every_epochs,
        batch_size=config.batch_size,
        drop_last=config.drop_last,
        optimizer=SGD(
            learning_rate=lr_scale * config.optimizer.lr,
            momentum=config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
            decay=config.optimizer.decay,
            milestones=milestones,
        ),
    )


def dreaming(config, dataset) -> InversionStage:
    """The stage that trains the generator after a task.

    Raises:
      UserError: the config has no block `inversion`, or a wrong one.
    """
    if "inversion" not in config:
        raise UserError(
            f"config.inversion is missing, but method {config.method.name!r} dreams images; "
            "see configs/common.py"
        )
    settings = config.inversion
    steps = scaled(config, settings.steps)
    steps_per_epoch = min(settings.steps_per_epoch, steps)
    image_shape = dataset.train_images.shape[1:]
    return InversionStage(
        name="invert",
        epochs=-(-steps // steps_per_epoch),
        save_every=-(-config.checkpoint.every_inversion_steps // steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        inversion=Inversion(
            generator=make_generator(settings.generator, image_shape, compute_dtype(config)),
            steps=steps,
            batch_size=config.batch_size,
            learning_rate=settings.lr,
            content=settings.content,
            temperature=settings.temperature,
            statistics=settings.statistics,
            prior=settings.prior,
        ),
    )


def autoencoder(config, dataset) -> AutoEncoder:
    """The auto-encoder of `config.autoencoder`.

    Raises:
      UserError: there is no such block, the images do not fit, or they are standardised.
    """
    if "autoencoder" not in config:
        raise UserError(
            f"config.autoencoder is missing, but method {config.method.name!r} replays images; see "
            "configs/common.py"
        )
    if config.data.standardise:
        raise UserError(
            f"config.data.standardise: {config.method.name} reconstructs pixels in 0..1; set "
            "config.data.standardise=False"
        )
    channels, latents = tuple(config.autoencoder.channels), config.autoencoder.latents
    image_shape = dataset.train_images.shape[1:]
    return make_autoencoder(image_shape, channels, latents, compute_dtype(config))


def make_method(config, dataset) -> Finetune:
    """The method that `config.method` names, built for a Dataset.

    Raises:
      UserError: there is no such method, or one of its settings is wrong.
    """
    cls = methods.find_class(config.method.name)
    own = method_settings(config, cls)
    if not (config.drop_last or cls.supports_partial_batches):
        raise UserError(
            f"config.drop_last: method {config.method.name!r} takes complete batches only; set it "
            "to True"
        )
    parts = Parts(
        classifier=classifier(config, dataset),
        preprocessing=preprocessing(config, dataset),
        training=training(config),
        memory=memory(config, cls.supports_exemplars),
        stage=functools.partial(training, config),
        inversion_stage=functools.partial(dreaming, config, dataset),
        autoencoder=functools.partial(autoencoder, config, dataset),
        scaled=functools.partial(scaled, config),
    )
    return cls.from_parts(parts, **own)


def method_settings(config, cls: type[Finetune]) -> dict[str, Any]:
    """The method's own settings: config.method without its name.

    They are the fields of the class that hold plain values; those annotated `Literal` say which.

    Raises:
      UserError: a setting that the method does not have, or a value that it cannot have.
    """
    types = {
        name: kind
        for name, kind in typing.get_type_hints(cls).items()
        if kind in _PLAIN or typing.get_origin(kind) in (Literal, tuple)
    }
    settings = {key: value for key, value in config.method.items() if key != "name"}
    for key, value in settings.items():
        if key not in types:
            if new := config_files.RENAMED.get(f"method.{key}"):
                raise UserError(f"config.method.{key}: this key is gone; use config.{new}")
            near = get_close_matches(key, types, n=3) or sorted(types)
            raise UserError(
                f"config.method.{key}: method {config.method.name!r} has no such setting"
                + (f"; did you mean {', '.join(near)}?" if near else "")
            )
        if typing.get_origin(types[key]) is Literal:
            check_choice(f"method.{key}", value, typing.get_args(types[key]))
    return settings


def make_executor(config) -> Executor:
    """How this run loops, as config.execution and config.mesh say.

    Raises:
      UserError: there is no such mesh.
    """
    return Executor(
        # "auto" is one after the other: what is fast on CPU, and not measured elsewhere yet.
        vmap_seeds=config.execution.seeds == "vmap",
        compiled_loop={"auto": None, "compiled": True, "host": False}[config.execution.loop],
        mesh=make_mesh(config),
    )


def make_mesh(config):
    divided = math.gcd(config.batch_size, config.eval.batch_size or evaluation.BATCH)
    return mesh.make_mesh(config.mesh.seeds, config.mesh.data, len(config.seeds), divided)


def check(config) -> None:
    """Settings that are wrong whatever the data set.

    Raises:
      UserError: names the key, its value and what it may be.
    """
    _check_seeds(config)
    _check_numbers(config)
    check_choice("execution.seeds", config.execution.seeds, ("auto", "sequential", "vmap"))
    check_choice("execution.loop", config.execution.loop, ("auto", "compiled", "host"))
    check_choice("eval.mirror", config.eval.mirror, nearest_mean.MIRRORS)
    for name in config.eval.read_outs:
        check_choice("eval.read_outs", name, READ_OUTS)
    make_mesh(config)


def _check_seeds(config):
    seeds = config.seeds
    if not seeds or not all(isinstance(s, int) and 0 <= s < 2**31 for s in seeds):
        raise UserError(f"config.seeds: {seeds} is no tuple of seeds, such as (0,) or (0,1,2)")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"config.seeds: {seeds} names a seed twice")
    for name, offset in config.streams.items():
        if not -(2**31) <= offset < 2**31 - max(seeds):
            raise UserError(f"config.streams.{name}: {offset} leaves the range of 32 bits")


def _check_numbers(config):
    for key in ("task_sizes", "milestones"):
        if not all(isinstance(n, int) for n in config[key]):
            raise UserError(f"config.{key}: {config[key]} is no tuple of whole numbers")
    at_least_one = {
        "model.width": config.model.width,
        "batch_size": config.batch_size,
        "epochs": config.epochs,
        "eval.top_k": config.eval.top_k,
        "checkpoint.keep": config.checkpoint.keep,
    }
    if "inversion" in config:
        at_least_one["inversion.steps"] = config.inversion.steps
        at_least_one["inversion.steps_per_epoch"] = config.inversion.steps_per_epoch
    for key, value in at_least_one.items():
        if value < 1:
            raise UserError(f"config.{key}: {value} must be at least 1")
    if config.eval.batch_size < 0:
        value = config.eval.batch_size
        raise UserError(f"config.eval.batch_size: {value} must be 0 (what is fast) or more")
    above_zero = {"schedule_scale": config.schedule_scale, "optimizer.lr": config.optimizer.lr}
    if "inversion" in config:
        above_zero["inversion.lr"] = config.inversion.lr
        above_zero["inversion.temperature"] = config.inversion.temperature
    for key, value in above_zero.items():
        if not 0 < value < math.inf:
            raise UserError(f"config.{key}: {value} must be a finite number above 0")
