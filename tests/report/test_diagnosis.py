from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from flaxfit.history import History
from flaxfit.report.diagnosis import diagnose

ROSE = {"overfitted", "possibly overfitted", "slightly overfitted"}
VERDICTS = ROSE | {"memorized", "still improving", "no change detected", "diverging", "too short to tell"}


def make(training, validation, name="mse", first_epoch=1):
    # The objective is made useless on purpose: the default must not look at it.
    other = np.zeros(len(training))
    return History({"loss": other, name: training, "val_loss": other, f"val_{name}": validation}, first_epoch)


def noise(rng, count, phi=0.0):
    """AR(1) of unit variance."""
    return np.asarray(lfilter([1], [1, -phi], rng.standard_normal(count + 100)))[100:] * math.sqrt(1 - phi**2)


def curves(verdict, count):
    """A training and a validation curve, with the epoch at which validation turns, or None."""
    t = np.arange(1.0, count + 1)
    down = np.exp(-3 * t / count)
    turn = count // 4
    return {
        "overfitted": (0.3 + 0.3 * down, 0.5 + 0.2 * np.maximum(turn - t, 0) / turn + 0.3 * np.maximum(t - turn, 0) / count, turn),
        "memorized": (0.3 + 0.3 * down, 0.5 + 0.2 * np.maximum(turn - t, 0) / turn, turn),
        "still improving": (0.3 + 0.4 * down, 0.4 + 0.4 * down, None),
        "no change detected": (0.3 + 0.4 * np.exp(-20 * t / count), 0.305 + 0.4 * np.exp(-20 * t / count), None),
        "diverging": (0.3 + np.maximum(t - count / 2, 0) / count, 0.4 + np.maximum(t - count / 2, 0) / count, None),
    }[verdict]


@pytest.mark.parametrize("sd", [0.0, 0.002])
@pytest.mark.parametrize("count", [30, 50, 205, 1000, 10_000])
@pytest.mark.parametrize("verdict", ["overfitted", "memorized", "still improving", "no change detected", "diverging"])
def test_every_verdict_at_every_length(verdict, count, sd):
    training, validation, turn = curves(verdict, count)
    rng = np.random.default_rng(count)
    found = diagnose(make(training + sd / 4 * noise(rng, count), validation + sd * noise(rng, count, 0.3)))
    assert found.verdict == verdict
    if verdict != "overfitted":
        assert found.epoch is None
    else:
        assert found.onset[0] <= turn <= found.onset[1]
        assert found.epoch == pytest.approx(turn, abs=2 + 0.04 * count)


@pytest.mark.parametrize("phi", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("count", [6, 10, 20, 39, 100, 205, 1000])
def test_noise_is_not_over_fitting(count, phi):
    rng, runs, t, alarms = np.random.default_rng([count, int(10 * phi)]), 100, np.arange(count), []
    for shape in (np.zeros(count), 0.5 * np.exp(-8 * t / count), 0.3 * (t + 5.0) ** -0.3):
        validations = [0.5 + shape + 0.03 * noise(rng, count, phi) for _ in range(runs)]
        verdicts = Counter(diagnose(make(0.45 + shape, validation)).verdict for validation in validations)
        alarms.append((verdicts["overfitted"] + verdicts["diverging"]) / runs)
        # Without allowance for the noise, nearly all of them would have been.
        naive = np.mean([validation[-1] > 1.01 * validation.min() for validation in validations])
        assert naive > 0.5
    assert max(alarms) <= 0.06  # 2%, and three standard errors of 100 runs
    assert np.mean(alarms) <= 0.044  # and of 300


def test_false_alarms_over_all_lengths_are_below_two_percent():
    rng = np.random.default_rng(0)
    runs = [(count, phi) for count in (8, 12, 15, 17, 25, 60, 300) for phi in (0.0, 0.6) for _ in range(120)]
    alarms = [diagnose(make(np.ones(n), 1 + 0.05 * noise(rng, n, phi))).verdict == "overfitted" for n, phi in runs]
    assert np.mean(alarms) < 0.02


@pytest.mark.parametrize(("count", "rise", "power"), [(20, 0.16, 0.9), (100, 0.07, 0.9), (205, 0.05, 0.9), (1000, 0.025, 0.9)])
def test_power_on_modest_rises(count, rise, power):
    """From 16 to 2.5 standard deviations of an epoch's noise, the longer the run the smaller."""
    rng, t = np.random.default_rng(count), np.linspace(0, 1, count)
    validation = 0.5 + 0.2 * np.exp(-15 * t) + rise * np.maximum(0, t - 0.3) / 0.7
    found = [diagnose(make(0.5 * np.exp(-3 * t), validation + 0.01 * noise(rng, count, 0.3))).verdict for _ in range(100)]
    assert np.mean(np.array(found) == "overfitted") >= power


def test_a_large_net_over_fits_at_epoch_5_of_205_not_15():
    rng, t = np.random.default_rng(0), np.arange(1.0, 206)
    validation = np.where(t < 5, 0.55 + 0.035 * (5 - t), 0.55 + 0.007 * (t - 5))
    found = [diagnose(make(0.65 * np.exp(-t / 25), validation + 0.004 * noise(rng, 205, 0.3))) for _ in range(50)]
    assert {diagnosis.verdict for diagnosis in found} == {"overfitted"}
    assert {diagnosis.epoch for diagnosis in found} <= {4, 5, 6, 7}


def test_onset_of_a_broad_minimum():
    """Around the bottom the curve lies within its noise: the onset is right in the median; its range covers the bottom and is narrow."""
    rng, t = np.random.default_rng(0), np.arange(1.0, 206)
    validation = 0.45 + 0.2 * np.exp(-t / 25) + 0.0008 * t  # lowest at 25 log 10 = 57.6
    found = [diagnose(make(0.4 + 0.2 * np.exp(-t / 60), validation + 0.005 * noise(rng, 205, 0.3))) for _ in range(50)]
    onsets = np.array([diagnosis.epoch for diagnosis in found])
    assert np.median(onsets) == pytest.approx(57.6, abs=4)
    assert np.abs(onsets - 57.6).max() < 25
    ranges = np.array([diagnosis.onset for diagnosis in found])
    assert np.mean((ranges[:, 0] <= 57.6) & (ranges[:, 1] >= 57.6)) >= 0.9
    assert np.median(np.diff(ranges)) < 205 / 5


def test_numbers_are_levels_of_the_curves():
    training, validation, _ = curves("overfitted", 1000)
    found = diagnose(make(training, validation))
    assert found.validation == pytest.approx((0.5, 0.5 + 0.3 * 0.75), abs=0.02)
    assert found.training == pytest.approx((training[249], training[-1]), abs=0.02)
    assert found.gap == pytest.approx(validation[249] - training[249], abs=0.02)
    assert found.final_gap == pytest.approx(validation[-1] - training[-1], abs=0.02)
    assert found.rise == pytest.approx(0.225, abs=0.02)
    assert found.statistic > 100
    assert found.share == pytest.approx(0.225 / 0.2, rel=0.1)
    assert found.metric == "mse"


def test_training_that_is_worse_than_at_validations_best_diverges_even_if_the_gap_grows():
    t = np.arange(200.0)
    training, validation = 0.3 + 0.001 * np.maximum(t - 100, 0), 0.4 + 0.005 * np.maximum(t - 100, 0)
    assert diagnose(make(training, validation)).verdict == "diverging"
    # A late bump in a training loss that has fallen far is no divergence.
    bump = 0.3 * np.exp(-t / 30) + 0.02 * (t > 190)
    assert diagnose(make(bump, validation)).verdict == "overfitted"


@pytest.mark.parametrize("end", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["training", "validation", "both"])
@pytest.mark.parametrize("count", [1, 3, 5, 100])
def test_not_finite_at_the_end_is_diverging(count, where, end):
    training, validation = np.linspace(0.5, 0.3, count), np.linspace(0.6, 0.4, count)
    if where != "validation":
        training[-1] = end
    if where != "training":
        validation[-1] = end
    found = diagnose(make(training, validation))
    assert found.verdict == "diverging"
    assert found.epoch is None
    assert str(end) in str(found)


def test_gaps_inside_are_left_out_and_epochs_keep_their_numbers():
    training, validation, _ = curves("overfitted", 200)
    whole = diagnose(make(training, validation))
    holed = validation.copy()
    holed[[3, 20, 150]] = np.nan, np.inf, np.nan
    found = diagnose(make(training, holed))
    assert (found.verdict, found.epoch) == ("overfitted", whole.epoch)
    assert diagnose(make(training[100:], validation[100:], first_epoch=101)).epoch == 101


@pytest.mark.parametrize("verdict", ["overfitted", "memorized", "still improving", "no change detected"])
def test_one_wild_epoch_changes_nothing(verdict):
    training, validation, _ = curves(verdict, 400)
    validation += 0.003 * noise(np.random.default_rng(0), 400)
    calm = diagnose(make(training, validation))
    validation[50] = 50.0
    wild = diagnose(make(training, validation))
    assert wild.verdict == calm.verdict == verdict
    assert wild.rise == pytest.approx(calm.rise, abs=0.005)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_too_short(count):
    found = diagnose(make(np.linspace(1, 0, count), np.linspace(0, 1, count)))
    assert found.verdict == "too short to tell"
    assert math.isnan(found.statistic)


def test_few_epochs_show_what_is_plain_and_no_more():
    t = np.arange(1.0, 9)
    rng = np.random.default_rng(0)
    plain = 0.28 + 0.12 * np.exp(1 - t) + 0.02 * t
    assert diagnose(make(np.exp(-t), plain)).verdict == "overfitted"
    found = Counter(diagnose(make(np.exp(-t), 0.3 + 0.02 * noise(rng, 8))).verdict for _ in range(100))
    assert found["too short to tell"] >= 95


def test_larger_is_better():
    training, validation, turn = curves("overfitted", 200)
    zero = np.zeros(200)
    found = diagnose(History({"loss": zero, "mse": zero, "accuracy": 1 - training, "val_accuracy": 1 - validation}), "accuracy", mode="max")
    assert (found.verdict, found.metric) == ("overfitted", "accuracy")
    assert found.epoch == pytest.approx(turn, abs=5)
    assert found.final_gap > found.gap > 0 < found.rise
    assert "val_accuracy fell from 0.4" in str(found)
    assert "while accuracy rose from" in str(found)


def test_the_data_loss_is_the_default_and_a_metric_may_be_named():
    training, validation, _ = curves("overfitted", 100)
    flat = np.ones(100)
    history = History({"loss": training, "mse": flat, "mae": training, "val_loss": validation, "val_mse": flat, "val_mae": validation})
    assert diagnose(history) == diagnose(history, "val_mse")
    assert diagnose(history).verdict == "no change detected"
    assert diagnose(history, "mae", mode="min").verdict == diagnose(history, "loss").verdict == "overfitted"
    # A data loss by any name is smaller the better.
    assert diagnose(make(training, validation, "my_f1_like")).verdict == "overfitted"


def test_errors_say_what_to_do():
    history = History({"loss": [1.0], "mse": [1.0], "oddity": [1.0], "val_loss": [1.0], "val_oddity": [1.0]})
    with pytest.raises(ValueError, match=r"fit with validation=.*no column 'val_mse' .*did you mean 'val_loss'"):
        diagnose(history)
    with pytest.raises(KeyError, match=r"no column 'oddty'.*did you mean 'oddity'"):
        diagnose(history, "oddty")
    with pytest.raises(ValueError, match=r"'oddity' is best when small or large: pass mode=.*\"oddity\": ff\.Metric"):
        diagnose(history, "oddity")
    with pytest.raises(ValueError, match=r"must be \"min\" or \"max\", got 'larger'"):
        diagnose(history, "oddity", mode="larger")
    with pytest.raises(ValueError, match="does not name the data loss"):
        diagnose(History({"mse": [1.0]}))


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(5, 400), drift=st.floats(-0.3, 0.3), power=st.integers(-60, 60))
@settings(max_examples=60, deadline=None)
def test_the_unit_of_the_loss_does_not_matter(seed, count, drift, power):
    rng = np.random.default_rng(seed)
    validation = 0.5 + drift * np.linspace(0, 1, count) ** 2 + 0.01 * noise(rng, count, 0.5)
    training = 0.5 - 0.2 * np.linspace(0, 1, count) + 0.002 * noise(rng, count)
    one, scaled = diagnose(make(training, validation)), diagnose(make(2.0**power * training, 2.0**power * validation))
    for field in ("verdict", "epoch", "onset", "statistic", "share"):
        assert getattr(one, field) == getattr(scaled, field)
    for field in ("gap", "final_gap", "rise"):
        assert 2.0**power * getattr(one, field) == getattr(scaled, field)


@given(st.lists(st.tuples(*2 * [st.floats(width=32)]), max_size=60))
@settings(deadline=None)
def test_anything_a_run_can_log_gets_a_verdict(rows):
    """No warning and no error, whatever the numbers; an epoch only with a verdict that has one."""
    history = make([row[0] for row in rows], [row[1] for row in rows])
    found = diagnose(history)
    assert found.verdict in VERDICTS
    assert str(found).startswith(found.verdict)
    assert (found.epoch is not None) == (found.onset is not None) == (found.verdict in ROSE)
    assert found.epoch is None or found.epoch in history.epochs
    if rows and not np.isfinite(rows[-1]).all():
        assert found.verdict == "diverging"


def share_of_false_alarms(make_validation, runs, training=None):
    """How many of `runs` flat or falling validation curves are called overfitted, of whatever degree."""
    validations = [make_validation() for _ in range(runs)]
    found = [diagnose(make(np.linspace(1, 0.5, len(v)) if training is None else training, v)).verdict for v in validations]
    return np.mean([verdict in ROSE for verdict in found])


@pytest.mark.parametrize("count", [12, 40, 100, 1000])
def test_noise_that_grows_or_is_wild_or_correlates_is_not_overfitting(count):
    """At most 2% of flat curves are called overfitted, and 5% with a correlation of 0.9; three standard errors of 300 runs more here."""
    rng, runs = np.random.default_rng(count), 300
    limit = 0.02 + 3 * math.sqrt(0.02 * 0.98 / runs)
    assert share_of_false_alarms(lambda: 5 + rng.standard_normal(count) * np.linspace(0.3, 1.7, count), runs) <= limit
    assert share_of_false_alarms(lambda: 5 + rng.standard_t(2, count), runs) <= limit
    assert share_of_false_alarms(lambda: 5 + noise(rng, count, 0.9), runs) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


@pytest.mark.parametrize("rows", [42, 100])
def test_accuracies_of_few_rows_need_many_rows_that_changed(rows):
    """Rows whose margins wander: the accuracy walks in steps of 1 / rows."""
    rng = np.random.default_rng(rows)

    def validation():
        margins = 1 + rng.standard_normal((rows, 1)) + np.stack([noise(rng, 50, 0.9) for _ in range(rows)])
        return 1 - (margins > 0).mean(0)

    assert share_of_false_alarms(validation, 100) <= 0.05
    t = np.arange(100)
    wrong = np.where(t < 40, 2 + (40 - t) // 4, 2 + (t - 40) // 3) / rows
    found = diagnose(make(np.linspace(0.5, 0, 100), wrong))
    assert found.rows == rows
    assert found.verdict == ("possibly overfitted" if rows < 100 else "overfitted")
    assert ("on these 42 rows" in str(found)) == (rows == 42)


def test_a_rise_after_the_learning_rate_fell_is_found():
    """The drop is large, and the noise before it hides the rise after it from any test that takes the noise as one number."""
    rng, t = np.random.default_rng(0), np.arange(100)
    curve = np.where(t < 50, 10.0, 0.0) + 16 * 0.3 * np.maximum(t - 50, 0) / 50
    sd = np.where(t < 50, 1.0, 0.3)
    found = [diagnose(make(np.linspace(20, 0, 100), 20 + curve + sd * rng.standard_normal(100))) for _ in range(40)]
    assert {one.verdict for one in found} == {"overfitted"}
    assert np.mean([one.onset[0] <= 51 <= one.onset[1] for one in found]) >= 0.9


def test_double_descent_is_still_improving():
    rng, t = np.random.default_rng(0), np.linspace(0, 1, 200)
    curve = np.interp(t, [0, 0.15, 0.4, 1], [10, 0, 5, -3])
    found = Counter(diagnose(make(10 * np.exp(-5 * t), curve + 0.3 * rng.standard_normal(200))).verdict for _ in range(40))
    assert found["still improving"] >= 38


def test_a_last_wild_epoch_is_no_rise():
    rng = np.random.default_rng(0)
    validation = 0.5 + 0.3 * np.exp(-np.arange(60) / 8) + 0.002 * noise(rng, 60)
    validation[-1] = 3.0
    assert diagnose(make(np.linspace(0.7, 0.5, 60), validation)).verdict not in ROSE


def test_a_fall_of_fifty_times_is_not_overfitting_from_epoch_2():
    t = np.arange(200)
    validation = 0.02 + 0.98 * np.exp(-t / 8) + 0.002 * noise(np.random.default_rng(0), 200)
    found = diagnose(make(0.9 * np.exp(-t / 8), validation))
    assert found.verdict == "no change detected"
    assert found.epoch is None


def test_a_curve_that_falls_slowly_has_not_converged():
    """By less than a hundredth of its level in the last third, which a metric's origin makes large or small."""
    rng, t = np.random.default_rng(0), np.linspace(0, 1, 300)
    validation = 10 + 0.3 * np.exp(-2 * t) + 0.01 * noise(rng, 300)
    assert diagnose(make(10 + 0.3 * np.exp(-3 * t), validation)).verdict == "still improving"


@pytest.mark.parametrize("shift", [-1e3, -0.5, 0.0, 100.0])
def test_the_origin_of_a_metric_does_not_matter(shift):
    rng, t = np.random.default_rng(0), np.linspace(0, 1, 100)
    validation = np.exp(-10 * t) + 0.15 * np.maximum(t - 0.4, 0) + 0.002 * noise(rng, 100)
    found = diagnose(make(shift + 0.9 * np.exp(-10 * t), shift + validation))
    assert (found.verdict, found.share) == ("overfitted", pytest.approx(0.068, abs=0.002))
    assert diagnose(make(shift - t, shift + validation - 0.1 * np.maximum(t - 0.4, 0))).verdict == "slightly overfitted"


def test_an_accuracy_that_falls_from_its_ceiling():
    rng, t = np.random.default_rng(0), np.arange(100)
    accuracy = 0.995 - 0.3 * np.exp(-t / 4) - 0.008 * np.maximum(t - 40, 0) / 60 + 0.0005 * noise(rng, 100)
    columns = {"loss": np.zeros(100), "accuracy": 1 - 0.5 * np.exp(-t / 6), "val_accuracy": accuracy}
    found = diagnose(History(columns, validation_rows=10_000), "accuracy", mode="max")
    assert found.verdict == "slightly overfitted"
    assert "val_accuracy fell from 0.995 to 0.987" in str(found)


def test_a_baseline_measures_the_gain_from_the_constant_prediction():
    t = np.arange(40)
    validation = 0.28 + 0.05 * np.exp(-t / 2) + 0.0002 * t
    plain, from_chance = (diagnose(make(0.3 * np.exp(-t / 10), validation, "crossentropy"), baseline=b) for b in (None, math.log(2)))
    assert (plain.verdict, from_chance.verdict) == ("overfitted", "slightly overfitted")
    assert plain.rise == from_chance.rise


def test_several_runs_get_the_verdict_of_their_mean_and_say_how_many_agree():
    rng, t = np.random.default_rng(0), np.linspace(0, 1, 60)
    curve = 1 + 5 * np.exp(-12 * t) + 1.2 * np.maximum(t - 0.5, 0)
    runs = [make(5 * np.exp(-5 * t), curve + 0.45 * noise(rng, 60)) for _ in range(8)]
    found, alone = diagnose(runs), [diagnose(run).verdict for run in runs]
    assert (found.verdict, found.runs, found.agree) == ("overfitted", 8, alone.count("overfitted"))
    assert found.agree < 8
    assert str(found).endswith(f"; {found.agree} of 8 runs say so individually")
    stopped = [History({name: run[name][: 40 + i] for name in run}) for i, run in enumerate(runs)]
    assert diagnose(stopped).verdict == Counter(diagnose(run).verdict for run in stopped).most_common(1)[0][0]
    with pytest.raises(ValueError, match="at least one run"):
        diagnose([])
    with pytest.raises(TypeError, match="a Study, got int"):
        diagnose(3)


def test_histories_judged_by_hand():
    """Li et al. 2024: 419 training histories of 1,000 epochs, 44 of which they call overfit."""
    path = Path(os.environ.get("FLAXFIT_ORIGINALS") or "missing") / "histories" / "simulated.npz"
    if not path.is_file():
        pytest.skip("needs FLAXFIT_ORIGINALS, a directory of original data files, with histories/simulated.npz")
    data = np.load(path)
    called = [diagnose(make(*curves)).verdict == "overfitted" for curves in zip(data["train_loss"], data["val_loss"], strict=True)]
    right = np.sum(called & data["overfit"])
    assert 2 * right / (np.sum(called) + np.sum(data["overfit"])) >= 0.95


def test_a_baseline_is_what_the_rise_is_measured_against():
    t = np.arange(200.0)
    training = 10 * np.exp(-t / 3) + 0.1 * np.exp(-t / 100)
    validation = training + 0.1 + 0.001 * np.maximum(t - 100, 0)  # rises by 0.07 after a fall by 10
    history = make(training, validation)
    assert diagnose(history).verdict == "no change detected"
    found = diagnose(history, baseline=0.5)
    assert found.verdict == "overfitted"
    assert found.share == pytest.approx(0.07 / 0.35, rel=0.3)
