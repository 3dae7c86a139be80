"""main.py as its user calls it, and every mistake that a user can make as one line."""

import asyncio
import concurrent.futures
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import yaml
from absl import flags
from ml_collections import config_flags

import cljax
from cljax import build, cli, errors, experiment, methods
from cljax import settings as settings_lib
from cljax.errors import UserError
from cljax.settings import config_files
from tests.helpers import tiny_runs
from tests.helpers.libcontinual_files import FILES


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (["main.py", "--help"], ["Trains a class-incremental method", "--config", "--workdir"]),
        (["main.py", "--help"], ["docs/configuration.md", *config_files.names()]),
        (["main.py", "--workdir=x", "-h"], ["--config.KEY=VALUE"]),
        (["main.py", "--version"], [f"cljax {cljax.__version__}"]),
        (["-m", "cljax", "--help"], ["Trains a class-incremental method"]),
        (["-m", "cljax.report", "--help"], ["Prints a table of runs", "WORKDIR"]),
    ],
)
def test_help_loads_nothing_large(tmp_path, program, words):
    # Packages that cannot be imported stand in the way.
    large = "jax flax optax orbax numpy sklearn matplotlib rich tensorboardX tensorflow_datasets"
    for name in large.split():
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} was imported')")
    process = subprocess.run(
        [sys.executable, *program],
        capture_output=True,
        text=True,
        cwd=tiny_runs.ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        timeout=60,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert all(word in process.stdout for word in words)
    # Flags of other modules are not the reader's concern.
    assert "--pdb" not in process.stdout and process.stdout.count("\n") < 50


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
@pytest.mark.parametrize("own", [None, "glibc.malloc.check=0"])
def test_huge_pages_unless_the_user_has_settings(tmp_path, own):
    path = tmp_path / "config.py"
    path.write_text("import os\ndef get_config(): raise ValueError(os.environ['GLIBC_TUNABLES'])\n")
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    process = subprocess.run(
        [sys.executable, tiny_runs.ROOT / "main.py", f"--config={path}"],
        capture_output=True,
        text=True,
        env=environment | ({"GLIBC_TUNABLES": own} if own else {}),
        timeout=60,
    )
    tiny_runs.assert_one_line(process.returncode, process.stderr, own or "glibc.malloc.hugetlb=1")


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.epoch=3", ["config.epoch:", "no such key", "did you mean epochs, init_epochs?"]),
        ("--config.lr=3", ["optimizer.lr", "inversion.lr"]),
        ("--config.optimizer.learning_rate=1", ["optimizer.lr"]),
        ("--config.method.nu=3", ["method.mu"]),
        ("--config.zzz=3", ["there are batch_size, checkpoint"]),
        ("--config.epochs=abc", ["config.epochs", "abc"]),
        ("--config.optimizer.lr=fast", ["config.optimizer.lr", "fast"]),
        ("--config.overwrite=maybe", ["config.overwrite", "maybe"]),
        ("--config.method=abd", ["config.method", "abd"]),
        ("--config.epochs", ["config.epochs"]),
        ("--config.method.num_rivals=3", ["this key is gone; use config.method.num_hard_neg"]),
        ("--workdri=x", ["workdri", "workdir"]),
        ("stray", ["unexpected arguments stray", "--config.KEY=VALUE"]),
    ],
)
def test_wrong_flag(tmp_path, flag, words):
    status, out, err = tiny_runs.command(flag, cwd=tmp_path)
    tiny_runs.assert_one_line(status, err, *words)
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["no such file"]),
        ("def get_config(:", ["invalid syntax", "line 1"]),
        ("import no_such_module", ["line 1", "No module named 'no_such_module'"]),
        ("def get_config():\n    return undefined", ["line 2", "'undefined' is not defined"]),
        ("def get_config():\n    raise ValueError('a\\nb')", ["line 2", "ValueError: a b"]),
        ("x = 1", ["get_config"]),
        ("def get_config():\n    return {}", ["ConfigDict", "dict"]),
    ],
)
def test_wrong_config_file(tmp_path, content, words):
    path = tmp_path / "mine.py"
    if content is not None:
        path.write_text(content)
    status, _, err = tiny_runs.command(f"--config={path}", "--config.epochs=3", cwd=tmp_path)
    tiny_runs.assert_one_line(status, err, str(path), *words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_user_mistakes_end_the_command(tmp_path, compiled):
    blocked = tmp_path / "file"
    blocked.write_text("no directory")
    # As an unwritable directory, but also for root.
    status, _, err = tiny_runs.command(*tiny_runs.arguments(blocked / "run"))
    tiny_runs.assert_one_line(status, err, "cannot write", str(blocked), "Not a directory")
    assert blocked.read_text() == "no directory"
    status, _, err = tiny_runs.command(*tiny_runs.arguments(tmp_path / "run", num_tasks=3))
    tiny_runs.assert_one_line(status, err, "config.num_tasks=3: 10 classes", "use 1, 2, 5, 10, or")
    status, _, err = tiny_runs.command(
        *tiny_runs.arguments(tmp_path / "run", optimizer__lr=1e30), cache=compiled
    )
    tiny_runs.assert_one_line(status, err, "not finite in task 1, train epoch 1, seed 0: loss")


@pytest.mark.slow
def test_config_and_settings_from_a_flagfile(tmp_path):
    lines = "# a comment", "--config=base_digits", "--config.seeds=(3,)", "--workdir=mine"
    (tmp_path / "flags").write_text("\n".join([*lines, "--dry_run"]))
    status, out, err = tiny_runs.command("--flagfile=flags", cwd=tmp_path)
    assert (status, err) == (0, "")
    assert f"cljax {cljax.__version__}: base_digits, seeds (3,), in mine" in out
    status, _, err = tiny_runs.command("--flagfile=none", cwd=tmp_path)
    tiny_runs.assert_one_line(status, err, "--flagfile", "No such file", "none")


@pytest.mark.parametrize("name", ["config.json", "mine.yaml"])
def test_a_config_that_is_no_python_file(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=f"{name}: a config is a Python file") as error:
        config_files.load(str(tmp_path / name))
    assert ("--config=libcontinual:FILE" in str(error.value)) == name.endswith(".yaml")


# What a file or a flag says, and what the line must have. Flags have their types checked by absl.
WRONG_VALUES = {
    "type": ("epochs", "many", "config.epochs"),
    "fraction": ("epochs", 2.5, "config.epochs"),
    "not finite": ("optimizer.lr", float("nan"), "config.optimizer.lr=nan: must be a finite"),
    "infinite": ("optimizer.lr", float("inf"), "config.optimizer.lr=inf: must be a finite"),
    "negative": ("batch_size", -1, "config.batch_size=-1: must be a whole number from 1"),
    "huge": ("epochs", 10**30, "config.epochs"),
    "choice": ("dtype", "float16", "config.dtype='float16': must be one of"),
    "entry": ("seeds", [0, -1], "config.seeds: entry 2 is -1, must be a whole number"),
    "empty": ("seeds", [], "config.seeds=(): must be a tuple that is not empty"),
    "unknown": ("epoch", 3, "config.epoch:"),
    "unknown in a block": ("optimizer.rate", 3.0, "config.optimizer.rate:"),
    "block": ("optimizer", 3, "config.optimizer"),
    "gone": ("method.num_rivals", 3, "this key is gone; use config.method.num_hard_negatives"),
}
READERS = {
    "python": "def read(path): return eval(open(path).read(), {'nan': nan, 'inf': inf})",
    "yaml": "import yaml\ndef read(path): return yaml.safe_load(open(path))",
    "json": "import json\ndef read(path): return json.load(open(path))",
}
WRITERS = {"python": repr, "yaml": yaml.safe_dump, "json": json.dumps}
CONFIG_FILE = """
from math import inf, nan
from ml_collections import ConfigDict
{reader}
def get_config(): return ConfigDict(read({path!r}))
"""


@pytest.mark.parametrize("way", [*READERS, "flag", "flagfile"])
@pytest.mark.parametrize("mistake", WRONG_VALUES)
def test_a_wrong_value_is_one_line_whatever_way_it_comes(tmp_path, capsys, way, mistake):
    key, value, words = WRONG_VALUES[mistake]
    argv = ["cljax"]
    if way in READERS:
        values = config_files.load("abd_digits").to_dict()
        block, _, last = key.rpartition(".")
        (values[block] if block else values)[last] = value
        values = json.loads(json.dumps(values))  # lists for tuples, as files have them
        (tmp_path / "values").write_text(WRITERS[way](values))
        text = CONFIG_FILE.format(reader=READERS[way], path=str(tmp_path / "values"))
        (tmp_path / "mine.py").write_text(text)
        argv.append(f"--config={tmp_path}/mine.py")
    else:
        shown = tuple(value) if isinstance(value, list) else value
        argv += ["--config=abd_digits", f"--config.{key}={shown}"]
    if way == "flagfile":
        (tmp_path / "flags").write_text("\n".join(argv[1:]))
        argv = ["cljax", f"--flagfile={tmp_path}/flags"]
    values = flags.FlagValues()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flags, "FLAGS", values)
        patch.setattr(sys, "argv", argv)
        config_flags.DEFINE_config_file("config", flag_values=values)
        with pytest.raises((UserError, SystemExit)) as error:
            cli.read_flagfiles()
            cli.parse(sys.argv, default="abd_digits")
            method = settings_lib.read(values.config).method
            types = build.method_types(methods.find_class(method.name))
            settings_lib.read_method(method.name, types, method.own)
    if error.type is SystemExit:
        assert error.value.code == 1
        line = capsys.readouterr().err
    else:
        line = f"error: {error.value}\n"
    assert line.startswith("error: ") and line.count("\n") == 1, line
    assert words in line


@pytest.mark.parametrize("value", ["abd_cifar1000", "abd_cifar100.py", "my/abd_cifar100.py"])
def test_unknown_config_names_the_nearest(tmp_path, value):
    status, _, err = tiny_runs.command(f"--config={value}", cwd=tmp_path)
    kind = "file" if value.endswith(".py") else "config"
    words = [f"--config={value}: no such {kind}", "did you mean abd_cifar100", "--help lists"]
    tiny_runs.assert_one_line(status, err, *words)


@pytest.mark.parametrize("value", ["abd_digits", "configs/abd_digits.py"])
@pytest.mark.parametrize("flag", ["--config={}", "-config={}", "--config {}"])
def test_the_programs_config_from_any_directory(tmp_path, monkeypatch, value, flag):
    monkeypatch.chdir(tmp_path)
    argv = ["cljax", "--workdir=x", *flag.format(value).split(" ")]
    assert cli.config_path(argv) == value
    monkeypatch.setattr(flags, "FLAGS", list)
    parsed = cli.parse(argv, default="base_digits")
    assert cli.config_path(parsed) == str(tiny_runs.ROOT / "configs" / "abd_digits.py")
    assert parsed[:2] == ["cljax", "--workdir=x"]


def test_a_file_of_the_working_directory_goes_before_the_programs_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    own = "from configs import common\n\n\ndef get_config():\n"
    own += "    return common.ConfigDict({'mine': True})\n"
    (tmp_path / "configs" / "abd_digits.py").write_text(own)
    assert config_files.load("configs/abd_digits.py").to_dict() == {"mine": True}
    assert "mine" not in config_files.load("abd_digits")


@pytest.fixture
def parse(monkeypatch):
    """Parses a command line as `main` does; gives its flags, and the notes on the config."""

    def parse(*args):
        values = flags.FlagValues()
        monkeypatch.setattr(flags, "FLAGS", values)
        monkeypatch.setattr(sys, "argv", ["cljax", *args])
        config_flags.DEFINE_config_file("config", flag_values=values)
        cli.parse(sys.argv, default="abd_digits")
        records, errors.EARLY_NOTES.buffer = errors.EARLY_NOTES.buffer, []
        return values, [record.getMessage() for record in records]

    return parse


@pytest.mark.parametrize("reader", ["libcontinual", "configs/libcontinual.py"])
def test_settings_of_libcontinual_from_any_directory(tmp_path, monkeypatch, parse, reader):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(FILES["finetune"]))
    values, notes = parse(f"--config={reader}:mine.yaml", "--config.epochs=7")
    assert (values.config.epochs, values.config.data.name) == (7, "cifar10")
    assert len(notes) == 6 and all(line.startswith("mine.yaml: ") for line in notes)
    path = config_flags.get_config_filename(values["config"])
    assert config_files.default_workdir(path) == "runs/libcontinual_mine"


def test_a_command_of_the_abd_code_over_several_lines(parse):
    command = r"""python -u run_dfcil.py --dataset CIFAR10 --schedule 20 30 \
        --model_name resnet32 --model_type resnet --beta 1 --log_dir out:1"""
    values, notes = parse(f"--config=configs/dfcil.py:{command}", "--config.batch_size=7")
    assert (values.config.epochs, values.config.milestones) == (30, (20,))
    assert (values.config.batch_size, values.config.num_tasks) == (7, 5)
    assert [line.partition("=")[0] for line in notes] == ["--beta"]
    path = config_flags.get_config_filename(values["config"])
    assert config_files.default_workdir(path) == "out:1"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("configs/libcontinual.py:none.yaml", "cannot read none.yaml: No such file"),
        ("dfcil:--dataset CIFAR100 --lr", "argument --lr: expected one argument"),
    ],
)
def test_wrong_settings_of_other_programs_are_one_line(tmp_path, config, words):
    status, out, err = tiny_runs.command(f"--config={config}", cwd=tmp_path)
    tiny_runs.assert_one_line(status, err, words)
    assert (out, list(tmp_path.iterdir())) == ("", [])


def test_argument_of_a_named_config(tmp_path):
    status, _, err = tiny_runs.command("--config=abd_digits:x", cwd=tmp_path)
    tiny_runs.assert_one_line(
        status, err, "get_config() takes 0 positional arguments but 1 was given"
    )


def test_names_are_those_of_experiments():
    names = config_files.names()
    assert {"abd_cifar100", "lucir_digits", "table_cifar10"} <= set(names)
    assert "common" not in names and "__init__" not in names


def test_configs_are_importable_where_another_folder_has_the_name(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").write_text("raise ImportError('another program')")
    code = "from cljax.settings import config_files; config_files.make_importable(); "
    code += "from configs import common; print(common.__file__)"
    process = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tiny_runs.ROOT)},
        timeout=60,
    )
    assert process.stdout == f"{tiny_runs.ROOT / 'configs' / 'common.py'}\n", process.stderr


@pytest.mark.slow
def test_own_config_file_and_default_workdir(tmp_path, compiled):
    content = "from configs import abd_digits\n\n\ndef get_config(tasks='3'):\n"
    content += "    config = abd_digits.get_config()\n"
    content += "    config.max_tasks = int(tasks)\n    return config\n"
    (tmp_path / "mine.py").write_text(content)
    flags = [flag for flag in tiny_runs.arguments(tmp_path) if "workdir" not in flag]
    flags = [flag for flag in flags if "max_tasks" not in flag]
    status, out, err = tiny_runs.command("--config=mine.py:1", *flags, cwd=tmp_path, cache=compiled)
    assert (status, err) == (0, "")
    assert tiny_runs.results(tmp_path / "runs" / "mine")["tasks_total"] == 1
    assert "1 of 1 tasks" in out


@pytest.fixture
def pickled(tmp_path):
    """An .npz file with an array that NumPy would have to unpickle, which has a visible effect."""

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = tmp_path / "trap.npz"
    labels = np.zeros(1, np.int32)
    images = np.array([Trap()], dtype=object)
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return path


MISTAKES = {
    "seeds": ({"seeds": ()}, "config.seeds"),
    "seed twice": ({"seeds": (1, 1)}, "twice"),
    "seed text": ({"seeds": ("a",)}, "config.seeds"),
    "seed range": ({"seeds": (2**31,)}, "config.seeds"),
    "stream range": ({"streams__init": 2**31}, "config.streams.init"),
    "split": ({"num_tasks": 3}, "10 classes cannot be split"),
    "no tasks": ({"num_tasks": 0}, "config.num_tasks=0"),
    "first task": ({"first_task_size": 11}, "cannot be split"),
    "task sizes": ({"task_sizes": (6, 5)}, "at most the 10 classes"),
    "task size text": ({"task_sizes": (1.5,)}, "config.task_sizes"),
    "class order": ({"data__class_order": "1,2,99"}, "the dataset has no class 99"),
    "order file": ({"data__class_order": "none.txt"}, "no such file"),
    "batch": ({"batch_size": 21}, "task 1 of seed 0 has only 20 training images"),
    "no batch": ({"batch_size": 0}, "config.batch_size"),
    "epochs": ({"epochs": 0}, "config.epochs"),
    "milestones": ({"milestones": (0.5,)}, "config.milestones"),
    "scale": ({"schedule_scale": float("inf")}, "config.schedule_scale"),
    "rate": ({"optimizer__lr": float("nan")}, "config.optimizer.lr"),
    "negative rate": ({"optimizer__lr": -1.0}, "config.optimizer.lr"),
    "temperature": ({"inversion__temperature": 0.0}, "config.inversion.temperature"),
    "inversion steps": ({"inversion__steps": 0}, "config.inversion.steps"),
    "dtype": ({"dtype": "float16"}, "must be one of 'auto', 'float32', 'tf32'"),
    "network": ({"model__name": "resnet9"}, "config.model.name"),
    "width": ({"model__width": 0}, "config.model.width"),
    "generator": (
        {"inversion__generator": "gan"},
        "config.inversion.generator='gan': must be one of",
    ),
    "generator size": ({"inversion__generator": "imagenet"}, "multiple of 32, not 8x8"),
    "method": (
        {"method__name": "gdumb"},
        "config.method.name=gdumb: unknown method; choose base, ",
    ),
    "test images per step": (
        {"eval__batch_size": -1},
        "config.eval.batch_size=-1: must be a whole number from 0",
    ),
    "top k": ({"eval__top_k": 11}, "config.eval.top_k=11: the dataset has only 10 classes"),
    "no data set": ({"data__name": "no set"}, "no set"),
    "no directory": ({"data__name": "cifar100", "data__dir": "/none"}, "no such directory"),
    "no npz": ({"data__name": "npz"}, "config.data.path is empty"),
    "missing npz": ({"data__name": "npz", "data__path": "none.npz"}, "none.npz: no such file"),
    "loop": ({"execution__loop": "fast"}, "must be one of 'auto', 'compiled', 'host'"),
    "fold": ({"data__validation": True, "seeds": (5,)}, "use seeds 0 to 4"),
    "first task from": ({"first_task_from": "/none"}, "no run there"),
    "first task from a long path": ({"first_task_from": "x" * 5000}, "no run there"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_wrong_setting_is_one_line_and_leaves_nothing(tmp_path, name):
    settings, words = MISTAKES[name]
    with pytest.raises(UserError) as error:
        experiment.run(tiny_runs.make_config(**settings), tmp_path)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] in ([], [".lock"])


@pytest.mark.slow
@pytest.mark.parametrize("where", ["config", "method"])
def test_a_file_that_ends_the_program_is_a_mistake(tmp_path, where):
    text = "import sys\nsys.exit(0)\n"
    (tmp_path / "ends.py").write_text(text)
    flags = ["--config=ends.py"] if where == "config" else ["--config.method.name=ends:Method"]
    status, _, err = tiny_runs.command(*flags, cwd=tmp_path)
    tiny_runs.assert_one_line(status, err, "SystemExit", "ends")


def test_a_tilde_in_a_path_is_the_home(tmp_path, monkeypatch, fast_runs):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path}/mine.npz: no such file"):
        config = tiny_runs.make_config(data__name="npz", data__path="~/mine.npz")
        experiment.run(config, "~/run")
    assert not (tmp_path / "~").exists()


@pytest.mark.slow
def test_a_run_in_a_thread(fast_runs, tmp_path):
    """Signals can be handled in the main thread only; elsewhere a run goes without."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        config = tiny_runs.make_config("base", epochs=1, milestones=(), max_tasks=1)
        pool.submit(tiny_runs.run, config, tmp_path).result()
    assert tiny_runs.results(tmp_path)["complete"]


@pytest.mark.slow
def test_a_run_in_a_notebook(fast_runs, tmp_path, monkeypatch):
    """There an event loop is at work, and standard output has no file descriptor."""

    async def cell():
        config = tiny_runs.make_config("base", epochs=1, milestones=(), max_tasks=1)
        return experiment.run(config, tmp_path)

    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert asyncio.run(cell())["complete"]
    assert "Results" in sys.stdout.getvalue()


def test_unknown_method_setting_names_the_nearest(tmp_path):
    config = tiny_runs.make_config()
    with config.unlocked():
        config.method.muu = 0.5
    with pytest.raises(UserError, match=r"config\.method\.muu.*did you mean config\.method\.mu\?"):
        experiment.run(config, tmp_path)


def test_method_without_its_settings(tmp_path):
    config = tiny_runs.make_config("base")
    config.method.name = "abd"
    with pytest.raises(UserError, match=r"config\.inversion is missing"):
        experiment.run(config, tmp_path)


def test_nothing_is_unpickled(pickled, tmp_path):
    config = tiny_runs.make_config(data__name="npz", data__path=str(pickled))
    with pytest.raises(UserError, match="cannot read x_train as a plain array"):
        experiment.run(config, tmp_path / "run")
    assert not (tmp_path / "sprung").exists()


def test_a_config_of_a_long_path_is_not_there():
    with pytest.raises(UserError, match=r"no such file|no such config"):
        config_files.find("x" * 5000)
