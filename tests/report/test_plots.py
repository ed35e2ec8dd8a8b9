from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter1d

from flaxfit.history import History
from flaxfit.report import plots


def make(count=40, best=7, seed=0, validation=True, **extra):
    rng = np.random.default_rng(seed)
    columns = {name: rng.random(count) for name in ("loss", "binary_crossentropy", "accuracy")}
    if validation:
        columns |= {f"val_{name}": rng.random(count) for name in list(columns)}
    norms = {name: rng.random(count) for name in ("kernel_l1", "kernel_l2", "kernel_max")}
    return History({**columns, **norms, "best_epoch": np.full(count, best), **extra})


def lines(figure, panel=0) -> dict[str, list[Any]]:
    """What is drawn: curves by style, markers by marker."""
    drawn = figure.axes[panel].get_lines()
    return {
        "solid": [line for line in drawn if line.get_linestyle() == "-"],
        "dashed": [line for line in drawn if line.get_linestyle() == "--"],
        "best": [line for line in drawn if line.get_marker() == "o"],
        "end": [line for line in drawn if line.get_marker() == "|"],
    }


def legend(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_training_is_solid_validation_dashed_in_one_color_a_run():
    histories = {"Tiny": make(seed=0), "Large": make(count=25, seed=1)}
    found = lines(plots.learning_curves(histories))
    for run, solid, dashed in zip(histories, found["solid"], found["dashed"], strict=True):
        history = histories[run]
        np.testing.assert_array_equal(solid.get_xdata(), history.epochs)
        np.testing.assert_array_equal(solid.get_ydata(), history["binary_crossentropy"])
        np.testing.assert_array_equal(dashed.get_ydata(), history["val_binary_crossentropy"])
        assert solid.get_label() == run
        assert solid.get_color() == dashed.get_color()
    assert len({line.get_color() for line in found["solid"]}) == 2


def test_a_run_has_its_color_in_every_picture():
    histories = {name: make(seed=seed) for seed, name in enumerate("abcd")}
    curves, norms = plots.learning_curves(histories), plots.weight_norms(histories)
    colors = [[line.get_color() for line in lines(figure, panel)["solid"]] for figure, panel in ((curves, 0), (norms, 0), (norms, 2))]
    assert colors[0] == colors[1] == colors[2] == list(plots.PALETTE[:4])


def test_every_color_is_readable_on_white_and_unlike_the_others():
    def luminance(color):
        channels = np.array(to_rgb(color))
        return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    assert all(1.05 / (luminance(color) + 0.05) > 2 for color in plots.PALETTE)  # contrast; Okabe and Ito's yellow has 1.3
    apart = [np.abs(np.subtract(to_rgb(a), to_rgb(b))).max() for i, a in enumerate(plots.PALETTE) for b in plots.PALETTE[:i]]
    assert min(apart) > 0.2


def test_the_best_epoch_and_the_end_are_marked_on_the_validation_curve():
    history = make(count=40, best=7)
    found = lines(plots.learning_curves({"run": history}))
    (best,), (end,) = found["best"], found["end"]
    smooth = lines(plots.learning_curves({"run": history}, smooth=3))
    np.testing.assert_array_equal(best.get_xydata(), [[7, history["val_binary_crossentropy"][6]]])
    np.testing.assert_array_equal(end.get_xydata(), [[40, history["val_binary_crossentropy"][39]]])
    np.testing.assert_array_equal(smooth["best"][0].get_ydata(), smooth["dashed"][0].get_ydata()[[6]])  # on the curve that is drawn
    assert best.get_color() == end.get_color() == found["dashed"][0].get_color()


def test_the_epoch_marked_counts_from_the_historys_first():
    history = History({"loss": [0.5] * 4, "mse": [0.5] * 4, "val_mse": [4.0, 3.0, 1.0, 2.0], "best_epoch": [11, 12, 13, 13]}, 11)
    (best,) = lines(plots.learning_curves({"run": history}))["best"]
    np.testing.assert_array_equal(best.get_xydata(), [[13, 1.0]])


def test_the_legend_explains_what_is_there_and_nothing_else():
    full = {"Tiny": make(), "Large": make(seed=1)}
    assert legend(plots.learning_curves(full)) == ["Tiny", "Large", "training", "validation", "best epoch", "end of training"]
    bare = History({"loss": [1.0, 0.5], "mse": [1.0, 0.5]})
    assert legend(plots.learning_curves({"Bare": bare})) == ["Bare", "training", "end of training"]


@pytest.mark.parametrize("smooth", [1, 10.0])
def test_smoothing_is_scipys(smooth):
    history = make(count=100)
    found = lines(plots.learning_curves({"run": history}, "accuracy", smooth=smooth))
    for line, name in ((found["solid"][0], "accuracy"), (found["dashed"][0], "val_accuracy")):
        np.testing.assert_allclose(line.get_ydata(), gaussian_filter1d(history[name], smooth, mode="nearest"), rtol=1e-12)


def test_one_epoch_that_is_not_finite_does_not_wipe_out_its_neighbors():
    flat = np.full(50, 0.5)
    flat[[20, 30, 49]] = np.nan, np.inf, np.nan
    history = History({"loss": flat, "mse": flat, "val_mse": flat, "best_epoch": np.full(50, 3)})
    found = lines(plots.learning_curves({"run": history}, smooth=5))
    np.testing.assert_allclose(found["solid"][0].get_ydata()[np.isfinite(flat)], 0.5)
    assert np.isnan(found["solid"][0].get_ydata()[[20, 30, 49]]).all()
    assert found["end"][0].get_xdata() == [49]  # the last that can be drawn


def test_axes_limits_and_names():
    ax = plots.learning_curves({"run": make()}, ylim=(0.5, 0.7), log_x=True, title="HIGGS").axes[0]
    assert ax.get_ylim() == (0.5, 0.7)
    assert ax.get_xscale() == "log"
    assert (ax.get_xlabel(), ax.get_title()) == ("epoch", "HIGGS")
    assert ax.get_ylabel() == "binary cross-entropy (nats a row)"
    plain = plots.learning_curves({"run": make(top_5_error=np.ones(40))}, "val_top_5_error").axes[0]
    assert plain.get_xscale() == "linear"
    assert plain.get_ylabel() == "top 5 error"


def test_drawing_into_given_axes():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plots.learning_curves({"run": make()}, ax=left) is figure
    assert plots.schedule(0.1, 20, 5, ax=right) is figure
    assert left.get_lines()
    assert right.get_lines()


@pytest.mark.parametrize("draw", [plots.learning_curves, plots.weight_norms])
@pytest.mark.parametrize("name", ["Large", "a run with quite a long name"])
def test_the_picture_fits_a_readme_and_no_text_is_cut_off_or_overlaps(draw: Any, name):
    figure: Any = draw({f"{name} {seed}": make(seed=seed) for seed in range(6)}, title="Title")
    figure.draw_without_rendering()
    assert 850 <= figure.bbox.width <= 1050
    legends = [ax.get_legend() for ax in figure.axes if ax.get_legend()] + figure.legends
    texts = [text for ax in figure.axes for text in (ax.title, ax.xaxis.label, ax.yaxis.label) if text.get_text()]
    boxes = [part.get_window_extent() for part in (*legends, *texts)]
    for box in boxes:
        assert box.x0 >= 0 <= box.y0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
    panels = [ax.get_window_extent() for ax in figure.axes]
    assert not any(box.overlaps(panel) for box in boxes for panel in panels)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_a_schedule_against_the_epoch():
    figure = plots.schedule(lambda step: 0.001 / (1 + step / 20_000), steps_per_epoch=20, epochs=2000)
    (line,) = lines(figure)["solid"]
    epochs, rates = line.get_data()
    assert (epochs[0], epochs[-1]) == (0, 2000)
    assert np.interp([0, 1000, 2000], epochs, rates) == pytest.approx([0.001, 0.0005, 0.001 / 3])
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("epoch", "learning rate")
    (constant,) = lines(plots.schedule(0.01, 3, 2))["solid"]
    assert set(constant.get_ydata()) == {0.01}
    np.testing.assert_allclose(constant.get_xdata(), np.arange(7) / 3)  # short: every step


def test_weight_norms_has_a_panel_a_norm():
    histories = {"Tiny": make(), "Large": make(count=9, seed=1)}
    figure = plots.weight_norms(histories, log_x=True)
    for panel, name in enumerate(("kernel_l1", "kernel_l2", "kernel_max")):
        for line, history in zip(lines(figure, panel)["solid"], histories.values(), strict=True):
            np.testing.assert_array_equal(line.get_ydata(), history[name])
        assert figure.axes[panel].get_xscale() == "log"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Tiny", "Large"]
    assert len(plots.weight_norms(histories, ["kernel_max"]).axes) == 1


def test_an_empty_history_draws_nothing_and_does_not_fail():
    empty = History({"loss": [], "mse": [], "val_mse": [], "best_epoch": []})
    figure = plots.learning_curves({"run": make(), "none": empty}, "loss", smooth=2)
    assert legend(figure)[:2] == ["run", "none"]


@pytest.mark.parametrize("draw", [plots.learning_curves, plots.weight_norms])
def test_a_single_history_needs_no_name(draw):
    history = make()
    alone, named = (draw(given).axes[0].lines for given in (history, {"run": history}))
    assert [line.get_xydata().tolist() for line in alone] == [line.get_xydata().tolist() for line in named]


def test_errors_say_what_to_do():
    history: Any = make()
    draw: Any
    bad: Any
    for draw in (plots.learning_curves, plots.weight_norms):
        with pytest.raises(ValueError, match=r"at least one: \{\"Tiny\": result.history\}"):
            draw({})
        with pytest.raises(ValueError, match=r"must map names of runs.*got \[History\(40 epochs"):
            draw([history])
    with pytest.raises(KeyError, match=r"no column 'acuracy' in the history of 'Tiny'; did you mean 'accuracy'"):
        plots.learning_curves({"Tiny": history}, "acuracy")
    with pytest.raises(KeyError, match=r"no column 'kernel_l3' in the history of 'Tiny'; did you mean 'kernel_l"):
        plots.weight_norms({"Tiny": history}, ["kernel_l3"])
    with pytest.raises(ValueError, match="at least one"):
        plots.weight_norms({"Tiny": history}, [])
    for smooth in (-1, np.nan, np.inf):
        with pytest.raises(ValueError, match="standard deviation in epochs"):
            plots.learning_curves({"Tiny": history}, smooth=smooth)
    for bad in ((0.7, 0.5), (0.5, np.nan), (0.1, 0.2, 0.3)):
        with pytest.raises(ValueError, match=r"ylim=... must be \(lower, upper\)"):
            plots.learning_curves({"Tiny": history}, ylim=bad)
    for steps, epochs in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="steps_per_epoch and epochs count from 1"):
            plots.schedule(0.1, steps, epochs)


def test_pyplot_is_never_imported(tmp_path):
    code = """
import sys
from flaxfit.report import plots
from flaxfit.history import History
history = History({"loss": [2.0, 1.0], "mse": [2.0, 1.0], "val_mse": [2.0, 1.0], "kernel_l1": [1.0, 2.0]})
plots.learning_curves({"a": history}, smooth=1).savefig(sys.argv[1])
plots.schedule(0.1, 2, 3)
plots.weight_norms({"a": history}, ["kernel_l1"])
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path / "a.png")], check=True)


def test_a_run_may_keep_its_color_from_picture_to_picture():
    histories = {"b": make(), "c": make()}
    for figure in (plots.learning_curves(histories, colors={"c": "#123456"}), plots.weight_norms(histories, colors={"c": "#123456"})):
        shown = {line.get_label(): line.get_color() for line in figure.axes[0].get_lines()}
        assert (shown["b"], shown["c"]) == (plots.PALETTE[0], "#123456")


def test_scores_show_runs_their_mean_and_interval_and_the_source():
    groups = {"plain": [0.5, 0.7], "dropout": np.array([0.8, 0.9, 1.0])}
    ax = plots.scores(groups, "accuracy", reference={"dropout": 0.85}, colors={"plain": "#009E73"}).axes[0]
    drawn = [(np.round(line.get_xdata(), 4).tolist(), np.round(line.get_ydata(), 1).tolist()) for line in ax.get_lines()]
    half = 4.302653 * 0.1 / 3**0.5  # Student's quantile of 2 degrees of freedom, for 95%
    assert drawn[:1] + drawn[2:4] == [([0.5, 0.7], [0.2, 0.2]), ([0.6], [0]), ([0.8, 0.9, 1.0], [1.2] * 3)]
    np.testing.assert_allclose(ax.get_lines()[4].get_xdata(), [0.9 - half, 0.9 + half], rtol=1e-6)
    assert drawn[5:] == [([0.9], [1]), ([0.85], [1])]
    assert [line.get_color() for line in ax.get_lines()][::3] == ["#009E73", plots.PALETTE[1], "0.1"]
    assert ax.get_ylim() == (1.5, -0.5)  # the first setting on top
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a run", "mean, 95% interval", "source"]
    with pytest.raises(ValueError, match="at least one"):
        plots.scores({}, "accuracy")


def test_panels_for_pictures_of_ones_own():
    figure, axes = plots.panels(3, sharey=True)
    assert len(axes) == len(figure.axes) == 3
    assert not any(ax.spines[side].get_visible() for ax in axes for side in ("top", "right"))
    axes[0].set_ylim(0, 7)
    assert axes[2].get_ylim() == (0, 7)


def overfitting(seed, late=True):
    """Falls; and with `late`, validation rises again from epoch 30 on."""
    random, epochs = np.random.default_rng(seed), np.arange(1, 101)
    training = np.exp(-epochs / 10) + 0.005 * random.random(100)
    validation = training + 0.2 + late * 0.01 * np.maximum(0, epochs - 30)
    return History({"loss": training, "mse": training, "val_loss": validation, "val_mse": validation})


def test_study_curves_are_means_with_bands_and_the_epoch_of_overfitting():
    runs = {"plain": [overfitting(seed) for seed in range(4)], "dropout": [overfitting(seed, late=False) for seed in range(4, 8)]}
    figure = plots.study_curves(runs)
    ax, found = figure.axes[0], lines(figure)
    for solid, dashed, histories in zip(found["solid"], found["dashed"], runs.values(), strict=True):
        np.testing.assert_allclose(solid.get_ydata(), np.mean([history["mse"] for history in histories], 0))
        np.testing.assert_allclose(dashed.get_ydata(), np.mean([history["val_mse"] for history in histories], 0))
    vertices = ax.collections[0].get_paths()[0].vertices
    low, high = np.quantile([history["mse"] for history in runs["plain"]], (0.1, 0.9), axis=0)
    assert vertices[:, 1].min() == pytest.approx(low.min())
    assert vertices[:, 1].max() == pytest.approx(high.max())
    (onset,) = [line for line in ax.get_lines() if line.get_marker() == "v"]
    assert 25 <= onset.get_xdata()[0] <= 35
    assert onset.get_color() == found["solid"][0].get_color()
    assert legend(figure) == ["plain", "dropout", "training", "validation", "10% to 90% of 4 runs", "overfits from here on"]
    uneven = plots.study_curves({"plain": runs["plain"], "dropout": runs["dropout"][:1]})
    assert legend(uneven)[:2] == ["plain (4 runs)", "dropout (1 run)"]


def test_no_two_settings_have_the_same_color_even_where_some_are_given():
    runs = {f"setting {number}": [overfitting(0)] for number in range(30)}
    for colors in (None, {"setting 3": plots.PALETTE[0], "setting 20": "#d55e00"}):
        for figure in (
            plots.study_curves(runs, colors=colors),
            plots.learning_curves({name: each[0] for name, each in runs.items()}, colors=colors),
            plots.scores({name: [1.0, 2.0] for name in runs}, "score", colors=colors),
        ):
            shown = [line for line in figure.axes[0].get_lines() if line.get_linestyle() == "-" and len(line.get_xdata()) > 1]
            assert len({to_rgb(line.get_color()) for line in shown}) == 30
    ax = plots.panels()[1][0]
    for rate in range(1, 12):
        plots.schedule(rate / 10, 1, 5, ax=ax)
    assert len({line.get_color() for line in ax.get_lines()}) == 11


def test_a_logarithmic_axis_and_a_run_off_the_scale():
    wild = History({"loss": np.full(100, 1e6), "mse": np.full(100, 1e6)})
    ax = plots.learning_curves({"good": overfitting(0), "other": overfitting(1), "wild": wild}).axes[0]
    assert ax.get_ylim()[1] < 2
    assert "wild, off the scale" in [text.get_text() for text in ax.get_legend().get_texts()]
    assert plots.learning_curves({"good": overfitting(0)}, log_y=True).axes[0].get_yscale() == "log"
    assert plots.study_curves({"good": [overfitting(0)]}, log_y=True).axes[0].get_yscale() == "log"
    norms = plots.weight_norms({"run": make()}, ["kernel_l1"], log_y=True).axes[0]
    assert norms.get_yscale() == "log"
    assert norms.get_ylim()[0] > 0


def test_study_curves_smooths_means_and_bands():
    runs = [overfitting(seed) for seed in range(4)]
    rough, smooth = (plots.study_curves({"plain": runs}, smooth=std).axes[0] for std in (0.0, 10.0))
    for before, after in zip(lines(rough.figure)["solid"], lines(smooth.figure)["solid"], strict=True):
        np.testing.assert_allclose(after.get_ydata(), gaussian_filter1d(before.get_ydata(), 10, mode="nearest"))
    assert smooth.collections[0].get_paths()[0].vertices[:, 1].max() < rough.collections[0].get_paths()[0].vertices[:, 1].max()
    with pytest.raises(ValueError, match=r"smooth=\.\.\. must be a standard deviation in epochs, 0 or more, got -1"):
        plots.study_curves({"plain": runs}, smooth=-1)


def test_study_curves_says_what_it_takes():
    wrong: Any = [overfitting(0)]
    with pytest.raises(TypeError, match=r"study_curves takes a study.*got list"):
        plots.study_curves(wrong)
    with pytest.raises(KeyError, match="in the history of 'plain'"):
        plots.study_curves({"plain": wrong}, "acuracy")
