from __future__ import annotations

import gzip
import hashlib
import io
import sys
import zipfile

import numpy as np
import pytest

import flaxfit as ff

GOOD = "length,width,kind\n5.1,3.5,setosa\n6.7,3.0,virginica\n5.0,3.4,setosa\n"


def write(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def test_classes_by_name(tmp_path):
    path = write(tmp_path, GOOD.replace("setosa", "zinnia"))
    data = ff.data.read_csv(path, target="kind")
    assert (data.classes, data.y.tolist(), data.y.dtype) == (("virginica", "zinnia"), [1, 0, 1], np.int32)
    assert data.features == ("length", "width")
    assert data.record() == {
        "count": 3, "source": "table.csv", "rows": "0:3", "checksums": {"table.csv": hashlib.sha256(path.read_bytes()).hexdigest()},
    }  # fmt: skip


def test_numbers_like_numpy_reads_them(tmp_path):
    values = np.random.default_rng(0).normal(size=(50, 4))
    text = "".join(";".join(map(repr, row.tolist())) + "\n" for row in values)
    data = ff.data.read_csv(write(tmp_path, text, "numbers.csv.gz"), target=1, delimiter=";", rows=40)
    np.testing.assert_array_equal(data.x, values[:40, [0, 2, 3]].astype(np.float32))
    np.testing.assert_array_equal(data.y, values[:40, 1].astype(np.float32))
    assert (data.features, data.classes) == (None, None)


@pytest.mark.parametrize(
    ("text", "options", "y", "features"),
    [
        ("1,2,0\n3,4,1\n", {}, [0, 1], None),
        ("1,2,0\n3,4,1\n", {"target": 0}, [1, 3], None),
        ("a,b,c\n3,4,1\n", {}, [1], ("a", "b")),
        ("2020,2021,c\n3,4,1\n", {"header": True}, [1], ("2020", "2021")),
        ('"a, too",b,c\n3,"4",1\n\n5,6,0\n', {}, [1, 0], ("a, too", "b")),
        ("0,1,label\n5,6,0\n7,8,1\n", {"target": "label"}, [0, 1], ("0", "1")),
        ("\ufeff5,0\n7,1\n", {}, [0, 1], None),
        ("\ufeffa,b\n7,1\n", {"target": "a"}, [7], ("b",)),
        ("\n a ,b\n \n 7 ,1\n", {"target": "a"}, [7], ("b",)),
    ],
)
def test_headers_and_targets(tmp_path, text, options, y, features):
    data = ff.data.read_csv(write(tmp_path, text), **options)
    assert data.y.tolist() == y
    assert data.y.dtype == np.int32
    assert data.features == features


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (GOOD + "5.2,,setosa\n", r"line 5, column 'width': the value is missing"),
        (GOOD + "\n5.2,wide,setosa\n", r"line 6, column 'width': the value is 'wide', which is not a finite number"),
        (GOOD + "5.2,nan,setosa\n", r"line 5, column 'width': the value is 'nan', which is not a finite number"),
        (GOOD + "5.2,1e999,setosa\n", r"line 5, column 'width': the value is '1e999'"),
        (GOOD + "5.2,3.1\n", r"line 5: the row has 2 cells, expected 3"),
        (GOOD + "5.2,3.1,setosa,red\n", r"line 5: the row has 4 cells, expected 3"),
        (GOOD + "5.2,3.1,\n", r"line 5, column 'kind': the value is missing"),
        (GOOD + "5.2,3.1,'zinnia\n".replace("'", '"') + 'rose"\n5.2,x,rose\n', r"line 7, column 'width': the value is 'x'"),
        ("1,2,3\n1,x,3\n", r"line 2, column 'column 1': the value is 'x'"),
        ("1,x,3\n1,2,3\n", r"line 1, column 'column 1': the value is 'x'"),
        ("a,b\n1,2,3\n4,5\n", r"line 2: the row has 3 cells, expected 2"),
        ("1,2\n1,2,3\n4,5\n", r"line 2: the row has 3 cells, expected 2"),
        ("1,2\n1,2_0\n", r"table.csv: cannot"),
        ("", "is empty"),
        ("a;b;kind\n1;2;x\n", r"one column if cells are separated by ','.*pass delimiter"),
        ("0,1,label\n5,6,0\n7,8,1\n", "not clear whether its first line names the columns, '0,1,label'"),
        ("a,b,c\n", "has a header, but no rows"),
    ],
)
def test_a_bad_table_names_file_line_and_column(tmp_path, text, error):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=error) as raised:
        ff.data.read_csv(path)
    assert str(path) in str(raised.value)


def test_a_bad_row_beyond_those_asked_for_does_not_matter(tmp_path):
    assert len(ff.data.read_csv(write(tmp_path, GOOD + "5.2,,setosa\n"), rows=3)) == 3


def test_blank_lines_count_as_lines_but_not_as_rows(tmp_path):
    text = "\na,kind\n" + "".join(f"{row},{'xyz'[row % 3]}\n\n" for row in range(7))
    data = ff.data.read_csv(write(tmp_path, text))
    assert (data.x.ravel().tolist(), data.y.tolist()) == ([*range(7)], [0, 1, 2, 0, 1, 2, 0])
    assert len(ff.data.read_csv(write(tmp_path, text + "8\n"), rows=7)) == 7
    with pytest.raises(ValueError, match="line 17, column 'a': the value is 'seven'"):
        ff.data.read_csv(write(tmp_path, text + "seven,x\n"))


@pytest.mark.parametrize("cells", [("NA", "null"), ("None", "nan")])
def test_words_that_mean_missing_elsewhere_are_classes(tmp_path, cells):
    data = ff.data.read_csv(write(tmp_path, "a,kind\n" + "".join(f"1,{cell}\n" for cell in cells)))
    assert data.classes == cells


def test_tables_need_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"read_csv needs pandas.*pip install flaxfit\[data\]"):
        ff.data.read_csv(write(tmp_path, GOOD))


def test_a_target_that_is_not_there(tmp_path):
    path = write(tmp_path, GOOD)
    with pytest.raises(ValueError, match=r"no column 'knd'; did you mean 'kind'\?"):
        ff.data.read_csv(path, target="knd")
    with pytest.raises(ValueError, match="has 3 columns, but no column 3"):
        ff.data.read_csv(path, target=3)


def test_npz(tmp_path):
    np.savez(tmp_path / "mine.npz", x_train=np.ones((3, 2)), y_train=np.arange(3), weights=np.ones(3))
    data = ff.data.read_npz(tmp_path / "mine.npz", "x_train", "y_train", "weights")
    assert (data.x.shape, data.y.tolist(), data.sample_weight.tolist()) == ((3, 2), [0, 1, 2], [1, 1, 1])
    assert data.record()["source"] == "mine.npz"
    with pytest.raises(ValueError, match=r"no array 'x'; did you mean 'x_train'\?|no array 'x'. There are"):
        ff.data.read_npz(tmp_path / "mine.npz")


class Malicious:
    def __reduce__(self):
        return print, ("unpickled",)


def test_nothing_is_unpickled(tmp_path, capsys):
    np.savez(tmp_path / "bad.npz", x=np.array([[Malicious()]], object), y=np.zeros(1))
    with pytest.raises(ValueError, match="holds Python objects, which are never unpickled"):
        ff.data.read_npz(tmp_path / "bad.npz")
    assert capsys.readouterr().out == ""


def test_what_is_no_table(tmp_path):
    (tmp_path / "latin.csv").write_bytes("größe,y\n1,2\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.csv is not a text file in UTF-8"):
        ff.data.read_csv(tmp_path / "latin.csv")
    np.save(tmp_path / "array.npy", np.ones(3))
    with pytest.raises(ValueError, match=r"array.npy is not an NPZ file"):
        ff.data.read_npz(tmp_path / "array.npy")
    with pytest.raises(ValueError, match=r"read_csv\(rows=...\) must be at least 1"):
        ff.data.read_csv(write(tmp_path, GOOD), rows=0)


def test_a_table_without_line_ends_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("flaxfit.data.files.LONGEST_LINE", 1000)
    long = "1,2\n3,4\n" * 30_000 + "5," * 2000
    for name in ("long.csv", "long.csv.gz"):
        with pytest.raises(ValueError, match=r"long.csv.* has a line of more than 1,000 bytes"):
            ff.data.read_csv(write(tmp_path, long, name), header=False)
        with pytest.raises(ValueError, match="has a line of more than"):
            ff.data.read_csv(write(tmp_path, "7" * 10**6, name))
    assert len(ff.data.read_csv(write(tmp_path, "1,2\n3,4\n" * 30_000), header=False)) == 60_000
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"table.csv, line 1: field larger than field limit .* It is not a table"):
        ff.data.read_csv(write(tmp_path, "7" * 200_000 + "\n"))


@pytest.mark.parametrize("deflated", [False, True])
def test_arrays_that_claim_more_than_the_file_holds_take_no_memory(tmp_path, deflated):
    def npz(name, **arrays):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED) as archive:
            for array, (shape, content) in arrays.items():
                header = io.BytesIO()
                np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
                archive.writestr(f"{array}.npy", header.getvalue() + content)
        return tmp_path / name

    y = ((10,), bytes(80))
    with pytest.raises(ValueError, match=r"damaged: the array 'x' claims 22,000,000,000 bytes"):
        ff.data.read_npz(npz("large.npz", x=((10, 275_000_000), bytes(800)), y=y))
    with pytest.raises(ValueError, match="must have the same number of rows, got x 20, y 10"):
        ff.data.read_npz(npz("rows.npz", x=((20, 2), bytes(320)), y=y))
    assert len(ff.data.read_npz(npz("good.npz", x=((10, 2), bytes(160)), y=y))) == 10
