"""Describes every setting of a run: type, bounds, choices, default and meaning."""

import os
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

LARGEST = 2**31 - 1  # of a whole number that programs compute with
LARGEST_FLOAT = 1e30  # products of such numbers stay in float32

Seed = Annotated[int, Field(ge=0, le=LARGEST)]
Offset = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Batch = Annotated[int, Field(ge=1, le=2**20)]
Weight = Annotated[float, Field(ge=0, le=LARGEST_FLOAT)]
Rate = Annotated[float, Field(gt=0, le=LARGEST_FLOAT)]
Fraction = Annotated[float, Field(ge=0, le=1)]


Arguments = dict[str, bool | int | float]

PathText = Annotated[str, AfterValidator(os.path.expanduser)]


class Block(BaseModel):
    """Base of all blocks: nothing is converted, nothing unknown is accepted, nothing changes."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


def _setting(
    default: Any,
    meaning: str,
    may_change: bool = False,
    may_grow: bool = False,
    **constraints: Any,
) -> Any:
    """Describes a setting.

    Args:
      default: its value in the program's own configs.
      meaning: what it sets.
      may_change: whether a resumed run may have another value.
      may_grow: whether a resumed run may have more of it.
      **constraints: as of pydantic's `Field`.
    """
    extra: JsonDict = {"may_change": may_change, "may_grow": may_grow}
    return Field(default, description=meaning, json_schema_extra=extra, **constraints)


class MethodSettings(Block):
    """The method and its own settings, which `read_method` checks against the method's class."""

    model_config = ConfigDict(extra="allow")

    name: str = _setting(
        "abd",
        "a key of `cljax.methods.METHODS`, or a class of your own as `MODULE:CLASS`; the other "
        "keys are the fields of that class",
        min_length=1,
    )

    @property
    def own(self) -> dict[str, Any]:
        """All settings but the name."""
        return dict(self.model_extra or {})


class ExemplarSettings(Block):
    """Exemplars: how many, which, and how they are replayed."""

    total: Count = _setting(0, "number of exemplars that all seen classes share; 0: see per_class")
    per_class: Count = _setting(0, "number of exemplars of each class; both 0: no exemplars")
    strategy: Literal[
        "herding",
        "herding_raw",
        "herding_lucir",
        "libcontinual_herding",
        "nearest",
        "random",
        "equal_random",
        "random_redraw",
        "reservoir",
        "none",
    ] = _setting(
        "herding",
        "selection strategy, described in `cljax/memory/policy.py`; `herding_raw` is that of ABD's "
        "BiC, `nearest` of ABD's E2E, `random_redraw` of ABD's rehearsal",
    )
    replay: Literal["all", "bootstrap"] = _setting(
        "all",
        "`all`: each exemplar once per epoch; `bootstrap`: as many as there are new images, drawn "
        "with replacement",
    )
    class_weighting: bool = _setting(False, "weights the cross entropy for class imbalance")


class StreamSettings(Block):
    """Offsets added to the seed, for one random stream each; the others stay as they were."""

    class_order: Offset = _setting(0, "offset for the class order")
    init: Offset = _setting(0, "offset for the initial weights")
    data_order: Offset = _setting(0, "offset for the order of the images")
    augmentation: Offset = _setting(0, "offset for the augmentation")
    generator: Offset = _setting(0, "offset for the generator and its latents")


class EvaluationSettings(Block):
    """Evaluation on test images."""

    batch_size: Annotated[int, Field(ge=0, le=2**20)] = _setting(
        0,
        "images per evaluation step; 0: automatic, 32 on CPU, where each core evaluates its own "
        "batches, otherwise 256",
    )
    every_epochs: Count = _setting(
        0,
        "epochs of training stages between two evaluations of the classifier's logits on the test "
        "images of the seen classes (or the validation images), for `metrics.jsonl` and "
        "TensorBoard; 0: only after each task. Nothing is chosen by them",
        True,
    )
    top_k: Positive = _setting(1, "a prediction is correct if the class is among the k likeliest")
    read_outs: tuple[Literal["cnn", "nme", "ncm"], ...] = _setting(
        (),
        "read-outs to report in addition to the method's own: `cnn`, the network's logits; `nme`, "
        "nearest mean of exemplars; `ncm`, nearest class mean over all training images, an oracle",
    )
    mirror: Literal["none", "horizontal", "channels"] = _setting(
        "none",
        "class means also average over mirrored images: `horizontal`, or `channels` (reversed "
        "color channels, as in the LUCIR code)",
    )


class CheckpointSettings(Block):
    """When checkpoints are saved, besides the ends of stages and tasks."""

    every_epochs: Count = _setting(50, "epochs between two checkpoints; 0: none", True)
    every_inversion_steps: Count = _setting(
        2500, "inversion steps between two checkpoints; 0: none", True
    )
    keep: Positive = _setting(2, "number of newest checkpoints to keep", True)


class ExecutionSettings(Block):
    """How steps and seeds are looped over; numbers change by no more than rounding."""

    seeds: Literal["auto", "sequential", "interleaved", "vmap"] = _setting(
        "auto",
        "seeds that share a device: `sequential`, one after the other; `interleaved`, a step of "
        "each in turn, as one program; `vmap`, as one axis; `auto` is `sequential`",
        True,
    )
    loop: Literal["auto", "compiled", "host"] = _setting(
        "auto",
        "`compiled`: an epoch is one program; `host`: a step is one; `auto`: `host` on CPU, "
        "`compiled` elsewhere",
        True,
    )
    graphs: Literal["auto", "off", "step", "epoch"] = _setting(
        "auto",
        "CUDA graphs, which a host launches at once: `off`, none; `step`, a step is one; `epoch`, "
        "the loop of an epoch is one; `auto`, the kernels between convolutions are graphs. "
        "Without effect elsewhere",
        True,
    )


class MeshSettings(Block):
    """Devices, see docs/many_devices.md."""

    seeds: Annotated[int, Field(ge=0, le=2**20)] = _setting(
        0, "number of devices that share the seeds; 0: as many as fit", True
    )
    data: Annotated[int, Field(ge=0, le=2**20)] = _setting(
        0, "number of devices that share a batch; 0: as many as fit", True
    )


class AugmentationSettings(Block):
    """Augmentation of training images."""

    brightness: Weight = _setting(63 / 255, "largest change of brightness; 0: none")
    contrast: Weight = _setting(0.8, "largest change of contrast; 0: none")
    flip: bool = _setting(True, "flips half of the images horizontally")
    crop_padding: Annotated[int, Field(ge=0, le=1024)] = _setting(
        4, "pixels of padding before a random crop; 0: no crop"
    )
    crop_fill: Literal["black", "mean"] = _setting(
        "black",
        "color of the padding; `mean` is 0 after standardizing, as in the R-DFCIL code",
    )
    resized_crop: bool = _setting(
        False,
        "resizes a random part of each image of ImageNet, 8 to 100 % of its area, instead of its "
        "center",
    )


class DataSettings(Block):
    """The dataset and its preprocessing."""

    name: str = _setting(
        "cifar100",
        "`digits`, `cifar10`, `cifar100`, `tiny_imagenet`, `imagenet50`, `imagenet_subset`, "
        "`imagenet1000`, `npz`, `folder`, or another TFDS name such as `imagenet_resized/64x64`",
        min_length=1,
    )
    dir: PathText = _setting(
        "",
        "directory of ImageNet's `train` and `val` or its archives; of archives of CIFAR and "
        "Tiny-ImageNet, which are downloaded to it if it has none; or of sets prepared by TFDS; "
        "empty: TFDS's default, then the user's cache",
        True,
    )
    url: str = _setting(
        "",
        "mirror of the archive of CIFAR or Tiny-ImageNet: its address, or that of the directory "
        "that holds it; empty: its authors' site",
        True,
    )
    path: PathText = _setting("", "file of `data.name=npz`, or folder of `data.name=folder`", True)
    image_size: Annotated[int, Field(ge=0, le=4096)] = _setting(
        0,
        "side in pixels of the squares that the images of ImageNet and of `data.name=folder` are "
        "resized to; 0 for all other sources",
    )
    residence: Literal["auto", "device", "stream"] = _setting(
        "auto",
        "where images stay: `device`; `stream`, on the host, from which batches come ahead of the "
        "steps; `auto`: on the device if they take at most half of its memory. Results are equal",
        True,
    )
    per_class: Count = _setting(
        0, "number of training images of each class, the first ones; 0: all"
    )
    class_order: str = _setting(
        "shuffled",
        "`shuffled` by seed, as the original code; `sequential`; `numpy:1993`, the same for every "
        "seed; `numpy:1993:runs`, the shuffles that follow each other, one a seed; a list `3,1,2`; "
        "or a `.json`, `.txt` or `.npy` file",
        min_length=1,
    )
    standardise: bool = _setting(True, "False: pixels stay in 0..1, as `dgr` needs")
    mean: tuple[Annotated[float, Field(ge=-LARGEST_FLOAT, le=LARGEST_FLOAT)], ...] = _setting(
        (), "means per channel for standardizing pixels in 0..1; empty: those of the dataset"
    )
    std: tuple[Rate, ...] = _setting(
        (), "deviations per channel for standardizing pixels; empty: those of the dataset"
    )
    validation: bool = _setting(
        False, "holds out fold `seed` of five of the training images and evaluates on it"
    )
    augmentation: AugmentationSettings = AugmentationSettings()


class ModelSettings(Block):
    """The classifier."""

    name: str = _setting(
        "resnet32",
        "network for small images: `resnetN` with N = 6n+2 up to 1202, but 50 (ABD's, with 64 "
        "features), `resnetN_projection` (convolutions as shortcuts), `resnetN_lucir` (also "
        "without the last ReLU) or `resnetN_rdfcil` (no ReLU after a block); `resnet18`, "
        "`resnet34` (512 features) or `resnet50` (2048), each also `_lucir` or `_rdfcil`, and "
        "with ImageNet's stem `_imagenet` or `_imagenet_lucir`; or a class of your own as "
        "`MODULE:CLASS`, see docs/adding_a_network.md",
        min_length=1,
    )
    width: Annotated[int, Field(ge=1, le=4096)] = _setting(
        16,
        "channels of the first network stage; `resnet18`, `resnet34` and `resnet50` have four "
        "times as many, so that 16 is the published width of every network",
    )
    head: Literal["linear", "cosine"] = _setting("linear", "last layer")
    pretrained: PathText = _setting(
        "",
        "file of weights that the first task starts with, `.safetensors` or `.npz`, see "
        "docs/interop.md; empty: random weights",
    )


class OptimizerSettings(Block):
    """The optimizer of the classifier."""

    name: str = _setting(
        "sgd",
        "`sgd` in PyTorch's form, or an optimizer of Optax by the name of its function: `adam`, "
        "`adamw`, `lars`, `lion`, ...",
        min_length=1,
    )
    lr: Rate = _setting(0.1, "learning rate")
    momentum: Fraction = _setting(0.9, "momentum of `sgd` and of those of Optax that have one")
    weight_decay: Weight = _setting(
        2e-4,
        "weight decay, as the optimizer has it; added to the gradient where it has none of its own",
    )
    decay: Rate = _setting(0.1, "factor of the learning rate at each milestone")
    init_lr: Weight = _setting(0.0, "learning rate of the first task; 0: `optimizer.lr`")
    clip_norm: Weight = _setting(
        0.0, "largest norm of all gradients of a step together; 0: not clipped"
    )
    arguments: Arguments = _setting(
        {}, "further arguments, such as `{'b1': 0.95}` of `adam` or `{'nesterov': True}` of `sgd`"
    )


class ScheduleSettings(Block):
    """The schedule of the learning rate."""

    name: str = _setting(
        "multistep",
        "`multistep` has `milestones`; `constant`, `cosine`, `warmup_cosine`, `linear`, ... are "
        "Optax's, see docs/configuration.md",
        min_length=1,
    )
    arguments: Arguments = _setting(
        {},
        "arguments of Optax's schedule: steps are epochs, values are factors of the learning rate, "
        "such as `{'warmup_steps': 5, 'init_value': 0.1}`",
    )


class InversionSettings(Block):
    """Model inversion: training of the generator, for methods that dream."""

    generator: Literal["cifar", "tiny_imagenet", "imagenet", "digits"] = _setting(
        "cifar", "network that makes the images"
    )
    steps: Positive = _setting(10_000, "Adam steps of each inversion")
    steps_per_epoch: Positive = _setting(500, "steps between two lines of metrics")
    lr: Rate = _setting(1e-3, "learning rate of Adam")
    content: Weight = _setting(1.0, "weight of the confidence term")
    temperature: Rate = _setting(1000.0, "softmax temperature of the confidence term")
    statistics: Weight = _setting(50.0, "weight of the batch statistics' divergence")
    prior: Weight = _setting(1e-3, "weight of the smoothness term")


class AutoencoderSettings(Block):
    """The variational auto-encoder of `dgr`."""

    channels: tuple[Annotated[int, Field(ge=1, le=2**16)], ...] = _setting(
        (64, 128, 512), "output channels of the three convolutions", min_length=3, max_length=3
    )
    latents: Annotated[int, Field(ge=1, le=2**20)] = _setting(1024, "size of a latent vector")


class Settings(Block):
    """All settings of a run."""

    method: MethodSettings = MethodSettings()
    seeds: tuple[Seed, ...] = _setting(
        (0,),
        "each seed has its own class order, initial weights and noise; one run trains all of them; "
        "a single number is the seed itself, not a number of seeds",
        may_grow=True,
        min_length=1,
    )
    num_tasks: Positive = _setting(5, "number of equal tasks, unless the first has another size")
    first_task_size: Count = _setting(
        0,
        "classes of the first task; the later tasks share the rest equally; 0: as many as the "
        "others",
    )
    task_sizes: tuple[Positive, ...] = _setting(
        (),
        "number of classes of each task, such as `(50,20,20,10)`, instead of the two keys above; "
        "remaining classes are not used",
    )
    max_tasks: Count = _setting(0, "number of tasks to run; 0: all", may_grow=True)
    schedule_scale: Annotated[float, Field(gt=0, le=1e6)] = _setting(
        1.0, "multiplies epochs, milestones and inversion steps: 0.1 for 10 % of them"
    )
    epochs: Positive = _setting(250, "epochs per task")
    init_epochs: Count = _setting(0, "epochs of the first task; 0: `epochs`")
    milestones: tuple[Count, ...] = _setting(
        (100, 150, 200), "epochs after which the learning rate is multiplied by `optimizer.decay`"
    )
    batch_size: Batch = _setting(128, "real images per step, and dreamed images per step")
    drop_last: bool = _setting(
        True,
        "drops the last, incomplete batch of an epoch; False only for methods that support it",
    )
    dtype: Literal["auto", "float32", "tf32", "bfloat16"] = _setting(
        "auto",
        "precision of the computation; `bfloat16` for activations; parameters and statistics are "
        "float32 always. `auto`: `tf32` on GPUs that have it, `float32` elsewhere; the workdir's "
        "config.json has what it was",
    )
    first_task_from: PathText = _setting(
        "",
        "workdir of a run whose classifier after the first task is used, so that methods share the "
        "first task; also its generator, if both methods train the same one",
    )
    overwrite: bool = _setting(False, "deletes the run in the workdir and starts over", True)
    compilation_cache: PathText = _setting(
        "auto", "directory of the compilation cache; empty: none", True
    )
    exemplars: ExemplarSettings = ExemplarSettings()
    streams: StreamSettings = StreamSettings()
    eval: EvaluationSettings = EvaluationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    execution: ExecutionSettings = ExecutionSettings()
    mesh: MeshSettings = MeshSettings()
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    inversion: InversionSettings | None = None
    autoencoder: AutoencoderSettings | None = None

    @property
    def tasks_wanted(self) -> int:
        """Number of tasks to run."""
        total = len(self.task_sizes) or self.num_tasks
        return min(self.max_tasks or total, total)

    def scaled(self, count: int) -> int:
        """Returns a number of epochs or steps under `schedule_scale`; at least 1 if it was."""
        return max(min(count, 1), round(count * self.schedule_scale))

    def plain(self) -> dict[str, Any]:
        """Returns the settings as JSON holds them: nested dictionaries, lists for tuples."""
        return self.model_dump(mode="json", exclude_none=True)
