"""HIGGS, shortened, as a user runs it."""

from __future__ import annotations


def test_overfit_and_underfit(tmp_path, study, histories):
    page, text = study("overfit_and_underfit", "--epochs", "2", "--seeds", "2", "--large-seeds", "1")
    out = tmp_path / "runs" / "overfit_and_underfit"
    assert "Total Parameters: 481" in text  # Tiny: 28 x 16 + 16 + 16 + 1
    for part, net in (("small", "net=Tiny,seed=1"), ("large", "net=combined,seed=0"), ("large", "net=batch_norm,seed=0")):
        history = histories(out / part)[net]
        assert history.epochs.tolist() == [1, 2]
        assert 0.3 < history["val_binary_crossentropy"][-1] < 1.0
    for log in ("sizes/Tiny/seed=1", "sizes/Large/seed=0", "regularizers/combined/seed=0", "fixes/noise/seed=0"):
        assert list((out / "logs" / log / "validation").iterdir())
    plots = ("sizes", "sizes_norms", "regularizers", "regularizers_norms", "fixes", "fixes_norms", "schedule")
    assert sorted(page.plots) == sorted(plots)
    assert len(page.claims) == 9
    assert page.claims["a penalty makes the objective larger"] == "held"
    assert page.claims["a penalty shapes training only"] == "held"
    assert page.verdict("only Tiny escapes overfitting") == "undecided"  # after 2 epochs
    assert page.claims["L2 helps Large"] == "undecided"  # of one seed
    table = page.table("Binary cross-entropy")
    assert [row[:4] for row in (table[0], *table[2:4])] == [
        ["Tiny", "481", "2", "2"],
        ["Medium", "10241", "2", "2"],
        ["Large", "803329", "1", "2"],
    ]
