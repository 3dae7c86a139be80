"""A run with LibContinual's file, as its user starts and repeats it."""

import pytest
import yaml

from tests.helpers import tiny_runs
from tests.helpers.libcontinual_files import FILES

ON_DIGITS = {
    "data.name": "digits",
    "data.mean": (),
    "data.std": (),
    "model.name": "resnet8_lucir",
    "first_task_size": 4,
    "num_tasks": 4,
}


@pytest.mark.slow
def test_a_run_with_libcontinuals_file(tmp_path, compiled):
    settings = ON_DIGITS | tiny_runs.TINY | {"exemplars.total": 40}
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    config = f"--config={tiny_runs.ROOT}/configs/libcontinual.py:lucir.yaml"
    (tmp_path / "lucir.yaml").write_text(yaml.safe_dump(FILES["document"]))
    status, out, err = tiny_runs.command(config, *flags, cwd=tmp_path, cache=compiled)
    assert (status, err) == (0, "")
    workdir = tmp_path / "runs" / "libcontinual_lucir"
    assert tiny_runs.results(workdir)["complete"] and "2 of 2 tasks" in out
    note = "lucir.yaml: classifier.kwargs.feat_dim=512: resnet32 has 64 features"
    assert out.count(note) == 1 and (workdir / "log.txt").read_text().count(note) == 1
    _, out, _ = tiny_runs.command(config, *flags, cwd=tmp_path, cache=compiled)
    assert "already complete" in out
