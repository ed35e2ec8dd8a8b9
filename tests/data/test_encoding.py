from __future__ import annotations

import datetime
import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from flaxfit.data.encoding import Encoding, learn
from flaxfit.data.frames import cells_of

RNG = np.random.default_rng(0)


def learned(frame, kinds=None, **options):
    return learn(cells_of(frame), kinds, **options)


def taken(values, **options):
    """What a column of these values, beside a plain one, is taken for, and what is done to it."""
    how = learned({"plain": RNG.normal(size=len(values)), "it": values}, **options).columns["it"]
    return how.kind, str(how)


TIMES = st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1))
COLUMNS = (
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(-(10**18), 10**18),
    st.booleans(),
    st.text(max_size=6),
    st.sampled_from(["yes", "no", "?", "", "'A'", "12", "1,5", "$3", "2021-03-04", "31/12/2020"]),
    TIMES,
    st.one_of(st.none(), st.integers(-5, 5), st.booleans(), st.text(max_size=3), st.floats(), TIMES),
)


@st.composite
def frames(draw):
    rows = draw(st.integers(1, 40))
    kinds = draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=5))
    columns = [draw(st.lists(st.one_of(st.none(), kind), min_size=rows, max_size=rows)) for kind in kinds]
    return {f"c{place}": column for place, column in enumerate(columns)}, rows


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(frames(), st.randoms())
def test_any_frame_is_learned_encoded_and_stored_to_the_same_bits(drawn, random):
    frame, rows = drawn
    frame["plain"] = [float(row) for row in range(rows)]
    kinds = {"plain": "number", **{name: "embedding" for name in frame if name != "plain" and random.random() < 0.2}}
    if rows == 1:
        kinds |= {"last": "embedding"}
        frame["last"] = ["a"]
    encoding = learned(frame, kinds)
    stored = Encoding.from_record(json.loads(json.dumps(encoding.record(), allow_nan=False)))
    assert stored == encoding
    places = [random.randrange(rows) for _ in range(rows + 3)]
    others = {name: [values[place] for place in places] for name, values in reversed(frame.items())}  # other rows, columns in another order
    for columns in (frame, others):
        x, again = encoding(columns), stored(columns)
        parts, parts_again = ((a if isinstance(a, dict) else {"numbers": a}) for a in (x, again))
        assert parts.keys() == parts_again.keys()
        for name, part in parts.items():
            assert len(part) == len(columns["plain"])
            assert np.isfinite(part).all()
            assert part.tobytes() == parts_again[name].tobytes()
        if "numbers" in parts:
            assert parts["numbers"].shape[1] == len(encoding.features) == len(set(encoding.features))
            assert parts["numbers"].dtype == np.float32
        if "levels" in parts:
            assert (parts["levels"] < list(encoding.embeddings.values())).all()
            assert (parts["levels"] >= 0).all()


def test_numbers_and_categories_are_those_of_scikit_learn():
    numbers = RNG.normal(1e6, 3, (300, 2))
    numbers[RNG.random((300, 2)) < 0.1] = np.nan
    levels = RNG.choice(["a", "b", "c"], 300, p=[0.5, 0.3, 0.2]).astype(object)
    levels[0] = "seldom"
    frame = pd.DataFrame({"u": numbers[:, 0], "v": numbers[:, 1], "level": levels})
    new = pd.DataFrame({"u": [np.nan, 1e6], "v": [1e6 + 9, np.nan], "level": ["seldom", "b"]})
    encoding = learned(frame)
    of_numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler()).fit(frame[["u", "v"]])
    of_levels = OneHotEncoder(min_frequency=2, handle_unknown="infrequent_if_exist", sparse_output=False).fit(frame[["level"]])
    for rows in (frame, new):
        x = encoding(rows)
        np.testing.assert_allclose(x[:, [0, 2]], of_numbers.transform(rows[["u", "v"]]), rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(x[:, [1, 3]], rows[["u", "v"]].isna())
        np.testing.assert_array_equal(x[:, 4:], of_levels.transform(rows[["level"]]))
    assert encoding.features == ("u", "u is missing", "v", "v is missing", "level=a", "level=b", "level=c", "level is rare")


def test_frames_of_all_libraries_are_encoded_alike():
    day = datetime.datetime(2021, 1, 1)
    columns = {
        "number": [1.5, None, 3.0, 4.0],
        "whole": [1, 2, None, 4],
        "yes": [True, None, False, True],
        "text": ["a", "b", None, "a"],
        "level": ["x", "y", "x", None],
        "when": [day, None, day + datetime.timedelta(days=3), day],
    }
    pandas = pd.DataFrame(columns).astype({"whole": "Int64", "yes": "boolean", "level": "category"})
    polars = pl.DataFrame(columns).with_columns(pl.col("level").cast(pl.Categorical), pl.col("when").dt.replace_time_zone("UTC"))
    arrow = pa.table(columns)
    encoding = learned(columns)
    for frame in (pandas, polars, arrow, pandas.convert_dtypes(dtype_backend="pyarrow")):
        assert learned(frame) == encoding
        np.testing.assert_array_equal(encoding(frame), encoding(columns))
    assert [how.kind for how in encoding.columns.values()] == ["number", "number", "boolean", "category", "category", "datetime"]
    with pytest.raises(TypeError, match=r"lazy frame.*collect\(\)"):
        learned(polars.lazy())


@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        (["1", " 2.5 ", "'3'", "?"], [1, 2.5, 3, np.nan]),
        (["1,5", "2", "10,25", "NA"], [1.5, 2, 10.25, np.nan]),
        (["1,234", "22,000", "1,000,000", "-"], [1234, 22000, 1e6, np.nan]),
        (["1.234,5", "22.000", "7,25", ""], [1234.5, 22000, 7.25, np.nan]),
        (["$1,234.50", "$7", "$ 19.99", "None"], [1234.5, 7, 19.99, np.nan]),
        (["1 234,5", "7", "19,5", "n/a"], [1234.5, 7, 19.5, np.nan]),
        (["7.00 EUR", "EUR 1,250.00", "12.5 EUR", ""], [7, 1250, 12.5, np.nan]),
        (["3,5kg", "1.200,0 kg", "40,25 kg", "?"], [3.5, 1200, 40.25, np.nan]),
        (["12%", "7 %", "100%", "."], [12, 7, 100, np.nan]),
        (["\u22121e-3", "2E5", "+4", "nan"], [-1e-3, 2e5, 4, np.nan]),
        ([1, "2", 3.5, None], [1, 2, 3.5, np.nan]),
    ],
)
def test_numbers_as_people_write_them(values, numbers):
    text, plain = learned({"it": values}), learned({"it": numbers})
    assert text.features == ("it", "it is missing")
    np.testing.assert_array_equal(text({"it": values}), plain({"it": numbers}))
    np.testing.assert_array_equal(text({"it": np.array(numbers)}), plain({"it": numbers}))  # the same column with a better type


def test_another_unit_is_missing_in_new_rows():
    encoding = learned({"it": ["2 kg", "4 kg", None]})
    np.testing.assert_array_equal(encoding({"it": ["4 g", "4kg", "4"]}), encoding({"it": [None, "4 kg", "4 kg"]}))


@pytest.mark.parametrize(("kind", "values"), [("number", ["red", "blue"]), ("boolean", ["7.00 EUR", "8.00 EUR"]), ("datetime", ["1", "2"])])
def test_a_type_that_fits_no_value_is_refused(kind, values):
    with pytest.raises(ValueError, match=f"the column 'it' is to be a {kind}, but none of its values is one, such as '{values[0]}'"):
        learned({"it": values * 20}, {"it": kind})


def test_a_decimal_comma_where_both_readings_are_possible():
    assert "mean 1234" in taken(["1,233", "1,235"] * 20)[1]
    assert "mean 1.234" in taken(["1,233", "1,235"] * 20, decimal_comma=True)[1]


@pytest.mark.parametrize(
    ("values", "kind", "told"),
    [
        ([True, False, None, True] * 9, "boolean", "missing values -> 1"),
        (["Yes", "no", "no", "?"] * 9, "boolean", "missing values -> 0"),
        (["T", "f", "f"] * 9, "boolean", "yes -> 1"),
        (["01234", "98765", "01234"] * 9, "category", "01234, 98765"),
        ([7] * 30, "drop", "constant"),
        (["same"] * 30, "drop", "constant"),
        (["12A", "13A", "99A"] * 9, "category", "12A, 13A, 99A"),
        (["5 kg", "500 g", "2 kg"] * 9, "category", "2 kg, 5 kg, 500 g"),
        (["4 doors", "2 doors"] * 9, "number", "1234.5 doors"),
        ([None] * 30, "drop", "no values"),
        (["?"] * 30, "drop", "no values"),
        ([None, 7] * 15, "number", "constant, missing values -> 7 and a flag"),
        ([*range(1, 41)], "drop", "identifier"),
        (RNG.permutation(60)[:40] + 100_000, "drop", "identifier"),
        ([f"user {row}" for row in range(40)], "drop", "identifiers or free text"),
        (["2021-03-04", "2021-03-05T10:00:00", "2021-03-05 10:30:00+02:00"] * 9, "datetime", "ISO 8601"),
        (["12/31/2020", "1/2/2021"] * 9, "datetime", "%m/%d/%Y"),
        (["31/12/2020", "1/2/2021"] * 9, "datetime", "%d/%m/%Y"),
        (["31.12.2020 10:30", "1.2.2021 23:59"] * 9, "datetime", "%d.%m.%Y %H:%M"),
        ([*map(str, range(57)), "about 3"], "number", "missing values -> 28 and a flag"),
        (["1", "2", "three", "four"] * 9, "category", "1, 2, four, three"),
        (pd.Series([3, 1, 2] * 9, dtype="category"), "category", "1, 2, 3"),
        ([1e400, 1.0, 2.0, -1e39] * 9, "number", "missing values -> 1.5 and a flag"),
    ],
)
def test_what_a_column_is_taken_for(values, kind, told):
    found, text = taken(values)
    assert (found, told in text) == (kind, True), (found, text)


def test_named_identifiers_are_left_out_and_kept_if_asked_for():
    frame = {"customer_id": RNG.choice(10**9, 40, replace=False), "amount": RNG.choice(10**9, 40, replace=False)}
    assert [how.kind for how in learned(frame).columns.values()] == ["drop", "number"]
    assert [how.kind for how in learned(frame, {"customer_id": "number"}).columns.values()] == ["number", "number"]


def test_kinds_that_are_asked_for():
    frame = {"class": [1, 2, 3, 3.0] * 9, "name": [f"n{row}" for row in range(36)], "out": [*range(36)], "year": [*range(36)]}
    encoding = learned(frame, {"class": "category", "name": "embedding", "out": "drop", "year": "number"})
    x = encoding(frame)
    assert encoding.features == ("class=1", "class=2", "class=3", "year")
    assert (x["levels"].dtype, x["levels"].shape, encoding.embeddings) == (np.int32, (36, 1), {"name": 2})
    with pytest.raises(ValueError, match=r"no column 'clas'; did you mean 'class'\?"):
        learned(frame, {"clas": "category"})
    with pytest.raises(ValueError, match=r"no kind 'categorical'; did you mean 'category'\?"):
        learned(frame, {"class": "categorical"})


def test_rows_that_training_did_not_have():
    train = {"city": ["Rome", "Oslo"] * 15, "age": [*map(float, range(30))], "yes": [True, False] * 15}
    encoding = learned(train, {"age": "number"})
    x = encoding(pd.DataFrame({"more": [1, 2], "yes": ["maybe", None], "age": ["?", "1e300"], "city": ["Paris", None]}))
    np.testing.assert_allclose(x[:, 2], 0, atol=1e-6)  # the median, which is the mean here
    np.testing.assert_array_equal(np.delete(x, 2, 1), 0)
    assert encoding({"city": ["Rome"], "age": [1e30], "yes": ["yes"]})[0].tolist() == [0, 1, 10_000, 1]
    with pytest.raises(ValueError, match=r"the frame has no column 'age', which the encoding needs. It has: city, yes\."):
        encoding(pd.DataFrame({"city": ["Rome"], "yes": [True]}))


def test_times_keep_their_place_in_day_week_and_year():
    hours = np.arange("2020-01-01", "2022-01-01", dtype="datetime64[h]")
    encoding = learned({"when": hours})
    names = ("day sin", "day cos", "week sin", "week cos", "year sin", "year cos")
    assert encoding.features == ("when", *(f"when {name}" for name in names))
    x = encoding({"when": ["2020-01-01 06:00", "2021-07-02T18:00:00"]})
    np.testing.assert_allclose(x[:, 1], [1, -1], atol=1e-6)
    minutes = np.datetime64("2020-01-01") + np.arange(60).astype("timedelta64[s]")
    assert learned({"when": minutes}).features == ("when",)
    assert len(np.unique(learned({"when": minutes})({"when": minutes}))) == 60


def test_times_of_every_type():
    times = [datetime.datetime(2021, 3, 4, 5, 6, 7), datetime.datetime(1960, 1, 2)]
    expected = cells_of({"t": [(time - datetime.datetime(1970, 1, 1)).total_seconds() for time in times]})["t"].values
    zone = pl.Series(times).dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo")
    for column in (times, np.array(times, "datetime64[ns]"), pd.Series(times), pl.Series(times), zone, pa.chunked_array([times])):
        cells = cells_of({"t": column})["t"]
        assert cells.holds == "datetime"
        np.testing.assert_array_equal(cells.values, expected)
    days = cells_of(pa.table({"t": [time.date() for time in times]}))["t"]
    np.testing.assert_array_equal(days.values, np.floor(expected / 86400) * 86400)
    lengths = pd.DataFrame({"t": pd.to_timedelta(["1 day", None])})
    np.testing.assert_array_equal(cells_of(lengths)["t"].values, [86400, np.nan])


@pytest.mark.parametrize("cell", [[1, 2], {"a": 1}, b"x", np.zeros(2)])
def test_cells_that_are_no_single_values(cell):
    with pytest.raises(TypeError, match=r"column 'it' holds .* values; a cell of a table is a single number, text or date"):
        learned({"it": [1, cell]})


def test_nothing_is_left():
    with pytest.raises(ValueError, match=r"no column of the table is left.*it: left out: constant"):
        learned({"it": [1, 1]})
    with pytest.raises(ValueError, match="needs rows and columns"):
        learned({})
    with pytest.raises(ValueError, match="two columns of frame have the same name"):
        cells_of(pd.DataFrame([[1, 2]], columns=["a", "a"]))
    with pytest.raises(ValueError, match="equally many rows, got a: 1, b: 2"):
        cells_of({"a": [1], "b": [1, 2]})


def test_what_was_done_is_printed():
    text = str(learned({"age": [1.0, None, 3.0], "[b]ed": ["x", "y", "x"], "same": [1, 1, 1]}))
    assert max(map(len, text.splitlines())) <= 80
    cells = " ".join(line.split("│")[3].strip() for line in text.splitlines() if "│" in line)
    assert "standardized, mean 2, deviation 0.816497, missing values -> 2 and a flag" in cells
    assert "one-hot: x, y" in text
    assert "[b]ed" in text
    assert "left out: constant" in text


@pytest.mark.parametrize("record", [{"a": {"kind": "os.system"}}, {"a": {"kind": "number"}}, {"a": 3}])
def test_records_that_are_none(record):
    with pytest.raises((ValueError, TypeError, KeyError)):
        Encoding.from_record(record)
