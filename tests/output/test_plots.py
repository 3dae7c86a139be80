"""The plots and pictures of a run."""

import numpy as np
import pytest
from PIL import Image

from cljax.errors import UserError, printable
from cljax.output import plots
from tests.helpers.fake_runs import results


def rows(tasks, seeds, epochs=3):
    return [
        {
            "seed": seed,
            "task": task + 1,
            "stage": "train",
            "epoch": epoch + 1,
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
    curves = plots.loss_curves([*rows(2, 2), {"seed": 0, "task": 2, "stage": "invert", "prior": 3}])
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


def test_every_term_can_be_told_apart_without_colour_and_on_top_of_its_loss():
    terms = ["loss", "class", "local", "head"]  # all equal
    same = [
        {"seed": 0, "task": 1, "stage": "train", "epoch": e, "global_epoch": e}
        | dict.fromkeys(terms, 1.0)
        for e in range(1, 61)
    ]
    figure = plots._draw_losses(plots.loss_curves(same), results(1, 1))
    (axes,) = figure.axes
    loss, *parts = axes.lines
    assert [line.get_label() for line in axes.lines] == terms
    assert all(line.get_zorder() >= loss.get_zorder() for line in parts)
    widths = [line.get_linewidth() for line in axes.lines]
    assert widths == sorted(set(widths), reverse=True) and widths[0] > 2 * widths[1]
    assert len({line.get_marker() for line in parts}) == len(parts)
    assert len({line.get_markevery() for line in parts}) == len(parts)  # side by side


def test_a_class_of_few_images_has_a_short_row_with_a_reason(tmp_path):
    images = np.zeros((12, 8, 8, 1), np.uint8)
    labels = np.array([0] * 10 + [1] * 2)
    drawn = {}
    for why in (None, "why the row is short"):
        path = tmp_path / "classes.png"
        plots.write_class_grid(images, labels, ["a", "b"], path, why_empty=why)
        with Image.open(path) as picture:
            drawn[why] = np.asarray(picture.convert("L"))
    bare, full = drawn.values()
    assert len(full) > len(bare)  # a line below
    is_black = (bare == 0).mean(axis=1) > 0.1
    upper, lower = np.flatnonzero(is_black)[[0, -1]]
    black = [(bare[row] == 0).sum() for row in (upper, lower)]
    assert black == [640, 128]  # the places without an image are as white as the ground
    plots.write_class_grid(images, labels, ["a"], tmp_path / "one.png", why_empty="why")
    plots.write_class_grid(images, labels, ["a"], tmp_path / "bare.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "bare.png").read_bytes()


NAMES = ["$0_$10", "$\\frac$", "50 % $", "_hidden", "a\x1b[31m", "two\nlines", "caf\udce9", ""]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_text_in_every_plot(tmp_path, name):
    images = np.zeros((1, 1, 8, 8, 1), np.uint8)
    plots.write_image_grid(images, tmp_path / "grid.png", [name], name, name)
    named = [row | {"stage": name, name: 1.0} for row in rows(2, 1)]
    plots.write_plots(results(2, 1) | {"method": name, "dataset": name}, named, tmp_path)


@pytest.mark.parametrize("name", NAMES[:-1])
def test_a_legend_shows_every_term_as_it_is_called(name):
    curves = plots.loss_curves([row | {name: 1.0} for row in rows(1, 1)])
    (axes,) = plots._draw_losses(curves, results(1, 1)).axes
    (*_, text) = axes.get_legend().get_texts()
    drawn, is_formula = text._preprocess_math(text.get_text())
    assert drawn.removeprefix("\u2060") == printable(name) and not is_formula


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
