"""Builds the parts of a run from its settings, and checks the settings."""

import dataclasses
import functools
import math
import typing
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import jax.numpy as jnp
from jax.sharding import Mesh

from cljax import evaluation, methods
from cljax.compute import device, mesh
from cljax.compute.device import PRECISIONS
from cljax.compute.executor import Executor
from cljax.data.augment import Augmentation
from cljax.data.preprocessing import Preprocessing
from cljax.data.sources import Dataset
from cljax.errors import UserError
from cljax.inversion import Inversion
from cljax.memory.policy import MemoryPolicy
from cljax.methods.base import Finetune, Parts
from cljax.models import AutoEncoder, Classifier, make_autoencoder, make_classifier, make_generator
from cljax.models.own import check_own_backbone, has_moments
from cljax.optimizers import by_name
from cljax.settings import MethodSettings, Settings, read_method
from cljax.stages import InversionStage, TrainStage

_PLAIN = (bool, float, int, str)


def compute_dtype(settings: Settings) -> jnp.dtype:
    """Returns the dtype of activations; parameters and statistics are float32 always."""
    return PRECISIONS[device.precision(settings.dtype)][0]


def matmul_precision(settings: Settings) -> str:
    """Returns the precision of matrix products and convolutions, as JAX names it."""
    return PRECISIONS[device.precision(settings.dtype)][1]


def with_precision(settings: Settings) -> Settings:
    """Returns the settings with the dtype that "auto" stands for on this device."""
    return settings.model_copy(update={"dtype": device.precision(settings.dtype)})


def classifier(settings: Settings, dataset: Dataset) -> Classifier:
    """Builds the classifier, with a head column for every class of the dataset.

    Raises:
      UserError: there is no such network, or one outside cljax does not fit.
    """
    model = settings.model
    result = make_classifier(
        model.name, dataset.num_classes, model.width, compute_dtype(settings), model.head
    )
    if ":" in model.name:
        check_own_backbone(model.name, result.backbone, dataset.image_shape)
    return result


def preprocessing(settings: Settings, dataset: Dataset) -> Preprocessing:
    """Builds the transforms of the dataset's images.

    Raises:
      UserError: config.data.mean or .std does not have one entry per channel, or the images have
        one size and cannot be cut and resized.
    """
    augmentation = Augmentation(**settings.data.augmentation.model_dump())
    if augmentation.resized_crop and not dataset.input_size:
        raise UserError(
            f"config.data.augmentation.resized_crop=True: the images of {dataset.name} have one "
            "size and are not resized; set it to False"
        )
    mean, std = settings.data.mean or dataset.mean, settings.data.std or dataset.std
    if not len(mean) == len(std) == len(dataset.mean):
        raise UserError(
            f"config.data.mean and .std: {mean} and {std} must have {len(dataset.mean)} entries, "
            "one a channel"
        )
    if not settings.data.standardise:
        mean, std = (0.0,) * len(mean), (1.0,) * len(std)
    dtype = compute_dtype(settings)
    return Preprocessing(augmentation, mean, std, dtype, dataset.input_size)


def memory_policy(settings: Settings, supports_exemplars: bool) -> MemoryPolicy:
    """Builds the rules of the exemplar memory.

    Raises:
      UserError: settings contradict each other, or the method does not take exemplars.
    """
    exemplars = settings.exemplars
    result = MemoryPolicy(
        size=exemplars.total or exemplars.per_class,
        strategy=exemplars.strategy,
        replay=exemplars.replay,
        class_weighting=exemplars.class_weighting,
        per_class=exemplars.per_class > 0,
    )
    _check_memory(settings, result, supports_exemplars)
    return result


def _check_memory(settings, memory, supports_exemplars):
    key = "config.exemplars.per_class" if memory.per_class else "config.exemplars.total"
    if memory.size and not supports_exemplars:
        raise UserError(
            f"{key}={memory.size}: method {settings.method.name!r} keeps no exemplars; set it to "
            "0, or use another method"
        )
    if memory.size and memory.strategy == "none":
        raise UserError(
            f"{key}={memory.size}: config.exemplars.strategy='none' keeps no exemplars; set the "
            "number to 0, or use another strategy"
        )
    if memory.per_class and not memory.is_balanced:
        raise UserError(
            f"config.exemplars.per_class={memory.size}: strategy {memory.strategy!r} keeps images "
            "whatever their classes; set config.exemplars.total instead, or use another strategy"
        )
    if memory.class_weighting and not memory.size:
        raise UserError(
            "config.exemplars.class_weighting=True: needs exemplars; set config.exemplars.total or "
            ".per_class"
        )


def train_stage(
    settings: Settings,
    cls: type[TrainStage] = TrainStage,
    name: str = "train",
    lr_scale: float = 1.0,
) -> TrainStage:
    """Builds a supervised stage with the run's schedule.

    Args:
      settings: those of the run.
      cls: class of the stage.
      name: name of the stage.
      lr_scale: factor of the learning rate.

    Raises:
      UserError: optimizer or schedule are unknown, or have wrong arguments.
    """
    return cls(
        name=name,
        epochs=settings.scaled(settings.epochs),
        save_every=settings.checkpoint.every_epochs,
        batch_size=settings.batch_size,
        drop_last=settings.drop_last,
        optimizer=by_name.make_optimizer(settings, lr_scale),
        schedule=by_name.make_schedule(settings),
    )


def inversion_stage(
    settings: Settings, dataset: Dataset, network: Classifier, cls: type[InversionStage]
) -> InversionStage:
    """Builds the stage that trains the generator.

    Args:
      settings: those of the run.
      dataset: gives the size of the images.
      network: the classifier that they are dreamed for.
      cls: class of the stage.

    Raises:
      UserError: the config has no block `inversion`, the generator does not fit the images, or the
        classifier has no batch norm whose statistics they can match.
    """
    if settings.inversion is None:
        raise UserError(
            f"config.inversion is missing: method {settings.method.name!r} dreams images; see "
            "configs/common.py"
        )
    inversion = settings.inversion
    steps = settings.scaled(inversion.steps)
    steps_per_epoch = min(inversion.steps_per_epoch, steps)
    image_shape = dataset.image_shape
    # The networks of cljax have it; tracing one to ask takes a third of a second.
    is_own = ":" in settings.model.name
    if is_own and inversion.statistics and not has_moments(network.backbone, image_shape):
        raise UserError(
            f"config.inversion.statistics={inversion.statistics:g}: network {settings.model.name} "
            "has no batch norm (that of cljax.models.norm) whose statistics dreamed images can "
            "match; set it to 0, or use another network"
        )
    return cls(
        name="invert",
        epochs=-(-steps // steps_per_epoch),
        save_every=-(-settings.checkpoint.every_inversion_steps // steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        inversion=Inversion(
            generator=make_generator(inversion.generator, image_shape, compute_dtype(settings)),
            steps=steps,
            batch_size=settings.batch_size,
            learning_rate=inversion.lr,
            content=inversion.content,
            temperature=inversion.temperature,
            statistics=inversion.statistics,
            prior=inversion.prior,
        ),
    )


def autoencoder(settings: Settings, dataset: Dataset) -> AutoEncoder:
    """Builds the auto-encoder of `config.autoencoder`.

    Raises:
      UserError: there is no such block, the images do not fit, or they are standardized.
    """
    if settings.autoencoder is None:
        raise UserError(
            f"config.autoencoder is missing: method {settings.method.name!r} replays decoded "
            "images; see configs/common.py"
        )
    if settings.data.standardise:
        raise UserError(
            f"config.data.standardise=True: method {settings.method.name!r} reconstructs pixels in "
            "0..1; set it to False"
        )
    channels, latents = settings.autoencoder.channels, settings.autoencoder.latents
    image_shape = dataset.image_shape
    return make_autoencoder(image_shape, channels, latents, compute_dtype(settings))


def make_method(settings: Settings, dataset: Dataset) -> Finetune:
    """Builds the method that `config.method` names.

    Raises:
      UserError: there is no such method, a setting of it is wrong, or settings do not fit it.
    """
    cls = methods.find_class(settings.method.name)
    own = method_settings(settings.method, cls)
    if not (settings.drop_last or cls.supports_partial_batches):
        raise UserError(
            f"config.drop_last=False: method {settings.method.name!r} supports complete batches "
            "only; set it to True"
        )
    network = classifier(settings, dataset)
    training = dataclasses.replace(
        train_stage(settings),
        first_epochs=settings.scaled(settings.init_epochs) or None,
        first_learning_rate=settings.optimizer.init_lr or None,
    )
    parts = Parts(
        classifier=network,
        preprocessing=preprocessing(settings, dataset),
        training=training,
        memory=memory_policy(settings, cls.supports_exemplars),
        stage=functools.partial(train_stage, settings),
        inversion_stage=functools.partial(inversion_stage, settings, dataset, network),
        autoencoder=functools.partial(autoencoder, settings, dataset),
        scaled=settings.scaled,
    )
    return cls.from_parts(parts, **own)


def method_settings(settings: MethodSettings, cls: type[Finetune]) -> dict[str, Any]:
    """Returns the method's own settings, checked.

    They are the fields of the class that hold plain values: bool, int, float, str, `Literal` or
    tuples. `Annotated[float, annotated_types.Ge(0)]` and the like give bounds.

    Raises:
      UserError: a line for each setting that the method does not have, or cannot have so.
    """
    return read_method(settings.name, method_types(cls), settings.own)


def method_types(cls: type[Finetune]) -> dict[str, Any]:
    """Returns name and type, with its bounds, of each setting of a method's class."""
    types = {}
    for name, kind in typing.get_type_hints(cls, include_extras=True).items():
        plain = typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
        if plain in _PLAIN or typing.get_origin(plain) in (Literal, tuple):
            types[name] = kind
    return types


def make_executor(settings: Settings) -> Executor:
    """Builds the executor that config.execution and config.mesh describe.

    Raises:
      UserError: the devices for the mesh are missing.
    """
    return Executor(
        sharing=sharing(settings),
        compiled_loop={"auto": None, "compiled": True, "host": False}[settings.execution.loop],
        mesh=make_mesh(settings),
        graphs=graphs(settings),
    )


def sharing(settings: Settings) -> str:
    """Returns the executor's `sharing` for config.execution.seeds."""
    # "auto" is one after the other: what is fast on CPU, and not measured elsewhere yet.
    return {"auto": "sequential"}.get(settings.execution.seeds, settings.execution.seeds)


def graphs(settings: Settings) -> str:
    """Returns the executor's `graphs` for config.execution.graphs."""
    # "auto" is what XLA does by itself, but for short graphs: the rest is not measured yet.
    return {"auto": "between"}.get(settings.execution.graphs, settings.execution.graphs)


def of_seeds(settings: Settings, seeds: Sequence[int]) -> Settings:
    """Returns the settings of some of the seeds, whose devices are as many as divide them."""
    axis = settings.mesh.seeds and math.gcd(settings.mesh.seeds, len(seeds))
    mesh_settings = settings.mesh.model_copy(update={"seeds": axis})
    return settings.model_copy(update={"seeds": tuple(seeds), "mesh": mesh_settings})


def shares_devices(settings: Settings) -> bool:
    """Whether seeds train together: in one program, or side by side on a mesh."""
    return sharing(settings) != "sequential" or make_mesh(settings) is not None


def make_mesh(settings: Settings, devices: Sequence[Any] | None = None) -> Mesh | None:
    """Builds the mesh of config.mesh of some devices, or of all; None for a single device.

    Raises:
      UserError: the devices for it are missing, or its axes do not divide seeds and batches.
    """
    divided = math.gcd(settings.batch_size, settings.eval.batch_size or evaluation.BATCH)
    axes = settings.mesh.seeds, settings.mesh.data
    return mesh.make_mesh(*axes, len(settings.seeds), divided, devices)


def check(settings: Settings) -> None:
    """Checks what depends on the machine and the method, not on the data.

    Raises:
      UserError: the devices that config.mesh asks for are missing, there is no such method, or a
        setting of it is wrong.
    """
    make_mesh(settings)
    method_settings(settings.method, methods.find_class(settings.method.name))
