from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxfit.history import History

NAMES = st.lists(st.text(min_size=1, max_size=8).filter(lambda name: name != "epoch"), min_size=1, max_size=4, unique=True)


@st.composite
def histories(draw):
    names, count = draw(NAMES), draw(st.integers(1, 6))
    return History({name: draw(st.lists(st.floats(), min_size=count, max_size=count)) for name in names}, draw(st.integers(1, 10_000)))


def make(first_epoch=1, **columns):
    return History({"loss": [3.0, 2.0], "mse": [2.0, 1.0], **columns}, first_epoch)


@given(history=histories())
@settings(deadline=None)
def test_json_lines_round_trip_to_the_bit(history, tmp_path_factory):
    path = tmp_path_factory.mktemp("history") / "metrics.jsonl"
    history.to_jsonl(path)
    back = History.from_jsonl(str(path))
    assert back == history
    assert list(back) == list(history)
    assert back.epochs.tolist() == history.epochs.tolist()


def test_json_lines_are_strict_json_with_words_for_what_json_lacks(tmp_path):
    history = make(first_epoch=8, val_loss=[np.nan, np.inf])
    history.to_jsonl(tmp_path / "a.jsonl")

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    rows = [json.loads(line, parse_constant=refuse) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert rows == [{"epoch": 8, "loss": 3.0, "mse": 2.0, "val_loss": "nan"}, {"epoch": 9, "loss": 2.0, "mse": 1.0, "val_loss": "inf"}]
    assert isinstance(rows[0]["epoch"], int)
    assert next(make(x=[-np.inf, 1e-320]).lines()).endswith('"x": "-inf"}')


def test_an_empty_file_is_an_empty_history(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    empty = History.from_jsonl(tmp_path / "a.jsonl")
    assert (len(empty), len(empty.epochs), empty.best_epoch) == (0, 0, None)


@pytest.mark.parametrize(
    "bad",
    [
        "{",
        "[1, 2]",
        "3",
        '{"loss": 1.0}',
        '{"epoch": 4, "loss": 1.0}',
        '{"epoch": 2, "loss": 1.0}',
        '{"epoch": 3, "mse": 1.0}',
        '{"epoch": 3, "loss": null}',
        '{"epoch": 3, "loss": "low"}',
        "",
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path, bad):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"epoch": 1, "loss": 2.0}}\n{{"epoch": 2, "loss": 1.0}}\n{bad}\n{{"epoch": 4, "loss": 1.0}}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 3: not a line of metrics \("):
        History.from_jsonl(path)


@given(history=histories())
@settings(deadline=None)
def test_pandas_round_trip(history):
    frame = history.to_pandas()
    assert frame.index.name == "epoch"
    assert frame.index.tolist() == history.epochs.tolist()
    for name in history:
        np.testing.assert_array_equal(frame[name].to_numpy(), history[name])


def test_facts_are_fields(tmp_path):
    history = History({"loss": [0.5], "auc": [0.7], "own": [0.4]}, data_loss="own", rows=10, validation_rows=4, modes={"auc": "max"})
    assert (history.data_loss, history.rows, history.validation_rows, history.best_epoch) == ("own", 10, 4, None)
    assert [history.mode(name) for name in ("val_auc", "own", "val_loss")] == ["max", "min", "min"]
    with pytest.raises(ValueError, match="'accuracy' is best when small or large"):
        history.mode("accuracy")
    history.to_jsonl(tmp_path / "m.jsonl")
    assert History.from_jsonl(tmp_path / "m.jsonl", data_loss="own", modes={"auc": "max"}).mode("auc") == "max"
    assert History.mean([history, history]).mode("auc") == "max"
    back = History.from_jsonl(tmp_path / "m.jsonl", data_loss="own", rows=10)
    assert (back.data_loss, back.rows, back.validation_rows, back.mode("val_own")) == ("own", 10, None, "min")


def test_the_data_loss_is_best_when_small_and_is_not_guessed_to_be_a_metric_to_be_large():
    columns = {"loss": [0.5], "auc": [0.7], "own": [0.4]}
    assert History(columns, modes={"auc": "max"}).data_loss == "own"
    assert History(columns, data_loss="own", modes={"own": "max"}).mode("own") == "min"
    assert History(columns).mode("auc", "max") == "max"
    with pytest.raises(ValueError, match="got 'larger'"):
        History(columns).mode("auc", "larger")


def test_a_mapping_of_float_arrays():
    history = make(accuracy=np.array([0, 1]))
    assert list(history) == ["loss", "mse", "accuracy"]
    assert len(history) == 3
    assert "mse" in history
    assert "val_mse" not in history
    assert history["accuracy"].dtype == float
    assert dict(history).keys() == history.keys()
    assert repr(history) == "History(2 epochs of loss, mse, accuracy)"


def test_row_gives_plain_numbers():
    history = make(val_loss=[0.5, np.nan])
    assert history.row(0) == {"loss": 3.0, "mse": 2.0, "val_loss": 0.5}
    assert all(type(value) is float for value in history.row(-1).values())
    assert np.isnan(history.row(-1)["val_loss"])
    with pytest.raises(IndexError):
        history.row(2)


def test_equality_is_of_names_order_epochs_and_bits():
    assert make() == make()
    assert make(x=[np.nan, 1.0]) == make(x=[np.nan, 1.0])
    assert make() != make(2)
    assert make() != make(x=[1.0, 1.0])
    assert make(x=[1.0, 1.0]) != make(x=[1.0, np.nextafter(1.0, 2)])
    assert History({"a": [1.0], "b": [1.0]}) != History({"b": [1.0], "a": [1.0]})
    assert make() != dict(make())
    with pytest.raises(TypeError, match="unhashable"):
        hash(make())


def test_the_data_loss_stands_after_the_objective():
    assert make().data_loss == "mse"
    assert History({"val_loss": [1.0], "val_mae": [1.0], "mae": [1.0], "loss": [1.0]}).data_loss == "mae"
    for columns in ({"mse": [1.0]}, {"loss": [1.0], "val_mse": [1.0]}):
        with pytest.raises(ValueError, match=f"does not name the data loss: .* It has: {', '.join(columns)}"):
            _ = History(columns).data_loss


@pytest.mark.parametrize(("logged", "best"), [([1, 2], 2), ([1, 1], 1), ([0, 0], None), (None, None)])
def test_the_best_epoch_is_the_last_known(logged, best):
    history = make(best_epoch=logged) if logged else make()
    assert history.best_epoch == best
    assert best is None or type(history.best_epoch) is int


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r"must have the same length, got \{'a': 1, 'b': 2\}"):
        History({"a": [1.0], "b": [1.0, 2.0]})
    with pytest.raises(KeyError, match="no column 'val_los' in the history; did you mean 'val_loss'"):
        make(val_loss=[1.0, 1.0])["val_los"]


def test_what_numbers_epochs_otherwise_is_refused():
    with pytest.raises(ValueError, match="leave out the column 'epoch'"):
        make(epoch=[1.0, 2.0])


def test_a_mean_wants_like_histories():
    with pytest.raises(ValueError, match="same columns and the same first epoch"):
        History.mean([History({"loss": [0.4]}), History({"mse": [0.4]})])
    with pytest.raises(ValueError, match="same columns and the same first epoch"):
        History.mean([History({"loss": [0.4]}), History({"loss": [0.4]}, first_epoch=2)])
    with pytest.raises(ValueError, match="one or more"):
        History.mean([])
    assert list(History.mean([History({"loss": [0.4], "best_epoch": [1]})])) == ["loss"]
