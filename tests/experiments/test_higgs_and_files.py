"""HIGGS, shortened, as a user runs it."""

from __future__ import annotations

import pytest


@pytest.mark.slow
def test_overfit_and_underfit(tmp_path, study, histories, page, run):
    shortened = ("--epochs", "2", "--seeds", "2", "--large-seeds", "1", "--first-seed", "0")
    made, text = study("overfit_and_underfit", *shortened)
    assert "Total Parameters: 481" in text  # Tiny: 28 x 16 + 16 + 16 + 1
    assert "A penalty makes the objective larger" in text
    runs = tmp_path / "runs" / "higgs" / "sample"
    for net, seed in (("Tiny", 1), ("combined", 0)):
        history = histories(runs / net)[f"net={net},seed={seed}"]
        assert history.epochs.tolist() == [1, 2]
        assert 0.3 < history["val_binary_crossentropy"][-1] < 1.0
    for log in ("sizes/Tiny/seed=1", "sizes/Large/seed=0", "regularizers/combined/seed=0", "regularizers/Tiny/seed=1"):
        assert list((runs / "logs" / log / "validation").iterdir())
    assert sorted(made.plots) == sorted(("features", "sizes", "sizes_norms", "regularizers", "regularizers_norms", "schedule"))
    assert len(made.claims) == 14
    assert made.verdict("only Tiny escapes") == "undecided"  # after 2 epochs
    assert made.claims["end: L2 helps Large"] == "undecided"  # of one seed
    table = made.table("Binary cross-entropy")
    assert [row[:3] for row in (table[0], *table[2:4])] == [["Tiny", "481", "2"], ["Medium", "10241", "2"], ["Large", "803329", "1"]]

    run("higgs_fixes.py", *shortened)
    fixes = page(tmp_path / "runs" / "higgs_fixes")
    assert [row[0] for row in fixes.table("Binary cross-entropy")] == ["Large", "L2", "AdamW", "batch norm", "noise"]
    assert len(fixes.claims) == 6
