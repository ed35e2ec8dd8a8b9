from __future__ import annotations

import gzip
import warnings
from pathlib import Path

import numpy as np
import optax
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
from flax import linen as nn
from sklearn.preprocessing import StandardScaler

import flaxfit as ff

pytestmark = pytest.mark.usefixtures("quickly_compiled")

RNG = np.random.default_rng(0)


def people(rows=60):
    """A table with text, gaps and dates, whose age decides the label."""
    age = RNG.integers(18, 80, rows).astype(float)
    frame = pd.DataFrame({"age": age, "city": RNG.choice(["Rome", "Oslo", None], rows), "sold": np.where(age > 45, "yes", "no")})
    frame.loc[::7, "age"] = np.nan
    return frame


@pytest.mark.parametrize(
    ("values", "kind", "classes", "y"),
    [
        (["b", "a", "b"], None, ("a", "b"), [1, 0, 1]),
        (["yes", "no", "yes"], None, ("no", "yes"), [1, 0, 1]),
        (["-", "+", "-"], None, ("+", "-"), [1, 0, 1]),
        ([True, False, True], None, ("False", "True"), [1, 0, 1]),
        ([2, 1, 2], None, ("1", "2"), [1, 0, 1]),
        ([1.0, -1.0, 1.0], None, ("-1", "1"), [1, 0, 1]),
        ([0.5, 0.25, 0.5], None, ("0.25", "0.5"), [1, 0, 1]),
        (["10", "9", "11"], None, ("9", "10", "11"), [1, 0, 2]),
        ([3, 1, 2], "number", None, [3, 1, 2]),
        ([0.5, 1.5, 2.25], None, None, [0.5, 1.5, 2.25]),
        (["0,5", "1,5", "2,25"], None, None, [0.5, 1.5, 2.25]),
        ([0.5, 1.5, 2.25], "category", ("0.5", "1.5", "2.25"), [0, 1, 2]),
    ],
)
def test_targets_are_classes_or_numbers(values, kind, classes, y):
    kinds = {} if kind is None else {"it": kind}
    for target in (values, pd.Series(values), pl.Series(values)):
        table = ff.data.Table({"x": [1, 2, 3], "it": target}, "it", kinds=kinds)
        assert (table.classes, table.y.tolist(), table.y.dtype) == (classes, y, np.float32 if classes is None else np.int32)
    if kind is None:
        assert ff.data.Table({"x": [1, 2, 3]}, values).y.tolist() == y


def test_counts_are_numbers():
    table = ff.data.Table({"x": RNG.normal(size=40)}, [*range(40)])
    assert (table.classes, table.y.dtype) == (None, np.float32)


def test_rows_without_a_target_are_left_out_and_told_of():
    frame = {"x": [1, 2, 3, 4], "it": ["a", None, "?", "b"]}
    with pytest.warns(UserWarning, match="2 of 4 rows have no it and are left out, the first is row 1"):
        table = ff.data.Table(frame, "it")
    assert (len(table), table.classes, table.dataset().x.shape) == (2, ("a", "b"), (2, 1))
    assert table.dataset().x[:, 0].tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("it", "kinds", "y"),
    [
        (["yes", "no"] * 29 + ["", None], {}, [1, 0] * 29),  # enough rows to look for columns that tell the target
        (["1.5", "2", "n/a", "4"], {"it": "number"}, [1.5, 2, 4]),
        (["1.5", "2.5", "3.5"] * 20 + ["NaN"], {}, [1.5, 2.5, 3.5] * 20),
    ],
)
def test_a_target_has_gaps_as_other_columns_do(it, kinds, y):
    with pytest.warns(UserWarning, match="rows have no it and are left out"):
        table = ff.data.Table({"x": RNG.normal(size=len(it)), "it": it}, "it", kinds=kinds)
    assert table.y.tolist() == y


def test_a_column_that_tells_the_target_is_told_of():
    frame = people()
    frame["again"] = frame.sold.str.upper()
    with pytest.warns(UserWarning, match=r"'again' tells 'sold' exactly.*kinds=\{\"again\": \"drop\"\}"):
        table = ff.data.Table(frame, "sold")
    assert "again determines sold exactly" in str(table)
    assert "again" not in " ".join(ff.data.Table(frame, "sold", kinds={"again": "drop"}).dataset().features)


def test_what_is_no_table():
    with pytest.raises(ValueError, match=r"no column 'sol'; did you mean 'sold'\?"):
        ff.data.Table(people(), "sol")
    with pytest.raises(ValueError, match="the frame has 60 rows, the target 3"):
        ff.data.Table(people(), [1, 2, 3])
    with pytest.raises(TypeError, match="must be a data frame of pandas, Polars or Arrow, got ndarray"):
        ff.data.Table(np.ones((3, 2)), [1, 2, 3])
    with pytest.raises(TypeError, match=r"a Table is not an array: pass .* table\.dataset\(train\.encoding\)\.x"):
        ff.Dataset(ff.data.Table(people(), "sold"), np.zeros(60))
    with pytest.raises(ValueError, match="no column besides the target, 'it'"):
        ff.data.Table({"it": [1, 2]}, "it")
    with pytest.raises(ValueError, match=r"the target 'sold' must be numbers, but has the text"):
        ff.data.Table(people(), "sold", kinds={"sold": "number"})
    with pytest.raises(ValueError, match="the target is a number or a category"):
        ff.data.Table(people(), "sold", kinds={"sold": "datetime"})


def test_a_split_learns_from_the_rows_to_train_on_alone():
    frame = people()
    parts = ff.data.split(ff.data.Table(frame, "sold"), validation=20, test=10, stratified=True, seed=0, one_row=1.0)
    assert parts.train.encoding is parts.validation.encoding is parts.test.encoding
    place = parts.train.features.index("age")
    assert abs(parts.train.x[:, place].mean()) < 1e-6 < abs(parts.validation.x[:, place].mean())
    poisoned = frame.astype(object)
    rows = ff.data.split(
        ff.Dataset(np.arange(60), (frame.sold == "yes").to_numpy().astype(int)),
        validation=20,
        test=10,
        stratified=True,
        seed=0,
        one_row=1.0,
    )
    poisoned.loc[rows.validation.x, ["age", "city"]] = ["soon", "Atlantis"]
    poisoned.loc[rows.test.x, ["age", "city"]] = [1e30, 17]
    again = ff.data.split(ff.data.Table(poisoned, "sold"), validation=20, test=10, stratified=True, seed=0, one_row=1.0)
    assert again.train.x.tobytes() == parts.train.x.tobytes()
    assert again.train.features == parts.train.features
    assert again.validation.x.tobytes() != parts.validation.x.tobytes()


def test_fit_takes_tables(net):
    table = ff.data.Table(people(), "sold")
    train, validation = table[:40], table[40:]
    task = ff.Task(net(), ff.losses.binary_crossentropy, optax.adam(1e-2))
    result = ff.fit(task, train, validation=validation, epochs=2)
    x = validation.dataset(train.encoding)
    assert ff.evaluate(task, result.last, x)["loss"] == pytest.approx(result.history["val_loss"][-1])
    assert x.features == train.encoding.features
    with pytest.raises(TypeError, match=r"got Table: encode it as the training rows were, table.dataset\(train.encoding\)"):
        ff.evaluate(task, result.last, validation)
    np.testing.assert_array_equal(train.encoding(people().iloc[:0:-1][["city", "age"]]).shape, (59, len(x.features)))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", " "])
@pytest.mark.parametrize("named", [True, False])
def test_files_of_other_kinds(tmp_path, delimiter, named):
    rows = [["Rome", "1.5", "A1", "no"], ["New York" if delimiter != " " else "York", "?", "A2", "yes"], ["Oslo", "-2e3", "A1", "no"]] * 9
    header = [["city", "much", "code", "sold"]] * named
    text = "\n".join(delimiter.join(cells) for cells in header + rows) + "\n\n"
    for place, content in (("t.csv", text.encode()), ("bom.csv", b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())):
        (tmp_path / place).write_bytes(content)
        table = ff.data.read_table(tmp_path / place)
        assert (len(table), table.classes, table.target) == (27, ("no", "yes"), "sold" if named else "column 3")
        assert [how.kind for how in table.encoding.columns.values()] == ["category", "number", "category"]
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    zipped = ff.data.read_table(tmp_path / "t.csv.gz", rows=6)
    assert len(zipped) == 6
    assert zipped.dataset().record()["source"] == "t.csv.gz"


def test_quotes_blanks_commas_and_latin_letters(tmp_path):
    (tmp_path / "t.csv").write_bytes('größe; "wo, genau" ;y\n"1,5"; Köln;a\n 2,25 ;"Bonn; Süd";b\n'.encode("latin-1"))
    table = ff.data.read_table(tmp_path / "t.csv")
    assert list(table.cells) == ["größe", "wo, genau"]
    assert table.cells["wo, genau"].values.tolist() == ["Köln", "Bonn; Süd"]
    assert table.dataset().x[:, 0].tolist() == [-1, 1]
    (tmp_path / "commas.csv").write_text("1,5;2,25;a\n2,5;1,75;b\n0,5;x, y;a\n")
    assert ff.data.read_table(tmp_path / "commas.csv", header=False).cells["column 0"].values.tolist() == ["1,5", "2,5", "0,5"]
    (tmp_path / "auto.data").write_text('18.0   8\t"chevrolet malibu"\n15.5   6\t"buick 320"\n')
    assert ff.data.read_table(tmp_path / "auto.data", 0).cells["column 2"].values.tolist() == ["chevrolet malibu", "buick 320"]


def test_headers(tmp_path):
    def names(text, **options):
        (tmp_path / "t.csv").write_text(text)
        return [*ff.data.read_table(tmp_path / "t.csv", **options).cells]

    assert names("a,b\n1,2\n3,4\n5,6\n") == ["a"]
    assert names("1,2\n3,4\n5,6\n") == ["column 0"]
    assert names("x,p\nb,p\nx,q\n") == ["column 0"]  # letters, seen below as well
    assert names("kind,label\nb,p\nx,q\n") == ["kind"]
    assert names("2019,2020,y\n1,2,a\n3,4,b\n", header=True) == ["2019", "2020"]
    assert names(",a,a,y\n0,1,2,a\n1,3,4,b\n") == ["column 0", "a", "a.1"]


def test_files_that_cannot_be_read(tmp_path):
    for text, error in {
        "": "is empty",
        "a,b\n": "no rows below its header",
        "a\n1\n": "has one column, 'a'.*give delimiter=",
        "a,b,c\n" + "1,2,3\n" * 20 + "1,2\n": "line 22: 2 cells, expected 3",
    }.items():
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(ValueError, match=error):
            ff.data.read_table(tmp_path / "t.csv", header=True)
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="there is no column 2"):
        ff.data.read_table(tmp_path / "t.csv", 2, header=True)
    with pytest.raises(ValueError, match="no column 'c'"):
        ff.data.read_table(tmp_path / "t.csv", "c")


@pytest.mark.parametrize(("file", "target", "least"), [("titanic", "survived", 0.75), ("mpg", "mpg", 0.7), ("german", -1, 0.6)])
def test_real_tables_train_as_they_are(originals, net, file, target, least):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # `alive` tells `survived`
        table = ff.data.read_table(Path(originals) / f"tables/{file}.csv", target, kinds={"alive": "drop"} if file == "titanic" else None)
    parts = ff.data.split(table, validation=0.25, seed=0, one_row=1.0)
    number = table.classes is None
    loss = ff.losses.mse if number else ff.losses.binary_crossentropy
    result = ff.fit(ff.Task(net(), loss, optax.adam(1e-2)), parts.train, validation=parts.validation, epochs=60)
    y = parts.validation.y.astype(float)
    share = y.mean()
    without = y.var() if number else -(share * np.log(share) + (1 - share) * np.log(1 - share))
    assert min(result.history["val_loss"]) < (1 - least) * without if number else min(result.history["val_loss"]) < 0.95 * without


def test_frames_of_numbers_are_datasets():
    frame = pd.get_dummies(pd.DataFrame({"age": [20.0, 30.0, 40.0], "region": ["n", "s", "n"]}))
    nullable = frame.astype({"age": "Int64", "region_n": "boolean"})
    for x in (frame, nullable, pl.from_pandas(frame), pa.Table.from_pandas(frame), frame.convert_dtypes(dtype_backend="pyarrow")):
        data = ff.Dataset(x, [0, 1, 0])
        assert data.features == ("age", "region_n", "region_s")
        assert np.asarray(data.x, np.float32).tolist() == [[20, 1, 0], [30, 0, 1], [40, 1, 0]]
    assert ff.Dataset(frame, [0, 1, 0]).x.dtype == np.float32
    assert np.isnan(ff.Dataset(pd.DataFrame({"a": pd.array([1, None], "Int64")}), [0, 1]).x).tolist() == [[False], [True]]
    with pytest.raises(TypeError, match=r"columns that are not numeric: 'b' \(text\)\. ff\.data\.Table"):
        ff.Dataset(pd.DataFrame({"a": [1], "b": ["x"]}), [0])


def test_labels_that_are_text_are_numbered_and_named():
    for y in (["cat", "dog", "cat"], np.array(["cat", "dog", "cat"]), pd.Series(["cat", "dog", "cat"]), pl.Series(["cat", "dog", "cat"]),
              pd.Series(["cat", "dog", "cat"], dtype="category")):  # fmt: skip
        data = ff.Dataset(np.eye(3), y)
        assert (data.y.tolist(), data.y.dtype, data.classes) == ([0, 1, 0], np.int32, ("cat", "dog"))
    assert ff.Dataset(np.eye(3), ["dog"] * 3, classes=("cat", "dog")).y.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match=r"y has the class 'cow', which .* does not name: cat, dog"):
        ff.Dataset(np.eye(1), ["cow"], classes=("cat", "dog"))
    with pytest.raises(TypeError, match=r"y is text, but not in 1 of 2 labels, first in row 1 \(None\)"):
        ff.Dataset(np.eye(2), pd.Series(["cat", None]))


def test_classes_that_are_numbered_otherwise_in_validation(net):
    task = ff.Task(net(), ff.losses.binary_crossentropy, optax.adam(1e-2))
    train = ff.Dataset(np.eye(3), ["cat", "dog", "cat"])
    with pytest.raises(ValueError, match=r"classes of train are cat, dog, those of validation dog: .*classes=train\.classes"):
        ff.fit(task, train, validation=ff.Dataset(np.eye(3), ["dog"] * 3))
    assert ff.fit(task, train, validation=ff.Dataset(np.eye(3), ["dog"] * 3, classes=train.classes)).best_epoch == 1


def test_arrays_that_would_be_taken_wrongly():
    with pytest.raises(TypeError, match=r"x is a masked array.*x\.filled\(value\)"):
        ff.Dataset(np.ma.masked_array([1.0, 2.0], [True, False]), [0, 1])
    with pytest.raises(TypeError, match=r"x is a sparse matrix.*x\.toarray\(\)"):
        ff.Dataset(scipy.sparse.eye_array(3, format="csr"), [0, 1, 0])


class Named(nn.Module):
    """A network of a dict of inputs."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(x["t"][:, None])


def test_values_that_float32_would_merge_keep_their_digits_until_they_are_computed_with():
    time = 1.7e9 + RNG.uniform(0, 600, 512)
    x = np.stack([np.arange(512.0), time], 1)
    data = ff.Dataset(x, np.arange(512) % 2)
    expected = StandardScaler().fit_transform(x)
    np.testing.assert_allclose(ff.data.standardize(data.x)(data.x), expected, atol=1e-6)
    task = ff.Task(ff.nn.MLP((), 1), ff.losses.binary_crossentropy, optax.sgd(1e-3))
    with pytest.warns(UserWarning, match=r"train\.x\[:, 1\] has 512 different values, of which \d are left as float32"):
        result = ff.fit(task, data[:])
    with pytest.warns(UserWarning, match=r"predict\.x\[:, 1\] has 512 different values"):
        ff.predict(task, result.last, x)
    with pytest.warns(UserWarning, match=r"train\.x\['t'\] has 512 different values"):
        ff.fit(ff.Task(Named(), ff.losses.binary_crossentropy, optax.sgd(1e-3)), ff.Dataset({"t": time}, np.arange(512) % 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wide = ff.Dataset(np.stack([np.full(512, 1.7e9), 1e9 * np.arange(512.0), RNG.normal(1e4, 1, 512)], 1), np.zeros(512))
    assert wide.x.dtype == np.float32
    times = pd.DataFrame({"time": time, "y": time > 1.7e9 + 300})
    assert len(np.unique(ff.data.Table(times, "y").dataset().x)) == 512
