"""The studies of small tables, shortened, in this process: their nets are tiny, and starting Python is what takes the time."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

import flaxfit as ff

pytestmark = pytest.mark.usefixtures("quickly_compiled")


@pytest.fixture
def inside(page):
    """Runs a script's `main` and returns the page it wrote."""

    def inside(name, run_dir, **options):
        script = importlib.import_module(name)
        script.main(script.Config(run_dir=run_dir, **options))
        return page(run_dir)

    return inside


def check_sonar(page, home, histories):
    """The pages and F2's table against the runs' own logs."""
    assert [row[:2] for row in page.table("The source's split")] == [
        ["train accuracy", "1.0000"],
        ["test accuracy", "0.8413"],
        ["test squared error", "0.1371"],
        ["train squared error", "0.0154"],
    ]
    logs = histories(home / "F2, from seed 7")
    last = [logs[f"loss=binary_cross-entropy,seed={seed}"]["val_accuracy"][-1] for seed in (7, 8)]
    assert page.table("The source's split")[1][3] == ff.statistics.interval(last).short
    assert page.plots == ["split"]


SHORT = {"epochs": 20, "seeds": 2, "first_seed": 7}


def test_sonar_without_originals(tmp_path, inside, synthetic_cache, histories):
    check_sonar(inside("sonar", tmp_path / "run", **SHORT), tmp_path / "run", histories)


@pytest.mark.slow
def test_sonar_says_the_same_when_it_is_resumed(tmp_path, inside, data, histories, written):
    first = inside("sonar", tmp_path, **SHORT)
    check_sonar(first, tmp_path, histories)
    saved = written(tmp_path)
    assert saved[0] == 4 + 4 + 2 + 6
    again = inside("sonar", tmp_path, **SHORT)
    assert (again.tables, again.claims) == (first.tables, first.claims)
    assert written(tmp_path) == saved  # nothing was trained again


@pytest.mark.slow
def test_leakage(tmp_path, inside, data):
    page = inside("leakage", tmp_path, epochs=60, seeds=3, folds=2)
    scores = [float(row[1].split()[0]) for row in page.table("Leaked rows")]
    assert scores[-1] > scores[0] + 0.05
    first, second = page.table("Cross-validation")
    assert first[1] == first[2]  # the first fold has nothing to carry on
    assert second[1] != second[2]
    assert page.plots == ["scores"]


@pytest.mark.slow
def test_cross_validation(tmp_path, inside, data, written):
    short = {"widths": (24,), "shares": (0.4, 0.5), "folds": (2,)} | SHORT
    page = inside("cross_validation", tmp_path, **short)
    assert [row[0] for row in page.table("Hold-outs")] == ["40%", "50%"]
    assert [row[0] for row in page.table("Model selection")] == ["validation", "test"]
    assert len(page.claims) == 2 + 2 + 2
    saved = written(tmp_path)
    assert saved[0] == 3 * 2 + 2 * 2 + 2 * 2
    assert inside("cross_validation", tmp_path, **short).tables == page.tables
    assert written(tmp_path) == saved  # nothing was trained again


@pytest.mark.parametrize("wrong", [{"degree": 1}, {"degree": 12, "points": 12}])
def test_polynomials_say_what_they_cannot_do(tmp_path, inside, wrong):
    with pytest.raises(SystemExit, match="--degree is from 4 to 18 and less than --points"):
        inside("polynomials", tmp_path, **wrong)
    assert list(tmp_path.iterdir()) == []


def test_polynomials(tmp_path, inside, written):
    short = {"seeds": 2, "degree": 9, "points": 12}
    page = inside("polynomials", tmp_path, **short)
    saved = written(tmp_path)
    assert saved[0] == 9 * 2
    assert inside("polynomials", tmp_path, **short).tables == page.tables
    assert written(tmp_path) == saved  # nothing was trained again
    assert page.verdict("with each degree the training error falls") == "held"
    assert len(page.table("12 points")) == 9
    assert page.plots == ["degrees"]


def test_shrinkage(tmp_path, inside, written):
    page = inside("shrinkage", tmp_path, seeds=2, weights=3)
    assert written(tmp_path)[0] == 2 * 3 * 2 + 2 * 3 * 6 * 2
    assert page.verdict("finds scikit-learn's Lasso and Ridge") == page.verdict("L2 shrinks weights, and sets none to zero") == "held"
    assert [row[0] for row in page.table("Diabetes")] == ["0.001", "0.1", "10"]
    assert page.table("Diabetes")[2][1] == "10"  # L1 of weight 10 leaves no weight
    lasso, ridge = ([float(row[column].split()[0]) for row in page.table("Generated")] for column in (1, 2))
    assert lasso[0] < ridge[0]
    assert lasso[-1] > ridge[-1]
    assert page.plots == ["paths", "truths"]


@pytest.mark.slow
def test_causes(tmp_path, inside):
    page = inside("causes", tmp_path, seeds=3, epochs=100, fresh=500)
    training = [float(row[1].split()[0]) for row in page.table("L2 weight")]
    assert training[-1] > training[-2] + 0.1 > training[0] + 0.1  # too much penalty underfits
    gaps = [float(row[4].split()[0]) for row in page.table("hidden units")]
    assert gaps[-1] > gaps[0] + 0.1
    assert page.plots == ["data", "training"]


@pytest.mark.slow
def test_training_size(tmp_path, inside, data, written):
    short = {"seeds": 1, "steps": 60, "mnist": (300, 10_000), "sonar": (20, 160)}
    page = inside("training_size", tmp_path, **short)
    assert [row[0] for row in page.table("MNIST: 1,000")] == [
        *("plain", "dropout 0.2", "dropout 0.5", "dropout 0.8", "L2 1e-05", "L2 0.0001", "L2 0.001"),
        *("translation 1", "translation 2", "translation 3", "10,000 rows, plain"),
    ]
    assert [float(row[3].split()[0]) > 0 for row in page.table("sonar")] == [True, True]
    count, times = written(tmp_path)
    assert count == 2 + 2 * 4 + 10  # a run of 10,000 images serves twice
    assert inside("training_size", tmp_path, **short).tables == page.tables
    assert written(tmp_path) == (count, times)  # nothing was trained again
    assert page.plots == ["MNIST", "sonar"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:(imdb|higgs) is not read from the published original file")
def test_training_size_of_reviews_and_collisions(tmp_path, inside, data, written):
    sizes = {"imdb": (100, 200, 400, 800), "higgs": (200, 400, 800, 1_600), "higgs_rows": 2_000}
    short = {"seeds": 1, "higgs_seeds": 2, "steps": 50, "higgs_steps": 50, "rows": 1_000, "vocabulary": 200, "first_seed": 7, **sizes}
    page = inside("training_size_hard", tmp_path, **short)
    assert [row[0] for row in page.table("HIGGS: 800")] == [
        *("plain", "dropout 0.2", "dropout 0.5", "dropout 0.8", "L2 0.0001", "L2 0.001", "L2 0.01", "1,600 rows, plain"),
    ]
    assert [row[0] for row in page.tables["IMDB"]] == ["100", "200", "400", "800"]
    assert page.verdict("HIGGS: a law fitted to at most 400 rows") in ("held", "did not hold", "undecided")
    assert written(tmp_path)[0] == (4 + 6) * (1 + 2)  # the plain runs serve twice
    assert page.plots == ["IMDB", "HIGGS"]


def test_the_law_is_found_where_there_is_one():
    sizes = (300, 1_000, 3_000, 10_000)
    found = importlib.import_module("sizes").law(sizes, 0.1 + 2 * np.array(sizes, float) ** -0.5)
    np.testing.assert_allclose(found, [0.1, 2, 0.5], rtol=1e-3)


def test_the_jackknife_of_a_mean_is_students_interval():
    runs = np.random.default_rng(0).normal(size=(3, 8))
    found, known = importlib.import_module("sizes").jackknife(lambda means: means[1], runs), ff.statistics.interval(runs[1])
    np.testing.assert_allclose([found.mean, found.low, found.high], [known.mean, known.low, known.high])


@pytest.mark.slow
def test_initial_scale(tmp_path, inside, data, written):
    page = inside("initial_scale", tmp_path, seeds=2, epochs=1, rows=1_000, scales=(1e-4, 1.0))
    plain, normed = ([float(row[column].split()[0]) for row in page.table("Test accuracy")] for column in (1, 2))
    assert normed[0] > plain[0]
    assert [row[0] for row in page.table("100 images")] == ["plain", "batch norm", "dropout 0.2", "L1 0.0001", "L2 0.001"]
    assert written(tmp_path)[0] == 2 * 2 * 2 + 2 * 5
    assert page.plots == ["scales"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:imdb is not read from the published original file")
def test_errata(tmp_path, inside, data):
    page = inside("errata", tmp_path, seeds=2)
    verdicts = [page.verdict(words) for words in ("under SGD", "under Adam", "while training only", "at 0.5", "100 words")]
    assert verdicts == ["held", *["did not hold"] * 4]
    assert page.plots == ["errata"]
