"""The benchmark: what it counts, says, writes and refuses; never how long anything takes."""

import copy
import io
import json
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from cljax import build, settings
from cljax.benchmark import measure, plan, table
from cljax.benchmark import rows as rows_lib
from cljax.benchmark.plan import ConfigRows, Options
from cljax.compute.executor import Executor
from cljax.errors import UserError
from cljax.output import plots
from tests.helpers import tiny_runs

M, N, K = 24, 40, 56
BATCH = 8


def multiply(a, b):
    return a @ b


def power(a, i, x):
    return a @ x


@pytest.mark.parametrize("loop", [False, True])
def test_cost_of_a_matrix_product(loop):
    executor = Executor(compiled_loop=loop)
    a, x = jnp.ones((M, K)), executor.distribute([jnp.ones((K, N))])
    executor.call(multiply, a, x)
    square = jnp.ones((N, N))
    executor.repeat(power, square, executor.distribute([jnp.ones((N, M))]), [0], [3])
    compiled = measure.num_compilations()
    cost = measure.cost(executor.lower(multiply))
    of_repeated = measure.cost(executor.lower(power))
    assert measure.num_compilations() == compiled  # it is JAX's own program
    assert cost["flops"] == 2 * M * N * K
    sizes = 4 * (M * K + K * N + M * N)
    assert cost["bytes"] == sizes
    assert sizes <= cost["memory"] < 1.1 * sizes
    # A loop's steps are counted once; its counter takes an operation or two.
    assert 2 * M * N * N <= of_repeated["flops"] <= 2 * M * N * N + 10
    # The carry is donated, so that it is there once.
    assert of_repeated["memory"] < 4 * (N * N + 3 * M * N)


def test_the_newest_program_is_the_one_analysed():
    executor = Executor()
    for rows in (M, 2 * M):
        executor.call(multiply, jnp.ones((rows, K)), executor.distribute([jnp.ones((K, N))]))
    assert measure.cost(executor.lower(multiply))["flops"] == 2 * 2 * M * N * K


def test_num_compilations():
    before = measure.num_compilations()
    function = jax.jit(lambda x: 3 * x - 1)
    x = np.arange(7.0, dtype=np.float32)
    function(x).block_until_ready()
    assert measure.num_compilations() == before + 1
    function(x).block_until_ready()
    assert measure.num_compilations() == before + 1


def test_time_calls():
    calls = []
    assert len(measure.time_calls(lambda: calls.append(0), 0.0, least=4)) == 4 == len(calls)
    assert len(measure.time_calls(lambda: None, math.inf, most=7)) == 7
    summary = measure.summarise([5.0, 1.0, 2.0, 3.0, 4.0])
    assert summary == {"seconds": 3.0, "quartiles": [2.0, 4.0], "repetitions": 5}


@pytest.mark.slow
def test_rates_and_memory():
    assert measure.matrix_rate("float32", 0.0) > 1e6
    assert measure.copy_rate(0.0) > 1e6
    held = np.ones(2**24)
    assert measure.host_peak() > held.nbytes


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """Of tiny networks: rows of ABD, more seeds for one of them, rows of LUCIR, and a run."""
    folder = tmp_path_factory.mktemp("profile")
    abd, lucir = tiny_runs.make_config("abd", batch_size=BATCH), tiny_runs.make_config("lucir")
    parts = [
        ConfigRows(abd, ("plain_step",)),
        ConfigRows(abd, ("abd_step", "inversion_step", "evaluation")),
        ConfigRows(lucir, ("herding", "streamed_step", "input")),
        ConfigRows(tiny_runs.make_config("base"), ("run",), is_run=True),
    ]
    told = Console(file=io.StringIO())
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(plots, "write_plots", lambda *args: None)
    jax.config.update("jax_disable_most_optimizations", True)  # they take longer than they save
    only = {"plain_step"}
    several = Options(0.01, (1, 2), ("float32",), folder)
    result = plan.measure_all(parts, only, several, told)
    single = Options(0.01, (), ("float32",))
    rest = {name for part in parts[1:] for name in part.names}
    result["rows"] += plan.measure_all(parts, rest, single, told)["rows"]
    monkeypatch.undo()
    jax.config.update("jax_disable_most_optimizations", False)
    return result, folder


@pytest.mark.slow
def test_rows(record):
    rows = record[0]["rows"]
    forms = [(row["name"], row["seeds"], row["sharing"]) for row in rows[:-1]]
    assert forms == [
        ("plain_step", 1, "sequential"),
        ("plain_step", 2, "sequential"),
        ("plain_step", 2, "interleaved"),
        ("plain_step", 2, "vmap"),
        *((f"{name}_step", 1, "sequential") for name in ("abd", "inversion")),
        ("evaluation", 1, "sequential"),
        ("herding", 1, "sequential"),
        ("streamed_step", 1, "sequential"),
        ("input", 1, "sequential"),
    ]
    assert rows[-1]["name"] == "run"
    assert len({tuple(sorted(set(row) - {"split"})) for row in rows}) == 1
    for row in rows[:-1]:
        assert row["seconds"] > 0 and row["repetitions"] >= 3
        assert row["quartiles"][0] <= row["seconds"] <= row["quartiles"][1]
        assert row["seconds_per_seed"] == row["seconds"] / row["seeds"]
        assert row["images_per_second"] == row["images_per_step"] / row["seconds"]
        assert row["host_memory"] > 2**20
        assert (row["wait_share"] is not None) == (row["name"] == "streamed_step")
        if row["name"] == "input":
            assert (
                row["flops"] is row["bytes"] is row["device_memory"] is row["matrix_share"] is None
            )
            continue
        assert row["flops"] > 0 and row["bytes"] > 0 and row["device_memory"] > 0
        known = not row["has_loops"]
        assert (row["matrix_share"] is not None) == (row["copy_share"] is not None) == known


@pytest.mark.slow
def test_what_rows_count(record):
    rows = record[0]["rows"]
    plain, twice, interleaved, side_by_side, abd, inversion, *others = rows
    evaluation, herding, streamed, images, run = others
    # Two seeds one after the other are the one seed's program; side by side they are another.
    assert plain["compilations"] > 0 and plain["compile_seconds"] > 0
    assert twice["compilations"] == 0 == twice["compile_seconds"]
    assert side_by_side["compilations"] > 0
    assert twice["flops"] == 2 * plain["flops"]
    assert interleaved["compilations"] > 0
    assert interleaved["flops"] == pytest.approx(2 * plain["flops"], rel=0.02)
    assert side_by_side["flops"] == pytest.approx(2 * plain["flops"], rel=0.02)
    # Twice the images, a teacher's pass over all and a generator's over half of them besides.
    assert abd["flops"] > 2.6 * plain["flops"]
    steps = (plain, abd, inversion)
    assert [row["images_per_step"] for row in steps] == [BATCH] * 3
    assert twice["images_per_step"] == 2 * BATCH
    # Digits hold 36 or so test images of each class; a task has two classes of ten images.
    assert 60 < evaluation["images_per_step"] < 80
    assert herding["images_per_step"] == 20 and herding["has_loops"]
    assert streamed["images_per_step"] == images["images_per_step"] == 8
    assert 0 < streamed["wait_share"] < 1 and images["compilations"] == 0
    assert run["split"]["total"] <= run["seconds"] and run["compilations"] > 0


@pytest.mark.slow
def test_profile(record):
    folder = record[1]
    assert [path.name for path in folder.iterdir()] == ["plain_step_float32"]
    [traces] = (folder / "plain_step_float32" / "plugins" / "profile").iterdir()
    names = [path.name for path in traces.iterdir()]
    assert "perfetto_trace.json.gz" in names
    assert any(name.endswith(".xplane.pb") for name in names)


@pytest.mark.slow
def test_written_and_read(record, tmp_path):
    table.write(tmp_path / "b.json", record[0])
    assert table.read(tmp_path / "b.json") == json.loads(json.dumps(record[0]))
    for key in ("date", "hardware", "versions", "rates", "seconds"):
        assert record[0][key]


def shown(function, *records, width=200):
    console = Console(file=io.StringIO(), width=width)
    function(*records, console)
    return console.file.getvalue()


@pytest.mark.slow
def test_shown(record):
    text = shown(table.show, record[0])
    for word in ("plain_step", "2 vmap", "images/s", "GFLOP", "run: seconds: compile"):
        assert word in text
    narrow = shown(table.show, record[0], width=80)
    assert "images/s" in narrow and "…" not in narrow
    assert "grams" in text and "grams" not in narrow  # the column that goes last


@pytest.mark.slow
def test_compared(record):
    now = copy.deepcopy(record[0])
    for row in now["rows"]:
        row |= {"seconds": 1.0, "quartiles": [0.9, 1.1]}
    then = copy.deepcopy(now)
    then["rows"][0] |= {"seconds": 2.5, "quartiles": [2.4, 2.6]}
    then["rows"][1] |= {"seconds": 0.5, "quartiles": [0.4, 0.6]}
    then["rows"][3]["dtype"] = "bfloat16"
    text = shown(table.compare, now, then)
    lines = {tuple(line.split()[:4]): line for line in text.splitlines() if "_step" in line}
    first = lines["plain_step", "float32", "1", "2,500"]
    assert "2.50" in first and first.endswith("now is faster")
    second = lines["plain_step", "float32", "2", "sequential"]
    assert "0.50" in second and second.endswith("now is slower")
    assert lines["plain_step", "float32", "2", "vmap"].rstrip().endswith("new")
    assert lines["abd_step", "float32", "1", "1,000"].endswith("same within the spread")
    assert "not measured now: plain_step bfloat16 2 vmap" in text
    assert "machines differ" not in text
    then["hardware"] = then["hardware"] | {"cores": 1000}
    assert "machines differ" in shown(table.compare, now, then)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"seeds": ["1", "x"]}, "--seeds=1,x"),
        ({"seeds": ["0"]}, "--seeds=0"),
        ({"seconds": 0.0}, "--seconds"),
        ({"dtypes": ["float31"]}, "float31"),
        ({"dtypes": ["tf32"]}, "--dtypes=tf32: only GPUs have it"),
    ],
)
def test_wrong_options(arguments, word):
    with pytest.raises(UserError, match=word):
        plan.make_options(**{"seconds": 1.0} | arguments)


def test_unknown_row():
    parts = [ConfigRows(tiny_runs.make_config("lucir"))]
    options = Options(0.01, (), ("float32",))
    with pytest.raises(UserError, match="--only=abd_step: no such row; choose plain_step"):
        plan.measure_all(parts, {"abd_step"}, options)


HOST = "streamed_step", "input"


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("bic", ["plain_step", "bic_step", "correct_step", "evaluation", "herding", *HOST]),
        ("rehearsal", ["plain_step", "base_step", "evaluation", "exemplars", *HOST]),
        ("icarl", ["plain_step", "icarl_step", "evaluation", "herding", *HOST]),
        ("base", ["plain_step", "base_step", "evaluation", *HOST]),
    ],
)
def test_rows_of_other_methods(name, rows):
    config = tiny_runs.make_config(name)
    assert plan.names_of_rows(config) == rows


def test_random_images_stand_for_cifar():
    config = tiny_runs.make_config("abd")
    config.data.update(name="cifar100", per_class=3)
    read = settings.read(config)
    dataset = rows_lib.load(read)
    assert dataset.train_images.shape == (300, 32, 32, 3)
    assert dataset.test_images.shape == (10_000, 32, 32, 3)
    assert np.bincount(dataset.train_labels).tolist() == [3] * 100
    assert build.preprocessing(read, dataset).mean == dataset.mean
    assert 120 < dataset.train_images.mean() < 135


def command(*args, timeout=120, **environment):
    process = subprocess.run(
        [sys.executable, "-m", "cljax.benchmark", *args],
        capture_output=True,
        text=True,
        cwd=tiny_runs.ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        timeout=timeout,
    )
    return process.returncode, process.stdout, process.stderr


def test_help_needs_no_jax(tmp_path):
    (tmp_path / "jax.py").write_text("raise ImportError('jax was imported')")
    status, out, err = command("--help", PYTHONPATH=str(tmp_path))
    assert (status, err) == (0, "")
    assert out.startswith("Measures") and "--against" in out and "abd_cifar100" in out


def test_damaged_file(tmp_path):
    damaged = {"format": plan.FORMAT, "rows": [{"name": "plain_step"}]}
    (tmp_path / "b.json").write_text(json.dumps(damaged))
    with pytest.raises(UserError, match="not a benchmark"):
        table.read(tmp_path / "b.json")


ROW = {
    "name": "plain_step",
    "method": "abd",
    "data": "digits",
    "dtype": "float32",
    "seeds": 1,
    "sharing": "auto",
    "images_per_step": 8,
    "mesh": None,
    "seconds": 1.0,
    "quartiles": [0.9, 1.1],
}
RECORD = {"format": plan.FORMAT, "date": "today", "hardware": {"cores": 2}, "rows": [ROW]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"date": None}, "date: "),
        ({"hardware": []}, "hardware: "),
        ({"rows": {}}, "rows: "),
        ({"rows": [3]}, "rows.0: "),
        ({"rows": [ROW | {"name": []}]}, "rows.0.name: "),
        ({"rows": [ROW | {"seconds": 0}]}, "rows.0.seconds: "),
        ({"rows": [ROW | {"quartiles": [1.0]}]}, "rows.0.quartiles: "),
        ({"rows": [ROW | {"mesh": {"seeds": 1}}]}, "no 'data'"),
    ],
)
def test_odd_types_are_named(tmp_path, change, words):
    path = tmp_path / "b.json"
    path.write_text(json.dumps(RECORD))
    assert table.read(path) == RECORD
    path.write_text(json.dumps(RECORD | change))
    with pytest.raises(UserError, match="not a benchmark") as error:
        table.read(path)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_names_of_another_benchmark_are_text(tmp_path):
    evil = ROW | {"name": "[red]\x1b[31m", "method": "other"}
    (tmp_path / "b.json").write_text(json.dumps(RECORD | {"date": "\x07", "rows": [evil]}))
    other = table.read(tmp_path / "b.json")
    text = shown(table.compare, RECORD, other) + shown(table.compare, other, other)
    assert text.count(r"[red]\x1b[31m") == 2 and not {"\x1b", "\x07"} & set(text)


@pytest.mark.slow
def test_foreign_file(tmp_path):
    (tmp_path / "other.json").write_text('{"format": "something else"}')
    status, out, err = command(f"--against={tmp_path / 'other.json'}")
    tiny_runs.assert_one_line(status, err, "other.json", "not a benchmark")
    assert out == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "word"),
    [("--only=nothing", "lucir_step"), ("--config.epoch=1", "epochs"), ("stray", "stray")],
)
def test_wrong_flag(flag, word):
    status, out, err = command(flag)
    tiny_runs.assert_one_line(status, err, word)
    assert out == ""
