"""The tables, plots and pictures of a run."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from cljax import metrics, plots, report
from cljax.errors import UserError


def results(tasks, seeds, done=None):
    """Results of a run in which task j loses five points with every task after it."""
    correct = [
        [[90 + s - 5 * (t - j) % 90 for j in range(t + 1)] for t in range(done or tasks)]
        for s in range(seeds)
    ]
    return metrics.build_results(
        method="lwf",
        dataset="digits",
        seeds=list(range(seeds)),
        class_orders=[list(range(2 * tasks))] * seeds,
        task_sizes=[2] * tasks,
        test_images=[[100] * tasks] * seeds,
        correct=correct,
        correct_within_task=correct,
        seconds={"train": 1234.5, "total": 1300.0},
        device="cpu",
        versions={},
    )


def rows(tasks, seeds, epochs=3):
    return [
        {
            "seed": seed,
            "task": task,
            "stage": "train",
            "epoch": epoch,
            "global_epoch": task * epochs + epoch + 1,
            "learning_rate": 0.1,
            "loss": 2.0 + seed + epoch,
            "loss_kd": 0.0 if task == 0 else 0.5,
            "accuracy": 0.5,
            "images_per_second": 1e4,
        }
        for task in range(tasks)
        for epoch in range(epochs)
        for seed in range(seeds)
    ]


def summary(results, workdir, width=100):
    console = Console(file=io.StringIO(), width=width)
    report.print_summary(results, workdir, console)
    return console.file.getvalue()


def test_summary_has_the_numbers_and_the_files(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "plots").mkdir()
    for picture in ("loss.png", "dreams.png"):
        (tmp_path / "plots" / picture).touch()
    text = summary(results(3, 2), tmp_path)
    assert "lwf on digits: 3 of 3 tasks, seeds 0, 1" in text
    assert "85.50 ± 0.50" in text  # final: (80 + 85 + 90) / 3, plus seed
    assert "7.50 ± 0.00" in text  # forgetting: (10 + 5) / 2
    assert "after 3 80.5 85.5 90.5" in text
    assert f"  {tmp_path}/plots/: dreams.png, loss.png\n  {tmp_path}/results.json\n" in text
    assert "train 1,234.5 s, total 1,300.0 s" in text


def test_summary_says_when_the_accuracy_is_top_5(tmp_path):
    assert "Top-5 accuracy after each task" in summary(results(1, 1) | {"top_k": 5}, tmp_path)
    assert "op-" not in summary(results(1, 1), tmp_path).partition("Files:")[0]


def test_summary_of_an_unfinished_run_and_of_none(tmp_path):
    text = summary(results(3, 1, done=1), tmp_path)
    assert "1 of 3 tasks, unfinished" in text and "± " not in text
    empty = results(2, 1) | {"tasks_done": 0, "complete": False}
    assert "Accuracy" not in summary(empty, tmp_path)


def test_the_accuracy_matrix_fits_the_width(tmp_path):
    many = results(20, 1)
    for width, first_row in [(160, "after 2 85.0 90.0"), (80, "after 2 85 90"), (50, "too wide")]:
        text = summary(many, tmp_path, width).partition("Time:")[0]
        assert first_row in " ".join(text.split())
        assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize(("tasks", "seeds"), [(1, 1), (2, 3)])
def test_plots_are_png_files_that_do_not_depend_on_the_day(tmp_path, tasks, seeds):
    names = ["accuracy_after_each_task.png", "accuracy_matrix.png", "loss_curves.png"]
    written = plots.write_plots(results(tasks, seeds), rows(tasks, seeds), tmp_path / "plots")
    assert written == [tmp_path / "plots" / name for name in names]
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == names
    again = plots.write_plots(results(tasks, seeds), rows(tasks, seeds), tmp_path / "again")
    for path, other in zip(written, again, strict=True):
        with Image.open(path) as picture:
            assert picture.format == "PNG" and min(picture.size) > 400
            assert "Software" not in picture.info and "Creation Time" not in picture.info
            assert np.asarray(picture).std() > 5  # something is drawn
        assert path.read_bytes() == other.read_bytes()


def test_plots_without_data_are_not_written(tmp_path):
    empty = results(2, 1) | {"tasks_done": 0}
    assert plots.write_plots(empty, [], tmp_path) == []
    assert [p.name for p in plots.write_plots(results(1, 1), [], tmp_path)] == [
        "accuracy_after_each_task.png",
        "accuracy_matrix.png",
    ]


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / "plots").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*plots"):
        plots.write_plots(results(1, 1), [], tmp_path / "plots")


def test_loss_curves_are_means_over_seeds_without_the_other_columns():
    curves = plots.loss_curves([*rows(2, 2), {"seed": 0, "task": 1, "stage": "invert", "prior": 3}])
    assert list(curves) == ["train", "invert"]
    assert set(curves["train"].terms) == {"loss", "loss_kd"}
    assert curves["train"].terms["loss"] == ([1, 2, 3, 4, 5, 6], [2.5, 3.5, 4.5] * 2)
    assert curves["train"].terms["loss_kd"][1] == [0, 0, 0, 0.5, 0.5, 0.5]
    assert curves["train"].task_ends == [3, 6]
    assert curves["invert"] == plots.Curves({"prior": ([1], [3])}, [1])


def test_loss_curves_leave_out_values_that_were_not_finite():
    broken = rows(1, 1)
    broken[1]["loss"] = None
    assert plots.loss_curves(broken)["train"].terms["loss"] == ([1, 3], [2.0, 4.0])


@pytest.mark.parametrize("shape", [(2, 3, 8, 8, 1), (1, 2, 20, 32, 3), (1, 1, 100, 100, 3)])
def test_images_in_a_grid_are_enlarged_pixel_by_pixel(tmp_path, shape):
    images = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
    path = tmp_path / "grid.png"
    plots.write_image_grid(images, path)
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    scale = max(1, -(-64 // max(shape[2:4])))
    height, width = scale * shape[2], scale * shape[3]
    for r in range(shape[0]):
        for c in range(shape[1]):
            top, left = 10 + r * (height + 4), 10 + c * (width + 4)
            found = pixels[top : top + height, left : left + width]
            wanted = np.broadcast_to(images[r, c], (*shape[2:4], 3))
            np.testing.assert_array_equal(found, np.kron(wanted, np.ones((scale, scale, 1))))


def test_labels_and_title_make_room_for_themselves(tmp_path):
    images = np.zeros((2, 2, 8, 8, 1), np.uint8)
    plots.write_image_grid(images, tmp_path / "bare.png")
    labels = ["cat", "a longer name"]
    plots.write_image_grid(images, tmp_path / "full.png", labels, title="Dreamed after task 2")
    with Image.open(tmp_path / "bare.png") as bare, Image.open(tmp_path / "full.png") as full:
        left = full.width - bare.width
        assert left > 60 and full.height > bare.height
        pixels = np.asarray(full.convert("L"))
        assert pixels[-bare.height :, :left].min() < 128  # the labels
        assert pixels[: full.height - bare.height].min() < 128  # the title
        # Nothing is cut off at the edges.
        assert pixels[0].min() == pixels[-1].min() == pixels[:, 0].min() == 255


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 2, 8, 8, 1), np.float32), None),
        (np.zeros((2, 8, 8, 1), np.uint8), None),
        (np.zeros((2, 2, 8, 8, 2), np.uint8), None),
        (np.zeros((2, 2, 8, 8, 1), np.uint8), ["one"]),
    ],
)
def test_other_images_are_refused(tmp_path, images, labels):
    with pytest.raises(ValueError, match=r"uint8|labels"):
        plots.write_image_grid(images, tmp_path / "grid.png", labels)


def test_reports_load_neither_jax_nor_pyplot():
    code = (
        "import sys; import cljax.report, cljax.logs, cljax.progress, cljax.metrics; "
        "print(*{'jax', 'matplotlib.pyplot', 'tensorboardX'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
