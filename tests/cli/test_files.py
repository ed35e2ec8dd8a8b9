"""The commands from a file to an answer, as a new user would run them."""

from __future__ import annotations

import csv
import json
import os

import numpy as np
import pytest

from flaxfit.cli import main
from flaxfit.cli.options import Fit
from flaxfit.cli.suggest import study_of

pytestmark = pytest.mark.usefixtures("quickly_compiled")

ROWS = 200


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An empty directory with a CSV file, in which the commands run."""
    directory, random = tmp_path_factory.mktemp("user"), np.random.default_rng(0)
    age, city = random.integers(18, 80, ROWS), random.choice(["Rome", "Oslo", "Cairo"], ROWS)
    sold = (age + 20 * (city == "Rome") + random.normal(size=ROWS) * 10 > 55).astype(int)
    with (directory / "people.csv").open("w") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["customer_id", "age", "city", "price", "sold"])
        for i in range(ROWS):
            writer.writerow([1000 + i, age[i] if i % 11 else "", city[i], f"{age[i] / 3:.2f}".replace(".", ","), ["no", "yes"][sold[i]]])
    before = os.getcwd()
    os.chdir(directory)
    yield directory
    os.chdir(before)


@pytest.fixture(scope="module")
def fitted(place):
    """A run of `flaxfit fit`."""
    assert main(["fit", "people.csv", "--target", "sold", "--epochs", "20", "--hidden", "16", "--ignore", "price"]) == 0
    return place / "runs" / "people"


def test_fit_predict_evaluate(fitted, place, capsys):
    (place / "new.csv").write_text("city;age;customer_id\nRome;70;1\nLima;;2\n")
    assert main(["predict", "runs/people", "new.csv", "-o", "out.csv"]) == 0
    assert "2 predictions written to out.csv" in capsys.readouterr().out
    rows = list(csv.DictReader((place / "out.csv").read_text().splitlines()))
    assert [row["customer_id"] for row in rows] == ["1", "2"]
    assert rows[0]["prediction"] == "yes"
    assert float(rows[0]["probability_yes"]) == pytest.approx(1 - float(rows[0]["probability_no"]), abs=1e-5)
    assert main(["evaluate", "runs/people", "people.csv"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"people.csv, {ROWS} examples; ± and [] are 95% intervals over these:\n  loss ")
    assert main(["evaluate", "runs/people", "people.csv", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["examples"] == ROWS
    accuracy = record["scores"]["accuracy"]
    assert 0.75 < accuracy["low"] < accuracy["mean"] < accuracy["high"] < 1


def test_the_same_command_resumes_and_another_one_has_a_directory_of_its_own(fitted, place, capsys, monkeypatch):
    monkeypatch.setattr("sys.orig_argv", ["another"])
    options = ["--target", "age", "--type", "age=number", "--epochs", "5", "--hidden", "4", "--json"]
    assert main(["fit", "people.csv", *options, "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["run_dir"] == "runs/people-2"
    assert "val_standardized_mse" in found["scores"]
    assert main(["predict", "runs/people-2", "people.csv", "--json"]) == 0
    predicted = [float(row["prediction"]) for row in json.loads(capsys.readouterr().out)]
    assert 18 < np.mean(predicted) < 80  # in years, though training standardized them
    assert main(["fit", "people.csv", *options, "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["run_dir"] == "runs/people-2"
    assert main(["compare", "runs/people", "runs/people"]) == 2
    assert "nothing to compare" in capsys.readouterr().err
    assert main(["compare", "runs/people", "runs/people-2"]) == 2
    assert "different losses" in capsys.readouterr().err


def test_options_may_be_repeated_and_are_all_suggested_for_a_study(place, capsys):
    assert main(["data", "describe", "people.csv", "--target", "sold", "--ignore", "price", "--ignore", "age"]) == 0
    assert capsys.readouterr().out.count("left out: as asked for") == 2
    command = Fit(data="my people.csv", target="sold", ignore=("price", "age"), type=("city=drop",), hidden=(8, 4), dropout=0.5)
    expected = "flaxfit study 'my people.csv' --target sold --ignore price --ignore age --type city=drop --hidden 8 4"
    assert study_of(command) == expected


def test_describe(place, capsys):
    assert main(["data", "describe", "people.csv", "--target", "sold", "--group", "city"]) == 0
    said = capsys.readouterr().out
    assert "200 rows to predict sold: 2 classes" in said
    assert "an identifier" in said
    assert main(["data", "list"]) == 0
    assert "breast_cancer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["fit", "people.csv"], "name the column to predict: --target COLUMN. people.csv has: customer_id, age, city, price, sold."),
        (["fit", "people.csv", "--target", "solld"], "no column 'solld'; did you mean 'sold'"),
        (["study", "absent.csv", "--target", "y"], "there is no file absent.csv"),
        (["study", "wien"], "no data set 'wien'; did you mean 'wine'"),
        (["study", "wine", "--target", "y"], "--target names a column of a file"),
        (["study", "people.csv", "--target", "sold", "--type", "age=numbr"], "--type takes COLUMN=KIND"),
        (["study", "people.csv", "--target", "sold", "--group", "cty"], "no column 'cty'; did you mean 'city'"),
        (["study", "people.csv", "--target", "sold", "--task", "nowhere"], "--task takes MODULE:FUNCTION"),
        (["study", "people.csv", "--target", "sold", "--task", "absent.py:make"], "there is no file absent.py"),
        (["study", "people.csv", "--target", "sold", "--metric", "acuracy"], "did you mean 'accuracy'"),
        (["fit", "people.csv", "--target", "sold", "--epochs", "0"], "--epochs must be at least 1 (epochs), got 0"),
        (["fit", "people.csv", "--target", "sold", "--learning-rate", "0"], "the learning rate must be above 0, got 0"),
        (["fit", "people.csv", "--target", "sold", "--validation", "2"], "must be above 0 and below 1, got 2.0"),
        (["fit", "people.csv", "--target", "price", "--type", "price=category"], "has only 1 example to train and validate on"),
        (["predict", "nowhere", "people.csv"], "there is no exported model in nowhere"),
        (["evaluate", "nowhere", "people.csv"], "there is no exported model in nowhere"),
        (["compare", "nowhere"], "nowhere is not a run directory"),
        (["show", "nowhere"], "nowhere is not a run directory"),
        (["resume", "nowhere"], "nowhere is not a run directory"),
        (["export", "nowhere"], "nowhere is not a run directory"),
        (["studdy"], "no command 'studdy'; did you mean 'study'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(command, message, place, capsys):
    before = sorted(place.rglob("*"))
    assert main(command) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.startswith("flaxfit: ")
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert sorted(place.rglob("*")) == before


def test_a_damaged_file_is_named_with_its_line(place, capsys):
    (place / "torn.csv").write_text("a,b,c\n1,2,3\n1,2\n")
    assert main(["fit", "torn.csv", "--target", "c"]) == 2
    assert "torn.csv, line 3: 2 cells, expected 3" in capsys.readouterr().err
    (place / "torn.parquet").write_bytes(b"PAR1 no")
    assert main(["data", "describe", "torn.parquet", "--target", "c"]) == 2
    assert "torn.parquet cannot be read as Parquet" in capsys.readouterr().err


def test_doctor(capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["self test"] == "trained, saved, resumed to the bit and loaded"
    assert found["versions"]["jax"]
