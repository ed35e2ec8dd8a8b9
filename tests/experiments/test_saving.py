"""The studies of saving and restoring, shortened, as a user runs them."""

from __future__ import annotations

import importlib.util
import json

import pytest

import flaxfit as ff

DIGITS = ("--data", "digits", "--first-seed", "7")


def test_save_and_restore(tmp_path, study, histories):
    page, text = study("save_and_restore", *DIGITS, "--epochs", "2", "3", "--seeds", "2")
    out = tmp_path / "runs" / "save_and_restore"
    restored = [verdict for claim, verdict in page.claims.items() if claim.endswith("without training")]
    assert restored == ["held"] * 4
    assert page.claims["it needs none of the code that made it"] == page.claims["training goes on from what was saved"] == "held"
    assert page.plots == ["runs"]
    rows = {row[0]: row[1:] for row in page.table("On 1,000 test images")}
    for name in ("whole model, 2 epochs", "weights, 3 epochs"):
        last = [history["val_accuracy"][-1] for history in histories(out / f"{name}, from seed 7").values()]
        assert rows[name][1] == ff.statistics.interval(last).short
    assert "params/Dense_0/kernel   (64, 512)   float32    32,768" in text


@pytest.mark.slow
def test_share_weights(study):
    page, text = study("share_weights", *DIGITS, "--epochs", "2", "--seeds", "2")
    assert "Dense_1/bias: (10,) in the source, (1,) here" in text
    tested = [verdict for claim, verdict in page.claims.items() if claim.startswith("HDF5")]
    assert tested == ["held"] * (2 if importlib.util.find_spec("keras") and importlib.util.find_spec("h5py") else 0)
    assert [row[0] for row in page.table("Is the digit odd?")] == ["fresh weights", "transferred weights"]


@pytest.mark.slow
def test_save_costs(tmp_path, study):
    page, _ = study("save_costs", *DIGITS, "--epochs", "2", "--seeds", "2", "--widths", "16", "512")
    home = tmp_path / "runs" / "save_costs"
    saved = [verdict for claim, verdict in page.claims.items() if claim.endswith("these are saved, and nothing else")]
    assert saved == ["held"] * 4
    assert page.claims["a whole model of an epoch has the accuracy that was logged"] == "held"
    every, _, whole, steps = page.table("Saved in a run")
    assert every[1:] == whole[1:]
    assert every[1] == "2"
    assert steps[1:] == ["2", "50 to 64"]
    few, many = page.table("Weights and whole models")
    assert float(many[1].replace(",", "")) > 20 * float(few[1])
    assert json.loads((home / "page.json").read_text())["seconds"] > 0
    assert page.plots == ["times"]
