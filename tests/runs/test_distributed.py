"""Several processes run one experiment together, started as their user starts them."""

import contextlib
import os
import signal
import socket
import time

import pytest

from cljax import files, training
from tests.helpers import tiny_runs

SETTINGS = {"seeds": (0, 1), **tiny_runs.STABLE}


@contextlib.contextmanager
def started(ways, *args, cache: str):
    """Processes of main.py with two devices each; `ways`: the flags and variables of each."""
    processes = [
        tiny_runs.start(*args, *flags, cache=cache, devices=2, variables=variables)
        for flags, variables in ways
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()


@contextlib.contextmanager
def at_work(args, workdir, cache: str, epochs: int = 1):
    """Two processes that have some epochs of a run behind them."""
    with started(by_hand(), *args, cache=cache) as processes:
        deadline = time.monotonic() + 200
        while not (workdir / "metrics.jsonl").exists() or len(tiny_runs.metrics(workdir)) < epochs:
            assert time.monotonic() < deadline
            assert all(process.poll() is None for process in processes), finish(processes)
            time.sleep(0.02)
        yield processes


def by_hand():
    """How a user starts two processes that find each other over loopback."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        together = [f"--coordinator=localhost:{free.getsockname()[1]}", "--num_processes=2"]
    return [([*together, f"--process_id={i}"], {}) for i in range(2)]


def by_slurm():
    """How SLURM starts the same two, telling them of each other in the environment alone."""
    step = {"SLURM_JOB_ID": str(find_job()), "SLURM_STEP_NODELIST": "localhost"}
    step["SLURM_NTASKS"] = "2"
    ids = [{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)]
    return [(["--distributed"], step | own) for own in ids]


def find_job():
    """A job's number for which the port that JAX makes of it (the last 4,096) is free."""
    for job in range(os.getpid(), os.getpid() + 4096):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("localhost", 65536 - 4096 + job % 4096))
            return job
    raise AssertionError("no port is free")


def finish(processes):
    """(exit status, standard output, standard error) of each."""
    ends = [(*process.communicate(timeout=240), process.returncode) for process in processes]
    return [(status, without_gloo(out), err) for out, err, status in ends]


def without_gloo(out):
    """Gloo, XLA's way between processes on CPU, tells of every connection, sometimes in pieces."""
    lines = out.splitlines(True)
    return "".join(line for line in lines if "ank" not in line and not line.strip().isdigit())


@pytest.fixture(scope="module")
def reference(fast_runs, tmp_path_factory):
    """The workdir of a run with two seeds on one device."""
    workdir = tmp_path_factory.mktemp("two_seeds") / "run"
    tiny_runs.run(tiny_runs.make_config(**SETTINGS), workdir)
    return workdir


@pytest.mark.slow
def test_stop_of_one_stops_all_and_one_process_goes_on(compiled, reference, tmp_path):
    workdir = tmp_path / "run"
    # The images stay on the hosts, each of which brings its devices' part of a batch.
    args = tiny_runs.arguments(workdir, data__residence="stream", **SETTINGS)
    with at_work(args, workdir, compiled) as processes:
        processes[1].send_signal(signal.SIGTERM)
        (status, out, err), (other, quiet, _) = finish(processes)
    assert status == other == 128 + signal.SIGTERM, (out, err)
    assert "Stopped. Checkpoint saved in" in out
    assert "stopped" not in quiet
    assert 0 < len(tiny_runs.metrics(workdir)) < len(tiny_runs.metrics(reference))
    # Eight devices of one process go on with what two of each of two processes have begun.
    status, out, err = tiny_runs.command(*args, cache=compiled, devices=8, timeout=240)
    assert status == 0, err
    assert "resuming" in out
    tiny_runs.assert_near_run(workdir, reference)


@pytest.mark.slow
def test_death_of_one_ends_the_other_and_a_device_goes_on(compiled, reference, tmp_path):
    workdir = tmp_path / "run"
    args = tiny_runs.arguments(workdir, **SETTINGS)
    with at_work(args, workdir, compiled) as processes:
        processes[0].kill()  # the one that writes
        (status, _, _), (other, _, _) = finish(processes)
    assert status == -signal.SIGKILL and other != 0
    status, _, err = tiny_runs.command(*args, cache=compiled)
    assert status == 0, err
    tiny_runs.assert_near_run(workdir, reference)


@pytest.mark.slow
def test_processes_go_on_with_a_run_of_one_device(
    fast_runs, compiled, reference, tmp_path, monkeypatch
):
    workdir, epochs = tmp_path / "run", []
    run_epoch = training.run_epoch

    def stopping(*args):
        *args, stopped = args
        asked = []

        def stop_in_third_epoch():
            asked.append(None)
            if len(epochs) == 3 and len(asked) == 2:
                signal.raise_signal(signal.SIGTERM)
            return stopped()

        epochs.append(None)
        return run_epoch(*args, stop_in_third_epoch)

    with monkeypatch.context() as patch:
        patch.setattr(training, "run_epoch", stopping)
        with pytest.raises(tiny_runs.experiment.Stopped):
            tiny_runs.run(tiny_runs.make_config(**SETTINGS), workdir)
    assert len(tiny_runs.metrics(workdir)) == 4
    with started(by_hand(), *tiny_runs.arguments(workdir, **SETTINGS), cache=compiled) as processes:
        (status, out, err), (other, quiet, _) = finish(processes)
    assert status == other == 0, err
    assert "resuming" in out and "Results" in out
    assert not quiet.strip()
    tiny_runs.assert_near_run(workdir, reference)
    assert tiny_runs.results(workdir)["complete"]


@pytest.mark.slow
def test_mistakes_end_all(compiled, tmp_path):
    # Only the first process looks into the workdir.
    files.write_json_atomically(tmp_path / "config.json", {"of": "another run"})
    before = sorted(tmp_path.iterdir())
    with started(by_hand(), *tiny_runs.arguments(tmp_path), cache=compiled) as processes:
        (status, _, err), (other, quiet, other_err) = finish(processes)
    tiny_runs.assert_one_line(status, err, "holds a run with other settings")
    assert (other, quiet.strip(), other_err) == (1, "", "")
    assert [p for p in sorted(tmp_path.iterdir()) if p.name != ".lock"] == before


@pytest.mark.slow
def test_table_by_processes_of_a_cluster(compiled, tmp_path):
    settings = {
        "learners": "('base','rehearsal')",
        "splits": "(5,)",
        "seeds": "(0,1)",
        "epochs": "1",
        "milestones": "()",
        "model.width": "4",
        "batch_size": "4",
        "max_tasks": "2",
        "data.per_class": "10",
    }
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    args = f"--config={tiny_runs.ROOT}/configs/table_digits.py", f"--workdir={tmp_path}", *flags
    for _ in range(2):
        with started(by_slurm(), *args, cache=compiled) as processes:
            (status, out, err), (other, quiet, other_err) = finish(processes)
        assert status == other == 0, (err, other_err)
        assert not quiet.strip()
        for name in ("base_5tasks", "rehearsal_5tasks"):
            assert tiny_runs.results(tmp_path / name)["complete"]
        assert (tmp_path / "report.md").exists()
    # The second time only the first process's files say that there is nothing left to do.
    assert " ".join(out.split()).count(": already complete") == 2


@pytest.mark.slow
def test_points_of_a_grid_train_together_on_all_processes(compiled, fast_runs, tmp_path):
    args = tiny_runs.arguments(tmp_path / "grid", "lwf")
    args.append("--config.grid={'method.mu': (0.5, 2.0)}")
    with at_work(args, tmp_path / "grid" / "mu=2.0", compiled, epochs=2) as processes:
        for process in processes:
            process.kill()
    with started(by_hand(), *args, cache=compiled) as processes:
        (status, out, err), (other, *_) = finish(processes)
    assert status == other == 0, err
    assert "training together: mu=0.5, mu=2.0" in out
    assert "resuming" in out
    for mu in (0.5, 2.0):
        alone = tmp_path / f"alone{mu}"
        tiny_runs.run(tiny_runs.make_config("lwf", method__mu=mu), alone)
        tiny_runs.assert_near_run(tmp_path / "grid" / f"mu={mu}", alone)


def test_a_wrong_address_is_one_line(tmp_path):
    flags = "--coordinator=nonsense", "--num_processes=2", "--process_id=1"
    status, _, err = tiny_runs.command(*tiny_runs.arguments(tmp_path), *flags)
    tiny_runs.assert_one_line(status, err, "--coordinator=nonsense: must be HOST:PORT")
