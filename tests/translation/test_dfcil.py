"""Command lines of the ABD reference code start the runs of our configs."""

import json

import pytest

from cljax import errors
from cljax.errors import UserError
from cljax.translation import dfcil as translation
from configs import dfcil
from tests.helpers.configs import changed, shipped
from tests.helpers.tiny_runs import empty_dataset, make_method

OURS = {"deepinv": "deep_inversion", "lwf_synthetic": "deep_inversion_lwf"}
OURS |= {"lwf_coreset": "lwf_rehearsal"}
SCRIPTS = {  # data set and number of tasks, and how many commands there are
    "cifar100-fivetask": ("cifar100", 5, 12),
    "cifar100-tentask": ("cifar100", 10, 12),
    "cifar100-twentytask": ("cifar100", 20, 12),
    "tinyimnet-twentytask": ("tiny_imagenet", 20, 11),
    "imnet-fivetask": ("imagenet50", 5, 7),
}


def command_line(values):
    """Options with these values, as a script has them."""
    words = []
    for name, value in values.items():
        if value is not None and value is not False and name != "commented_out_in_script":
            several = value if isinstance(value, list) else [] if value is True else [value]
            words += [f"--{name}", *map(str, several)]
    return " ".join(words)


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_command_of_the_scripts_starts_our_run(goldens, script):
    data, num_tasks, number = SCRIPTS[script]
    hparams = json.loads((goldens.folder / "hparams.json").read_text())["experiments"][script]
    assert len(hparams) == number
    for name, values in hparams.items():
        ours = shipped(f"{OURS.get(name, name)}_{data}")
        ours.num_tasks = num_tasks
        assert changed(dfcil.get_config(command_line(values)), ours) == {}, name


SCRIPT = """#!/bin/bash
# usage: sh abd.sh GPU
GPUID=${1:-$DEFAULT}
SPLIT=10
OUT="outputs/tentask"   # two levels
SCHEDULE="100 150 200 250"
mkdir -p $OUT && echo "to ${OUT}"

CUDA_VISIBLE_DEVICES=1 nohup python -u run_dfcil.py --dataset CIFAR100 --train_aug --rand_split \\
    --first_split_size $SPLIT --other_split_size ${SPLIT} --schedule $SCHEDULE \\
    --batch_size 128 --lr 0.1 --momentum=0.9 --weight_decay 0.0002 --gpuid ${GPUID:-0} 1 \\
    --mu 1e-1 --model_name resnet32 --model_type resnet --repeat 3 --workers 8 --beta 1 \\
    --learner_type datafree --learner_name 'AlwaysBeDreaming' \\
    --gen_model_name CIFAR_GEN --gen_model_type generator \\
    --power_iters 10000 --deep_inv_params 1e-3 5e1 1e-3 1e3 1 \\
    --log_dir ${OUT}/abd > ${OUT}/log.txt 2>&1 &
"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_script_with_variables_and_one_command(tmp_path, end):
    path = tmp_path / "abd.sh"
    path.write_text(SCRIPT.replace("$DEFAULT", "0").replace("\n", end), newline="")
    ours = shipped("abd_cifar100")
    ours.num_tasks = 10
    assert changed(dfcil.get_config(str(path)), ours) == {"seeds": (0, 1, 2)}
    assert dfcil.default_workdir(str(path)) == "outputs/tentask/abd"
    assert translation.read(str(path)).notes == [
        "CUDA_VISIBLE_DEVICES=1: set it before the command of cljax",
        "--gpuid=0 1: JAX uses all devices that it finds",
        "--workers=8: images are on the device",
        "--beta=1.0: the reference code reads it and never uses it",
    ]


BASE = (
    "--dataset CIFAR100 --rand_split --first_split_size 20 --other_split_size 20 --train_aug "
    "--schedule 100 150 200 250 --batch_size 128 --lr 0.1 --momentum 0.9 --weight_decay 0.0002 "
    "--model_name resnet32 --model_type resnet"
)
NO_AUGMENTATION = {
    "data.augmentation.brightness": 0.0,
    "data.augmentation.contrast": 0.0,
    "data.augmentation.flip": False,
    "data.augmentation.crop_padding": 0,
}


def test_notes_reach_the_user():
    with errors.keeping_notes():
        dfcil.get_config(f"{BASE} --beta 1 --workers 2")
    records, errors.EARLY_NOTES.buffer = errors.EARLY_NOTES.buffer, []
    assert [record.getMessage().partition("=")[0] for record in records] == ["--workers", "--beta"]


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ("", {}),
        ("--repeat 2", {"seeds": (0, 1)}),
        ("--max_task 2", {"max_tasks": 2}),
        ("--first_split_size 60", {"first_task_size": 60, "num_tasks": 3}),
        ("--other_split_size 30", {"task_sizes": (20, 30, 30, 20)}),
        ("--first_split_size 100", {"num_tasks": 1}),
        ("--dataroot ~/data", {"data.dir": "~/data"}),
        ("--validation", {"data.validation": True}),
        ("--overwrite 1", {"overwrite": True}),
        ("--load_model_dir runs/a", {"first_task_from": "runs/a"}),
        ("--schedule 30", {"epochs": 30, "milestones": ()}),
        ("--batch_s 32", {"batch_size": 32}),  # argparse allows the beginning of a name
        ("--lr 1e-2", {"optimizer.lr": 0.01}),
        ("--model_name resnet18", {"model.name": "resnet14"}),
        (
            "--memory 100 --DW",
            {
                "exemplars.total": 100,
                "exemplars.strategy": "random_redraw",
                "exemplars.replay": "bootstrap",
                "exemplars.class_weighting": True,
            },
        ),
        ("--DW", {}),
        ("--mu 3 --temp 3 --optimizer SGD --schedule_type decay --log_dir x --gpuid -1", {}),
    ],
)
def test_what_an_option_changes(options, settings):
    assert changed(dfcil.get_config(f"{BASE} {options}"), shipped("base_cifar100")) == settings


def test_without_augmentation_and_random_order():
    found = dfcil.get_config(BASE.replace("--train_aug", "").replace("--rand_split", ""))
    expected = NO_AUGMENTATION | {"data.class_order": "sequential"}
    assert changed(found, shipped("base_cifar100")) == expected


def test_numbers_of_losses_have_their_places():
    options = (
        "--learner_type datafree --learner_name DeepInversionLWF --mu 0.3 --temp 4 --power_iters 7 "
        "--gen_model_type generator --gen_model_name CIFAR_GEN --deep_inv_params 1 2 3 4 5"
    )
    assert changed(
        dfcil.get_config(f"{BASE} {options}"), shipped("deep_inversion_lwf_cifar100")
    ) == {
        "method.mu": 0.3,
        "method.temperature": 4.0,
        "inversion.steps": 7,
        "inversion.lr": 1.0,
        "inversion.statistics": 2.0,
        "inversion.prior": 3.0,
        "inversion.temperature": 4.0,
        "inversion.content": 5.0,
    }


def test_half_of_imagenet_uses_all_classes_of_the_order():
    options = BASE.replace("CIFAR100", "ImageNet").replace("size 20", "size 100")
    found = dfcil.get_config(f"{options} --max_task 5")
    assert (found.data.name, found.task_sizes) == ("imagenet1000", (100,) * 5)
    assert found.data.augmentation.resized_crop and found.eval.top_k == 5
    make_method(found, empty_dataset(256, 256, 3, num_classes=1000, input_size=224))
    assert dfcil.get_config(options).num_tasks == 10


ABD = "--learner_type datafree --learner_name AlwaysBeDreaming"
MISTAKES = {
    "": "no options",
    "none.sh": "cannot read none.sh: No such file",
    "/": "cannot read /:",
    "CIFAR100 --lr 1": "dfcil: CIFAR100 --lr 1: neither options, which begin with --, nor a script",
    f"{BASE}\n--epochs 3": "--epochs: the reference code has no such option",
    f"run_dfcil.py {BASE}\n--lr 1": "--lr: a line begins with an option; end the line before it",
    "--dataset 'CIFAR100": "no closing quotation in run_dfcil.py --dataset 'CIFAR100",
    "--dataset CIFAR100 \\": "no escaped character",
    f"{BASE} --epochs 3": "--epochs: the reference code has no such option; known: DW, batch_size",
    f"{BASE} --learn_name LWF": "--learn_name: the reference code has no such option; did you mean",
    f"{BASE} stray": "stray: the reference code has no such option",
    f"{BASE} --lr": "argument --lr: expected one argument",
    f"{BASE} --lr fast": "argument --lr: invalid float value: 'fast'",
    f"{BASE} --schedule": "argument --schedule: expected at least one argument",
    f"{BASE} --model 1": "ambiguous option: --model",
    f"{BASE} --dataset ImageNe": "--dataset ImageNe: unknown dataset; did you mean ImageNet",
    f"{BASE} --dataset MNIST": "unknown dataset; known: CIFAR10, CIFAR100, ImageNet, TinyImageNet",
    f"{BASE} --learner_name LwF": "--learner_name LwF: unknown learner; did you mean LWF",
    f"{BASE} --learner_name LWF": "--learner_type default: LWF is of type kd; use that",
    f"{BASE} {ABD} --oracle_flag": "an oracle (--oracle_flag) is a NormalNN",
    f"{BASE} {ABD}": "--gen_model_type mlp: must be generator",
    f"{BASE} {ABD} --gen_model_type generator": "--gen_model_name MLP: unknown generator; known",
    f"{BASE} {ABD} --gen_model_type generator --gen_model_name CIFAR_GEN": "-1.0: must be five",
    f"{BASE} {ABD} --memory 9": "--memory 9: AlwaysBeDreaming keeps no exemplars",
    f"{BASE} --oracle_flag --memory 9": "--memory 9: an oracle keeps no exemplars",
    f"{BASE} --learner_type dgr --learner_name Generative_Replay": "MLP: use CIFAR_GEN",
    f"{BASE} --model_name resnet9": "--model_name resnet9: unknown network; did you mean resnet",
    f"{BASE} --model_type mlp": "--model_type mlp: unknown network; use resnet",
    f"{BASE} --optimizer Adam": "--optimizer Adam: only SGD is translated",
    f"{BASE} --schedule_type cosine": "--schedule_type cosine: unknown; use decay",
    f"{BASE} --schedule 9 9": "--schedule 9 9: must be rising epochs",
    f"{BASE} --schedule 0": "--schedule 0: must be rising epochs",
    f"{BASE} --repeat 0": "--repeat 0: must be 1 to",
    f"{BASE} --repeat 99999999999": "--repeat 99999999999: must be 1 to",
    f"{BASE} --overwrite 2": "--overwrite 2: must be 0 or 1",
    f"{BASE} --max_task 0": "--max_task 0: must be -1 (all tasks) or 1 to",
    f"{BASE} --other_split_size 0": "--first_split_size 20: must be 1 to 100",
    f"{BASE} --first_split_size 101": "--first_split_size 101: must be 1 to 100",
    "python run_dfcil.py; python run_dfcil.py": "has 2 commands with run_dfcil.py; give it one",
    "# python run_dfcil.py": "has 0 commands",
    f"python run_dfcil.py {BASE} --repeat $REPEAT": "the variable $REPEAT has no value",
    "A=$(date); run_dfcil.py --log_dir $A": "$(date): commands in words are not run",
}


@pytest.mark.parametrize("options", MISTAKES)
def test_a_mistake_is_one_line(options):
    with pytest.raises(UserError) as error:
        dfcil.get_config(options)
    assert MISTAKES[options] in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"#" * 2**17, "more than 65536 bytes"),
        (b"run_dfcil.py \xff", "cannot read"),
        (b"A=xx\n" + b"A=$A$A\n" * 30 + b"run_dfcil.py --log_dir $A", "its value is too long"),
        (b"A='$A'\nrun_dfcil.py --log_dir $A$A", "$A has no value"),
    ],
)
def test_a_hostile_script_is_one_line(tmp_path, content, words):
    (tmp_path / "x.sh").write_bytes(content)
    with pytest.raises(UserError) as error:
        dfcil.get_config(str(tmp_path / "x.sh"))
    assert words in str(error.value)
    assert "\n" not in str(error.value)
