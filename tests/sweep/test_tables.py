"""Tables of settings in 80 columns."""

from __future__ import annotations

from flaxfit.report.statistics import Interval, compare
from flaxfit.sections import table
from flaxfit.sweep.tables import Comparisons, Row, Table


def test_settings_with_long_names_stay_apart():
    names = [f"width=32,dropout=0.3,learning_rate=0.00{i},weight_decay=0.0001" for i in range(1, 4)]
    rows = [compare([0.9, 0.8, 0.7], [0.8, 0.7, 0.5 + 0.01 * i], names=(names[0], name)) for i, name in enumerate(names)]
    text = str(Comparisons("accuracy", names[0], rows, {}, "seeds"))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert all(f"learning_rate=0.00{i}" in text for i in range(1, 4))


def test_intervals_and_tuples_are_printed_as_they_are():
    text = str(Table("loss", [Row({"hidden": (64, 64)}, [0.1], Interval(0.08, 0.0, 0.24, 0.1, 5), 5, 1)], "seeds"))
    for cell in ("(64, 64)", "5, 1 not finite", "0.08 [0.00, 0.24]"):
        assert f" {cell} " in text


def test_names_of_metrics_are_not_broken():
    columns = ["metric", "first epoch (1)", "best epoch (10)", "last epoch (100)"]
    text = table(columns, [["val_categorical_crossentropy", "1", "2", "3"], ["loss", "1", "2", "3"]], 60)
    assert "val_categorical_crossentropy " in text
    assert max(map(len, text.splitlines())) <= 60
