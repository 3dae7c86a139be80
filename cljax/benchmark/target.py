"""Compiles the rows of a benchmark for chips that are not here, and counts what they consist of."""

import datetime
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from cljax import build, files
from cljax import settings as settings_lib
from cljax.benchmark import hlo_counts, plan, rows
from cljax.benchmark.chips import Target
from cljax.benchmark.plan import ConfigRows, Options
from cljax.benchmark.target_executor import TargetExecutor
from cljax.compute import device
from cljax.data.sources import Dataset
from cljax.settings import Settings

FORMAT = "cljax target 1"
SEEDS = ("1", "3")
LAUNCH_SECONDS = 2e-6  # of the estimate: the least time of a kernel on a GPU
DTYPES = {"gpu": ("float32", "tf32", "bfloat16"), "tpu": ("float32", "bfloat16")}


def count_all(
    parts: Sequence[ConfigRows],
    only: set[str],
    options: Options,
    target: Target,
    dump: Path | None = None,
    console: Console | None = None,
) -> dict:
    """Compiles and counts all wanted rows; nothing runs on a device.

    Must be called within `device.programs_for(target.chip.platform)`.

    Args:
      parts: rows of each config.
      only: names of the wanted rows; empty: all.
      options: dtypes and numbers of seeds.
      target: chips to compile for.
      dump: directory for the optimized HLO of each row, or None.
      console: shows the current row; standard error by default.

    Returns:
      The record that `target_table` shows and writes.

    Raises:
      UserError: no row has a wanted name, or a setting is wrong.
    """
    start, console = time.perf_counter(), console or Console(stderr=True)
    names = [names_of_rows(part) for part in parts]
    plan.check_names(only, [name for some in names for name in some])
    record: dict[str, Any] = {
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "target": target.name,
        "usable_memory": target.chip.usable_memory,
        "versions": device.versions(),
        "rows": [],
    }
    for part, some in zip(parts, names, strict=True):
        wanted = [name for name in some if not only or name in only]
        for row in _count_part(part, wanted, options, target, dump, console):
            record["rows"].append(row)
    record["seconds"] = time.perf_counter() - start
    return record


def names_of_rows(part: ConfigRows) -> list[str]:
    """Returns the names of a part's rows whose programs need no host beside the device."""
    settings = settings_lib.read(part.config)
    kinds = rows.kinds_of_rows(settings, build.make_method(settings, rows.load(settings)))
    known = [name for name in part.names or kinds if name in kinds]
    return [name for name in known if kinds[name][0] not in ("input", "streamed")]


def _count_part(part, names, options, target, dump, console):
    """Yields the rows of a config; shows each before it is compiled."""
    if not names:
        return
    settings = settings_lib.read(part.config)
    dataset = rows.load(settings)
    for dtype in options.dtypes:
        bench = TargetBench(settings, dataset, dtype, target, dump)
        for name in names:
            console.print(f"{name} {target.name} {dtype}", style="dim")
            yield from bench.rows(name, options.seeds if dtype == options.dtypes[0] else ())
        jax.clear_caches()  # the next programs are others


class TargetBench(rows.Bench):
    """Counts the rows of one config in one precision, in shapes only."""

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        dtype: str,
        target: Target,
        dump: Path | None = None,
    ):
        """Builds the problem on the host; raises UserError if a setting is wrong."""
        alone = settings.mesh.model_copy(update={"seeds": 0, "data": 0})
        data = settings.data.model_copy(update={"residence": "device"})
        here = settings.model_copy(update={"mesh": alone, "data": data})
        super().__init__(here, dataset, dtype, seconds=0.0)
        self.settings = self.settings.model_copy(update={"mesh": settings.mesh})
        self.target = target
        self.dump = dump
        self._counted: tuple[TargetExecutor, Any, tuple, dict] | None = None  # the newest program

    def _executor(self, settings):
        mesh = build.make_mesh(settings, self.target.devices)
        sharing = build.sharing(settings)
        is_sequential = mesh is None and sharing == "sequential"
        if is_sequential and self._sequential:
            return self._sequential, self.problem.data  # one program for all numbers
        platform, target = self.target.chip.platform, self.target.devices[0]
        executor = TargetExecutor(platform, target, sharing, mesh, build.graphs(settings))
        if is_sequential:
            self._sequential = executor
        return executor, self.problem.data

    def _learner(self, index):
        if index not in self._learners:
            method, data = self.problem.method, self.problem.data
            state = self.problem.states[0]
            if index:
                past = self.problem.tasks(index - 1)[0]
                state = jax.eval_shape(rows.remember, method, state, past, data)
            task = self.problem.tasks(index)[0]
            before_task = type(method).before_task
            self._learners[index] = jax.eval_shape(before_task, method, state, task, data), task
        return self._learners[index]

    def _distributed(self, executor, index, seeds):
        return (executor.distribute([value] * seeds) for value in self._learner(index))

    def _most_steps(self, executor, stage, images):
        return 1  # the number is not in the shapes

    def _measure(self, name, settings, work):
        seeds, sharing = len(settings.seeds), settings.execution.seeds
        work.run(1)
        executor = work.executor
        if self._counted is None or self._counted[:2] != (executor, work.function):
            form = f"-{seeds}{sharing}" if seeds > 1 else ""
            label = f"{name}-{self.target.file_name}-{settings.dtype}{form}"
            lowered = executor.lower(work.function)
            # On a mesh, ways to share the devices may differ in nothing.
            program = lowered.as_text(), self.target.chip.platform == "gpu" and executor.sharing
            if self._counted and self._counted[2] == program:
                counted = self._counted[3]
            else:
                counted = self._count(lowered, label, settings.dtype)
            self._counted = executor, work.function, program, counted
        counted = self._counted[3]
        row = {"name": name, **rows.describe(settings), "sharing": sharing}
        row["mesh"] = executor.mesh and dict(executor.mesh.shape)
        row["images_per_step"] = work.images * seeds
        if not counted["error"]:
            memory: dict[str, int] = dict(counted["memory"])
            held, memory["waiting_seeds"] = executor.held_bytes(work.function, seeds)
            memory["unused_arguments"] = max(0, held - memory["arguments"])
            memory["total"] = sum(memory.values())
            fits = memory["total"] <= self.target.chip.usable_memory
            counted = counted | {"memory": memory, "fits": fits}
        return row | counted

    def _count(self, lowered, label, dtype):
        """Compiles a program and returns a row's counts; None where the compiler tells nothing."""
        counts = ("kernels", "launches", "memory", "flops", "bytes", "collectives")
        unknown = dict.fromkeys((*counts, "estimate_seconds", "fits", "error"))
        with tempfile.TemporaryDirectory() as folder:
            is_gpu = self.target.chip.platform == "gpu"
            start, cpu_start = time.perf_counter(), time.process_time()
            try:
                options = {"xla_dump_to": folder} if is_gpu else {}
                compiled, line = lowered.compile(compiler_options=options), ""
            except Exception as error:  # compilers share no error class
                compiled, line = None, str(error).strip().partition("\n")[0]
                line = line or type(error).__name__
            spent = {
                "compile_seconds": time.perf_counter() - start,
                "compile_cpu_seconds": time.process_time() - cpu_start,
            }
            if compiled is None:
                return unknown | spent | {"error": line}
            text = compiled.as_text()
            thunks = _thunks(Path(folder)) if is_gpu else None
        if self.dump:
            files.write_atomically(self.dump / f"{label}.txt", text.encode())
        module = hlo_counts.Module(text)
        work = module.work()
        return unknown | {
            **spent,
            "kernels": module.kernels(),
            "launches": None if thunks is None else hlo_counts.launches(thunks),
            "memory": _memory(compiled),
            "flops": sum(flops for flops, _ in work),
            "bytes": sum(size for _, size in work),
            "collectives": module.collectives(),
            "estimate_seconds": estimate(work, self.target, dtype),
        }


def estimate(work: Sequence[tuple[int, int]], target: Target, dtype: str) -> float:
    """Estimates the seconds of a step from (FLOPs, bytes) of its kernels; no device was asked.

    Kernels follow one another. Each takes what its arithmetic takes at the chip's peak rate, or
    its bytes at the bandwidth, whichever is longer, and on a GPU at least `LAUNCH_SECONDS`.
    """
    least = LAUNCH_SECONDS if target.chip.platform == "gpu" else 0.0
    rate, bandwidth = target.chip.rates[dtype], target.chip.bandwidth
    return sum(max(least, flops / rate, size / bandwidth) for flops, size in work)


def _thunks(folder):
    """Reads the thunks of a GPU program, those after XLA has made graphs of them if it has."""
    found = sorted(folder.glob("*.thunk_sequence*.txt"), key=lambda path: len(path.name))
    return found[-1].read_text(encoding="utf-8") if found else None


def _memory(compiled):
    """Bytes of a program on one device; donated arguments are the results."""
    found = compiled.memory_analysis()
    return {
        "arguments": found.argument_size_in_bytes,
        "results": found.output_size_in_bytes - found.alias_size_in_bytes,
        "temporaries": found.temp_size_in_bytes,
    }
