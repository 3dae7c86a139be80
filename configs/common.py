"""Pieces that the experiments share; each config file says only what is particular to it."""

import importlib

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

# The rows of the ABD paper's tables, in their order.
LEARNERS = (
    "oracle",
    "base",
    "lwf",
    "lwf_mc",
    "dgr",
    "deep_inversion",
    "deep_inversion_lwf",
    "abd",
    "rehearsal",
    "lwf_rehearsal",
    "e2e",
    "bic",
)

# The settings of R-DFCIL, as its reference code has them.
RDFCIL = {
    "lambda_ce": 0.5,  # both cross entropies
    "lambda_hkd": 0.15,  # hard distillation of logits
    "lambda_rkd": 0.5,  # relational distillation of angles
    "finetuning_epochs": 40,  # of the head alone, besides config.epochs
    "finetuning_lr": 0.005,
}
# Mean and deviation of pixels in the reference code of R-DFCIL.
RDFCIL_MOMENTS = {
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "tiny_imagenet": ((0.4803, 0.4481, 0.3976), (0.2764, 0.2688, 0.2816)),
}

# The settings of LUCIR, as published.
LUCIR = {
    "lamda": 5.0,  # less-forget distillation, times the root of old over new classes
    "margin": 0.5,
    "num_hard_negatives": 2,
    "ranking_weight": 1.0,  # 0: without margin ranking
    "distillation": "features",  # ablations: "scores", "logits", "none"
    "hard_negatives": "new",  # or "all"
    "imprint_weights": True,
    "balanced_finetuning": False,  # class-balanced fine-tuning after each phase
}


def experiment(method: str, **settings) -> ConfigDict:
    """A config without data set, model and schedule; `settings` are the method's own."""
    config = ConfigDict()
    config.method = {"name": method, **settings}
    config.seeds = (0,)  # each is a run of its own: class order, weights, data order, noise
    config.num_tasks = 5  # equal tasks, unless the first has another size:
    config.first_task_size = 0  # classes of the first task; 0: as many as the others
    config.task_sizes = ()  # or the sizes one by one, such as (50, 20, 20, 10)
    config.max_tasks = 0  # stop after so many tasks; 0: after all
    config.schedule_scale = 1.0  # multiplies epochs, milestones and inversion steps
    config.dtype = "auto"  # "float32", "tf32" or "bfloat16"; parameters are float32 always
    config.first_task_from = ""  # workdir of a run whose first task is taken over
    config.overwrite = False  # start over in a workdir that has a run
    config.grid = ()  # values to try, such as {"method.mu": (0.1, 1.0)}: a run for each, see docs
    config.compilation_cache = "auto"  # folder of compiled programs; "": keep none

    # Images of earlier tasks that are kept, and come back in later ones.
    config.exemplars = {
        "total": 0,  # how many, shared by the classes seen; or
        "per_class": 0,  # how many of each class; both 0: none
        "strategy": "herding",  # which ones, see the list in cljax/memory.py
        "replay": "all",  # each once; or "bootstrap": with replacement, as many as new images
        "class_weighting": False,  # weigh the cross entropy against rare classes
    }

    # Added to the seed for one random stream only, which leaves the others as they were.
    config.streams = {
        "class_order": 0,
        "init": 0,
        "data_order": 0,
        "augmentation": 0,
        "generator": 0,
    }
    config.eval = {
        "batch_size": 0,  # 0: what is fast, 32 on a CPU, whose cores share batches out, else 256
        "every_epochs": 0,  # evaluate while it trains, for its curves alone; 0: after tasks only
        "top_k": 1,
        "read_outs": (),  # besides the method's own: "cnn", "nme", "ncm", see docs/results.md
        "mirror": "none",  # their class means average over mirrored images: "horizontal"
    }
    config.checkpoint = {"every_epochs": 50, "every_inversion_steps": 2500, "keep": 2}
    config.execution = {
        "seeds": "auto",  # on one device: "sequential", "interleaved" (one program), "vmap" (axis)
        "loop": "auto",  # "compiled": an epoch is one program; "host": a step is one
        "graphs": "auto",  # CUDA graphs: "off", "step" or "epoch", see docs/performance.md
    }
    config.mesh = {"seeds": 0, "data": 0}  # devices that share seeds, and a batch; 0: all that fit
    return config


def cifar(config: ConfigDict, name: str) -> ConfigDict:
    """CIFAR with the network, schedule and augmentation of the ABD paper."""
    config.data = {
        "name": name,
        "dir": "",  # of ImageNet, an archive of images, or prepared TFDS sets; empty: see docs
        "url": "",  # mirror of that archive; empty: its authors' site
        "path": "",  # of an .npz file, for data.name=npz, or of a folder, for data.name=folder
        "image_size": 0,  # side that images of a folder or ImageNet are resized to; else 0
        "residence": "auto",  # images on the "device", or "stream" from the host
        "per_class": 0,  # keep only so many training images of each class; 0: all
        "class_order": "shuffled",  # by seed, as the original; or a list, a file, "sequential"
        "standardise": True,  # False: pixels stay in 0..1
        "mean": (),  # by which pixels are standardised; empty: the data set's
        "std": (),
        "validation": False,  # hold out a fifth of the training images and test on it
        "augmentation": {
            "brightness": 63 / 255,
            "contrast": 0.8,
            "flip": True,
            "crop_padding": 4,
            "crop_fill": "black",  # or "mean": 0 after standardising
            "resized_crop": False,  # a random part of an image of ImageNet
        },
    }
    config.model = {
        "name": "resnet32",
        "width": 16,
        "head": "linear",  # or "cosine"
        "pretrained": "",  # file of weights to start with; empty: random weights
    }
    config.optimizer = {
        "name": "sgd",  # or one of Optax, such as "adamw"
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 2e-4,
        "decay": 0.1,
        "init_lr": 0.0,  # of the first task; 0: lr
        "clip_norm": 0.0,  # largest norm of a step's gradients; 0: not clipped
        "arguments": {},  # further ones of that optimizer
    }
    config.schedule = {"name": "multistep", "arguments": {}}  # or one of Optax, such as "cosine"
    config.epochs = 250
    config.init_epochs = 0  # of the first task; 0: epochs
    config.milestones = (100, 150, 200)  # epochs at which the rate is multiplied by `decay`
    config.batch_size = 128
    config.drop_last = True  # leave out an epoch's last, incomplete batch
    return config


def tiny_imagenet(config: ConfigDict) -> ConfigDict:
    """Tiny-ImageNet, 20 tasks of 10 classes, as in the scripts of the ABD reference code."""
    cifar(config, "tiny_imagenet")  # network, schedule and augmentation are the same
    config.num_tasks = 20
    return config


def imagenet(config: ConfigDict, name: str) -> ConfigDict:
    """ImageNet, or classes of it, with images of 224 pixels in the order of seed 1993."""
    cifar(config, name)
    config.data.image_size = 224
    config.data.class_order = "numpy:1993"  # the same for every seed
    config.data.augmentation = {
        "brightness": 0.0,
        "contrast": 0.0,
        "flip": True,
        "crop_padding": 0,
        "crop_fill": "black",
        "resized_crop": True,
    }
    config.optimizer.weight_decay = 1e-4
    return config


def imagenet50(config: ConfigDict) -> ConfigDict:
    """5 tasks of 10 of 1000 classes, as in the script of the ABD reference code."""
    imagenet(config, "imagenet50")
    config.task_sizes = (10,) * 5
    config.model.name = "resnet14"  # its "resnet18"; the head has 1000 columns
    config.epochs = 100
    config.milestones = (30, 60, 80, 90)
    config.batch_size = 256
    config.eval.top_k = 5
    return config


def digits(config: ConfigDict) -> ConfigDict:
    """scikit-learn's scanned digits, 8x8: two classes a task, a network for two CPU cores."""
    cifar(config, "digits")
    config.data.augmentation = {
        "brightness": 0.0,
        "contrast": 0.0,
        "flip": False,  # a mirrored digit is another sign
        "crop_padding": 1,
        "crop_fill": "black",
        "resized_crop": False,
    }
    config.model.name = "resnet8"
    config.epochs = 60
    config.milestones = (24, 36, 48)
    config.batch_size = 32
    return config


def lucir(config: ConfigDict) -> ConfigDict:
    """Network, optimiser, exemplars and read-outs of LUCIR."""
    config.model.update(name=f"{config.model.name}_lucir", head="cosine")
    config.optimizer.weight_decay = 5e-4
    config.data.augmentation.update(brightness=0.0, contrast=0.0)
    config.drop_last = False
    config.eval.read_outs = ("nme", "ncm")
    return exemplars(config, per_class=20, strategy="herding_lucir", replay="all")


def lucir_imagenet(name: str, first_task_size: int, **settings) -> ConfigDict:
    """LUCIR on ImageNet as published, with 5 phases; `settings` are the method's own."""
    method = experiment("lucir", **LUCIR | {"lamda": 10.0} | settings)
    imagenet(method, name).model.name = "resnet18_imagenet"
    config = lucir(method)
    config.optimizer.weight_decay = 1e-4
    config.first_task_size = first_task_size
    config.num_tasks = 6
    config.epochs = 90
    config.milestones = (30, 60)
    return config


def rdfcil_ground(config: ConfigDict, epochs: int = 160) -> ConfigDict:
    """Network, augmentation, schedule and length of inversion of R-DFCIL, for any method."""
    config.model.name = f"{config.model.name}_rdfcil"
    config.optimizer.weight_decay = 5e-4
    config.epochs = epochs  # R-DFCIL's own 40 epochs of the head come on top
    config.milestones = (80, 120)
    config.data.augmentation.update(brightness=0.0, contrast=0.0, crop_fill="mean")
    if config.data.name in RDFCIL_MOMENTS:
        config.data.mean, config.data.std = RDFCIL_MOMENTS[config.data.name]
    config.inversion.steps = 5000
    return config


def exemplars(
    config: ConfigDict,
    total: int = 0,
    strategy: str = "random_redraw",
    replay: str = "bootstrap",
    per_class: int = 0,
) -> ConfigDict:
    """Adds a memory; chosen and replayed by default as in the ABD paper's naive rehearsal."""
    settings = {"total": total, "per_class": per_class, "strategy": strategy, "replay": replay}
    config.exemplars.update(settings)
    return config


def autoencoder(config: ConfigDict, channels: tuple[int, ...], latents: int) -> ConfigDict:
    """Adds the auto-encoder of generative replay, which makes pixels in 0..1."""
    config.autoencoder = {"channels": channels, "latents": latents}
    config.data.standardise = False
    config.optimizer.weight_decay = 0.0
    return config


def inversion(config: ConfigDict, generator: str, steps: int = 10_000) -> ConfigDict:
    """Adds generator inversion with the published weights."""
    config.inversion = {
        "generator": generator,
        "steps": steps,  # of each inversion
        "steps_per_epoch": 500,  # between two lines of metrics
        "lr": 1e-3,  # of Adam
        "content": 1.0,
        "temperature": 1000.0,
        "statistics": 50.0,
        "prior": 1e-3,
    }
    return config


def sweep(config: ConfigDict, values: dict[str, tuple]) -> ConfigDict:
    """Makes a config a grid, judged on validation images of the first two tasks (FACIL)."""
    config.grid = (values,)
    config.data.validation = True
    config.max_tasks = 2
    return config


def table(data: str, learners: tuple[str, ...], splits: tuple[int, ...]) -> ConfigDict:
    """Every learner's own config for a data set, and settings that are the same for all."""
    config = ConfigDict()
    config.runs = {
        name: importlib.import_module(f"configs.{name}_{data}").get_config() for name in learners
    }
    config.learners = learners
    config.splits = splits  # numbers of tasks
    config.first_split_only = ("oracle",)  # the last task's bound is the same for any split

    # What is set here replaces the setting of every run.
    config.seeds = (0, 1, 2)
    config.overwrite = False
    for key, kind in {
        "schedule_scale": float,
        "max_tasks": int,
        "epochs": int,
        "milestones": tuple,
        "batch_size": int,
        "dtype": str,
        "compilation_cache": str,
    }.items():
        config[key] = placeholder(kind)
    config.model = {"name": placeholder(str), "width": placeholder(int)}
    config.optimizer = {"lr": placeholder(float)}
    config.data = {"dir": placeholder(str), "url": placeholder(str), "per_class": placeholder(int)}
    kinds = dict.fromkeys(("seeds", "loop", "graphs"), str)
    config.execution = {name: placeholder(kind) for name, kind in kinds.items()}
    config.mesh = {"seeds": placeholder(int), "data": placeholder(int)}
    config.checkpoint = {"every_epochs": placeholder(int)}
    return config
