"""docs/adding_a_method.md and libcontinual_keys.md: what they say is so, and their code runs."""

import importlib
import inspect
import re
import shlex
import sys

import pytest

from cljax.errors import UserError
from cljax.methods.base import Finetune
from configs import base_digits, lucir_cifar100, lucir_cifar100_libcontinual
from tests.helpers import tiny_runs
from tests.helpers.own_modules import own_modules
from tests.helpers.tiny_runs import empty_dataset, make_method

DOCS = tiny_runs.ROOT / "docs"
GUIDE = (DOCS / "adding_a_method.md").read_text()
KEYS = (DOCS / "libcontinual_keys.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", GUIDE, re.DOTALL)
DIGITS = empty_dataset(8, 8, 1)
METHOD = """
from cljax.methods.base import Finetune
from cljax.state import hyperparameters


@hyperparameters
class MyMethod(Finetune):
    weight: float = 1.0


@hyperparameters
class Other:
    pass


class Undecorated(MyMethod):
    pass


def make(): ...
"""


def code(words):
    """The one piece of Python in the guide that contains the words."""
    (found,) = [text for language, text in BLOCKS if language == "python" and words in text]
    return found


def make(name, **settings):
    """The method of this name in a config for digits."""
    config = base_digits.get_config()
    config.method = {"name": name, **settings}
    return make_method(config, DIGITS)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory, with the guide's files and a package; what it adds is forgotten."""
    (tmp_path / "my_method.py").write_text(code("class PrototypeReplay"))
    (tmp_path / "my_config.py").write_text(code("def get_config"))
    (tmp_path / "test_my_method.py").write_text(code("def test_prototypes"))
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "my_module.py").write_text(METHOD)
    with own_modules(tmp_path, monkeypatch):
        yield tmp_path


@pytest.mark.slow
def test_the_guides_method_runs_by_its_command(folder, compiled):
    ((_, command),) = [block for block in BLOCKS if block[0] == "bash"]
    program, script, *arguments = shlex.split(command)
    assert (program, script) == ("python", "main.py")
    tiny = [f"--config.{key}={value}" for key, value in tiny_runs.TINY.items()]
    status, _, err = tiny_runs.command(*arguments, *tiny, cwd=folder, cache=compiled)
    assert (status, err) == (0, "")
    workdir = folder / "runs" / "mine"
    assert tiny_runs.results(workdir)["method"] == "my_method:PrototypeReplay"
    rows = [row for row in tiny_runs.metrics(workdir) if "replay" in row]
    assert {row["task"] for row in rows} == {2} and rows[0]["replay"] > 0
    extras = {k: v for k, v in tiny_runs.arrays(workdir).items() if "extras" in k}
    (prototypes,) = [v for k, v in extras.items() if "prototypes" in k]
    assert prototypes[:4].any(-1).all() and not prototypes[4:].any()


@pytest.mark.slow
def test_the_guides_test_passes(folder, compiled):
    sys.path.append(str(folder))
    importlib.import_module("test_my_method").test_prototypes()


@pytest.mark.parametrize("package", ["my_package.my_module", "my_method"])
def test_a_method_outside_the_package(folder, package):
    cls = {"my_method": "PrototypeReplay"}.get(package, "MyMethod")
    method = make(f"{package}:{cls}")
    assert isinstance(method, Finetune)
    assert (type(method).__module__, type(method).__name__) == (package, cls)


def test_its_settings(folder):
    assert make("my_package.my_module:MyMethod", weight=2.0).weight == 2.0
    with pytest.raises(UserError, match=r"method.wieght: .* did you mean config\.method\.weight\?"):
        make("my_package.my_module:MyMethod", wieght=2.0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "my_metod:MyMethod",
            "there is no module 'my_metod', neither installed nor in /.*; install it",
        ),
        ("my_package.module:MyMethod", "there is no module 'my_package.module', neither"),
        ("no_package.my_module:MyMethod", "there is no module 'no_package', neither"),
        ("my_package.my_module:MyMetod", "my_package.my_module has no class 'MyMetod'; check"),
        ("my_package.my_module:", "my_package.my_module has no class ''"),
        (
            "my_package.my_module:Other",
            "Other is not a method; inherit cljax.methods.base.Finetune",
        ),
        ("my_package.my_module:make", "make is not a method; inherit"),
        (
            "my_package.my_module:Undecorated",
            "Undecorated lacks @hyperparameters; put that of cljax.state above",
        ),
        (
            "my_package.my_module.MyMethod",
            "my_package.*: unknown method; choose .* own class as MODULE:CLASS",
        ),
        ("my_broken:MyMethod", r"raised ZeroDivisionError: .*my_broken.py, line 2"),
        ("my_import:MyMethod", "No module named 'my_missing' .*my_import.py, line 1"),
        ("my_syntax:MyMethod", r"SyntaxError: .*my_syntax.py, line 1\)$"),
        (":MyMethod", "ValueError: Empty module name"),
    ],
)
def test_what_is_no_method(folder, name, words):
    (folder / "my_broken.py").write_text("x = 0\n1 / x\n")
    (folder / "my_import.py").write_text("import my_missing\n")
    (folder / "my_syntax.py").write_text("class MyMethod(:\n")
    with pytest.raises(UserError, match=words) as raised:
        make(name)
    assert str(raised.value).startswith("config.method.name")


def test_tables_of_members():
    """Every public member is in the tables, with the arguments that it has."""
    described = dict(re.findall(r"^\| `(\w+)\((.*?)\)` \|", GUIDE, re.MULTILINE))
    members = {
        name: inspect.signature(getattr(Finetune, name))
        for name, member in vars(Finetune).items()
        if not name.startswith("_") and (inspect.isfunction(member) or name == "from_parts")
    }
    assert described.keys() == members.keys()
    for name, signature in members.items():
        arguments = [str(a).split(":")[0] for a in signature.parameters.values()]
        assert described[name] == ", ".join(a for a in arguments if a != "self"), name


def test_quoted_code_is_the_programs():
    quoted = [text for _, text in BLOCKS if text.startswith("# quoted from")]
    assert len(quoted) == 7
    for text in quoted:
        first, _, rest = text.partition("\n")
        assert rest in (tiny_runs.ROOT / first.removeprefix("# quoted from ")).read_text(), rest


def test_table_of_libcontinuals_keys():
    """Every key that it names exists; every value there is that of the variant."""
    config = lucir_cifar100_libcontinual.get_config()
    rows = re.findall(r"^\| `(.*)` \| (.*) \| (.*) \| (.*)\|$", KEYS, re.MULTILINE)
    assert len(rows) > 30
    for _, _, here, _ in rows:
        for key in re.findall(r"`(.+?)`", here):
            value = config
            for part in key.split("."):
                assert part in value, key
                value = value[part]
    values = {key: value for names, value, here, _ in rows for key in re.findall("`(.+?)`", here)}
    for key in ("first_task_size", "num_tasks", "exemplars.total", "exemplars.strategy"):
        found = config
        for part in key.split("."):
            found = found[part]
        assert str(found) == values[key], key


def test_what_the_variant_changes():
    """All of the document's values; whatever else it does not say is that of the paper."""
    config, paper = lucir_cifar100_libcontinual.get_config(), lucir_cifar100.get_config()
    assert (config.first_task_size, config.num_tasks, config.milestones) == (50, 6, (80, 120))
    assert config.method.to_dict() == {
        **paper.method.to_dict(),
        **{
            "name": "libcontinual_lucir",
            "margin": 0.5,
            "lamda": 5.0,
            "num_hard_negatives": 2,
            "ranking_weight": 1.0,
        },
    }
    optimizer = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "decay": 0.1}
    assert optimizer.items() <= config.optimizer.to_dict().items()
    assert (config.exemplars.total, config.exemplars.per_class) == (2000, 0)
    config.data.update(std=paper.data.std, augmentation=paper.data.augmentation)
    config.update(eval=paper.eval, exemplars=paper.exemplars, method=paper.method)
    assert config.to_dict() == paper.to_dict()
