"""The three sentences with which the report of a run begins."""

from __future__ import annotations

import numpy as np
import pytest

import flaxfit as ff
from flaxfit.report.conclusion import conclusion

EPOCH = np.arange(1, 61)
FALLING = 0.1 + 0.7 * np.exp(-EPOCH / 8)
RISING = FALLING + 0.15 * np.clip(EPOCH / 60 - 1 / 3, 0, 1)


def run(validation, training=FALLING, epochs=60):
    noise = 0.002 * np.sin(7.3 * EPOCH)
    columns = {"loss": training, "mse": training, "val_loss": validation + noise, "val_mse": validation + noise}
    columns["best_epoch"] = np.array([np.argmin((validation + noise)[: n + 1]) + 1 for n in range(60)])
    return ff.History({name: values[:epochs] for name, values in columns.items()}, data_loss="mse", validation_rows=400)


def told(history, constant=(), study=None):
    return conclusion(history, ff.diagnose(history), dict(constant), study)


@pytest.mark.parametrize(
    ("validation", "training", "epochs", "first", "last"),
    [
        (RISING, FALLING, 60, "It overfits from epoch ", "Use the weights of the best epoch"),
        (RISING + 3 * np.exp(-EPOCH / 2), FALLING, 60, "It overfits slightly from epoch ", "Use the weights"),
        (FALLING + 0.02, FALLING, 60, "It does not overfit", "A larger network may do better"),
        (2 - EPOCH / 60, 2 - EPOCH / 60, 60, "It does not overfit so far, and is still improving", "Train it for more epochs"),
        (EPOCH / 60, EPOCH / 60, 60, "It diverges: ", "Lower the learning rate"),
        (0.3 + 0.5 * np.exp(-EPOCH), FALLING - 0.1, 60, "It has memorized its training examples", "More examples or regularization"),
        (FALLING, FALLING, 4, "It is too short to tell", "Train it for more epochs"),
    ],
)
def test_each_verdict_has_its_sentence_and_what_to_do(validation, training, epochs, first, last):
    history = run(validation, training, epochs)
    sentences = told(history)
    assert len(sentences) == 3
    assert sentences[0].startswith(first)
    assert sentences[2].startswith(last)
    assert f"Its best epoch of {epochs} is {history.best_epoch}, with val_mse " in sentences[1]
    assert all(sentence.endswith(".") and ". " not in sentence for sentence in sentences)


def test_the_baseline_and_the_command():
    history = run(RISING)
    _, score, following = told(history, {"val_mse": 0.9}, "flaxfit study people.csv --target sold")
    assert score.endswith("; the best constant prediction has 0.9.")
    assert following.endswith("find out which fix helps: flaxfit study people.csv --target sold.")
    _, score, following = told(history, {"val_mse": 0.05})
    assert score.endswith("; this is no better than the best constant prediction, 0.05.")
    assert following.startswith("Check the inputs, the targets and the learning rate.")


def test_without_validation_nobody_can_tell():
    first, score, last = conclusion(ff.History({"loss": FALLING, "mse": FALLING, "best_epoch": EPOCH}), None, {})
    assert "it is not known whether it overfits" in first
    assert score == f"Its best epoch of 60 is 60, with mse {FALLING[-1]:.4g}."
    assert "validation=..." in last
