"""Settings as LibContinual's files have them: keys and values, by the name of the file."""

SGD = {"name": "SGD", "kwargs": {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}}


def _steps(gamma, milestones):
    return {"name": "MultiStepLR", "kwargs": {"gamma": gamma, "milestones": milestones}}


def _backbone(name, dataset="cifar100", num_classes=100, **args):
    return {
        "name": name,
        "kwargs": {"num_classes": num_classes, "args": {"dataset": dataset, **args}},
    }


def _buffer(size, strategy=None, name="LinearBuffer", **kwargs):
    kwargs = {"buffer_size": size, "batch_size": 128, **kwargs}
    return {"name": name, "kwargs": kwargs | ({"strategy": strategy} if strategy else {})}


def _transforms(mean, std, *augmentations):
    return [*augmentations, {"ToTensor": {}}, {"Normalize": {"mean": mean, "std": std}}]


def _tasks(first, later, tasks):
    return {"init_cls_num": first, "inc_cls_num": later, "task_num": tasks}


CROP, FLIP = {"RandomCrop": {"size": 32, "padding": 4}}, {"RandomHorizontalFlip": {}}
MEAN, STD = [0.5071, 0.4866, 0.4409], [0.2673, 0.2564, 0.2762]
LUCIR_STD = [0.2009, 0.1984, 0.2023]

FILES = {
    # That of the document in which docs/libcontinual_keys.md finds its keys.
    "document": {
        "includes": ["headers/data.yaml", "headers/device.yaml", "headers/model.yaml"],
        "data_root": "/data/cifar100",
        "image_size": 32,
        "save_path": "./",
        **_tasks(50, 10, 6),
        "optimizer": SGD,
        "lr_scheduler": _steps(0.1, [80, 120]),
        "backbone": _backbone("resnet32", cosine_fc=True),
        "buffer": _buffer(2000, "herding"),
        "classifier": {
            "name": "LUCIR",
            "kwargs": {
                "num_class": 100,
                "feat_dim": 512,
                "init_cls_num": 50,
                "inc_cls_num": 10,
                "dist": 0.5,
                "lamda": 5,
                "K": 2,
                "lw_mr": 1,
            },
        },
    },
    "lucir": {
        "dataset": "cifar100",
        "total_cls_num": 100,
        "image_size": 32,
        **_tasks(50, 5, 11),
        "epoch": 160,
        "val_per_epoch": 160,
        "train_batch_size": 128,
        "test_batch_size": 100,
        "seed": 2,
        "train_trfms": _transforms(MEAN, LUCIR_STD, CROP, FLIP),
        "test_trfms": _transforms(MEAN, LUCIR_STD),
        "optimizer": {"name": "SGD", "kwargs": SGD["kwargs"] | {"weight_decay": "5e-4"}},
        "lr_scheduler": _steps(0.1, [80, 120]),
        "backbone": _backbone("resnet32_V2"),
        "buffer": _buffer(2000, "herding"),
        "classifier": {
            "name": "LUCIR",
            "kwargs": {
                "num_class": 100,
                "init_cls_num": 50,
                "inc_cls_num": 5,
                "feat_dim": 64,
                "dist": 0.5,
                "lamda": 5,
                "K": 2,
                "lw_mr": 1,
            },
        },
    },
    "wa": {
        "total_cls_num": 100,
        "dataset": "cifar",
        **_tasks(20, 20, 5),
        "image_size": 32,
        "init_epoch": 250,
        "epoch": 250,
        "val_per_epoch": 250,
        "batch_size": 128,
        "optimizer": {"name": "SGD", "kwargs": SGD["kwargs"] | {"weight_decay": "2e-4"}},
        "lr_scheduler": _steps(0.1, [100, 150, 200]),
        "backbone": _backbone("resnet18"),
        "buffer": _buffer(2000, name="LinearHerdingBuffer"),
        "classifier": {
            "name": "WA",
            "kwargs": {"num_class": 100, "feat_dim": 512, "init_cls_num": 20},
        },
    },
    "icarl": {
        "data_root": "~/datasets/cifar100",
        "image_size": 32,
        "warmup": 3,
        "save_path": "./",
        **_tasks(10, 10, 10),
        "batch_size": 128,
        "init_epoch": 200,
        "epoch": 170,
        "device_ids": 2,
        "n_gpu": 1,
        "val_per_epoch": 1,
        "optimizer": SGD,
        "lr_scheduler": {"name": "CosineAnnealingLR", "kwargs": {"T_max": 100}},
        "backbone": _backbone("cifar_resnet32"),
        "buffer": _buffer(2000, name="LinearHerdingBuffer"),
        "classifier": {
            "name": "ICarl",
            "kwargs": {
                "num_class": 100,
                "feat_dim": 64,
                "init_cls_num": 10,
                "inc_cls_num": 10,
                "task_num": 10,
            },
        },
    },
    "lwf": {
        "image_size": 32,
        **_tasks(20, 20, 5),
        "epoch": 100,
        "n_gpu": 1,
        "val_per_epoch": 10,
        "batch_size": 128,
        "optimizer": {"name": "SGD", "kwargs": {"lr": 0.1}},
        "lr_scheduler": {"name": "StepLR", "kwargs": {"gamma": 0.5, "step_size": 30}},
        "backbone": _backbone("resnet34"),
        "classifier": {
            "name": "LWF",
            "kwargs": {
                "num_class": 100,
                "feat_dim": 512,
                "init_cls_num": 20,
                "inc_cls_num": 20,
                "dist": 0.5,
                "lamda": 10,
                "K": 2,
                "lw_mr": 1,
            },
        },
    },
    "ewc": {
        "image_size": 32,
        **_tasks(10, 10, 10),
        "epoch": 100,
        "n_gpu": 1,
        "val_per_epoch": 50,
        "batch_size": 128,
        "optimizer": SGD,
        "lr_scheduler": _steps(0.1, [60, 120, 170]),
        "backbone": _backbone("resnet34"),
        "classifier": {
            "name": "EWC",
            "kwargs": {
                "num_class": 100,
                "feat_dim": 512,
                "init_cls_num": 10,
                "inc_cls_num": 10,
                "lamda": 1000,
            },
        },
    },
    "bic": {
        "dataset": "binary_cifar100",
        "total_cls_num": 100,
        "image_size": 32,
        "data_root": "/data/binary_cifar100",
        **_tasks(20, 20, 5),
        "epoch": 250,
        "stage2_epoch": 250,
        "val_per_epoch": 50,
        "batch_size": 128,
        "testing_times": 5,
        "seed": 2,
        "num_workers": 0,
        "train_trfms": _transforms(MEAN, STD, FLIP, CROP),
        "test_trfms": _transforms(MEAN, STD),
        "optimizer": {"name": "SGD", "kwargs": SGD["kwargs"] | {"weight_decay": "2e-4"}},
        "lr_scheduler": _steps(0.1, [100, 150, 200]),
        "backbone": _backbone("cifar_resnet32_V2", "binary_cifar100"),
        "buffer": _buffer(2000, "balance_random", "LinearSpiltBuffer", val_ratio=0.1),
        "classifier": {
            "name": "bic",
            "kwargs": {"num_class": 100, "init_cls_num": 20, "inc_cls_num": 20, "task_num": 5},
        },
    },
    "finetune": {
        "data_root": "/data/cifar10",
        "image_size": 32,
        "save_path": "./",
        **_tasks(2, 2, 5),
        "epoch": 3,
        "device_ids": 5,
        "n_gpu": 1,
        "val_per_epoch": 1,
        "optimizer": {"name": "SGD", "kwargs": {"lr": 0.1}},
        "lr_scheduler": {"name": "StepLR", "kwargs": {"gamma": 0.5, "step_size": 10}},
        "backbone": _backbone("resnet18", "cifar10", 10),
        "buffer": _buffer(500, "random", batch_size=32),
        "classifier": {"name": "Finetune", "kwargs": {"num_class": 10, "feat_dim": 512}},
    },
}
