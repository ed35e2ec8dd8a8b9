"""The study of fixes, as a user meets it: one small study, and what each number in it must be."""

from __future__ import annotations

import html
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optax
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

import flaxfit as ff
from flaxfit.cli import main
from flaxfit.overfitting.plan import Plan
from flaxfit.overfitting.problem import problem_of
from flaxfit.overfitting.recorded import Recorded
from flaxfit.overfitting.scores import Scores
from flaxfit.report.statistics import Interval, compare, family

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def noisy_table(rows: int = 300, seed: int = 0) -> ff.data.Table:
    """Labels of which a quarter are wrong, from two columns of four, with text, gaps and an identifier."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 4))
    city = random.choice(["Rome", "Oslo", "Cairo"], rows).astype(object)
    sold = (x[:, 0] + (city == "Rome") > 0.3) ^ (random.random(rows) < 0.25)
    city[::17] = None
    columns = {"id": np.arange(rows), "city": city, **{f"x{i}": x[:, i] for i in range(4)}}
    return ff.data.Table({**columns, "sold": np.where(sold, "yes", "no").astype(object)}, "sold")


def make_task(hp):
    """A network that overfits, with three ways to help it."""
    return ff.Task(
        ff.nn.MLP((64, 64), 1, dropout=hp["dropout"]),
        ff.losses.binary_crossentropy,
        optax.adam(3e-3),
        {"accuracy": ff.metrics.binary_accuracy},
        penalty=ff.penalties.l2(hp["l2"]),
    )


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A finished study, what it reported, and its directory."""
    directory, lines = tmp_path_factory.mktemp("studies") / "people", []
    options = {"epochs": 60, "folds": 10, "budget": "1s", "run_dir": directory, "progress": lines.append}
    study = ff.overfitting_study(make_task, noisy_table(), **options)
    return study, lines, directory, options


def test_it_says_what_overfits_and_what_helps(studied):
    study, lines, _, _ = studied
    assert study.diagnosis.verdict == "overfitted"
    assert any(sentence.startswith("The baseline overfits from epoch ") for sentence in study.sentences)
    assert "early stopping" in {tried.fix.name for tried in study.helpful}
    assert study.recommended.name != "baseline"
    assert lines[0].startswith("Plan: 5 settings x 10 folds x 1 repeat, 60 epochs each: about ")
    assert any(line.startswith("repeat 1 of 1 done: best so far ") for line in lines)
    assert max(map(len, str(study).splitlines())) <= 80
    shown = study._repr_html_()
    assert shown.count('src="data:image/png;base64,') == len(study.plots())
    assert html.escape(study.sentences[0]) in shown


def test_comparisons_are_corrected_for_folds_and_fixes(studied):
    study = studied[0]
    base = study.tried[0].scores
    assert base.shape == (10,)
    expected = family([compare(base, t.scores, method="corrected", test_ratio=1 / 9, bounds=(0, np.inf)) for t in study.tried[1:]])
    for tried, comparison in zip(study.tried[1:], expected, strict=True):
        assert tried.comparison is not None
        assert tried.comparison.p_value == pytest.approx(comparison.p_value)
        assert tried.comparison.difference.low == pytest.approx(comparison.difference.low)
        assert (tried.verdict == "helps") == (comparison.verdict == "better")


def test_the_recommendation_is_the_simplest_within_one_standard_error(studied):
    study = studied[0]
    order = ["baseline", "early stopping", "L2 penalty", "dropout", "L2 with dropout"]
    best = min(study.tried, key=lambda t: t.scores.mean())
    assert study.best == best.fix
    near = []
    for tried in study.tried:
        behind = tried.scores - best.scores
        error = 1.0587 * behind.std(ddof=1) * np.sqrt(1 / 10 + 1 / 9)  # t at 68.27% with 9 degrees of freedom, Nadeau and Bengio
        if behind.mean() <= error:
            near.append(tried.fix.kind)
    assert study.recommended.kind == min(near, key=order.index)


def test_the_recommended_model_is_scored_on_test_examples_and_exported(studied):
    study, _, directory, _ = studied
    model = ff.load(directory)
    _, test = ff.data.hold_outs(noisy_table(), 60, stratified=True, seed=0)[0]
    scores = model.evaluate(noisy_table()[np.sort(test)])
    assert study.test_rows == 60
    assert scores["binary_crossentropy"] == pytest.approx(study.test["log loss"].mean, rel=1e-5)
    assert scores["accuracy"] == pytest.approx(study.test["accuracy"].mean)
    assert study.test["log loss"].low < study.test["log loss"].mean < study.test["log loss"].high
    probabilities = model.predict_proba(model.encoding({"city": ["Rome", None], **{f"x{i}": [0.0, 1.0] for i in range(4)}}))
    assert probabilities.shape == (2, 2)
    np.testing.assert_allclose(probabilities.sum(1), 1)


def test_simple_models_are_those_of_scikit_learn_on_the_same_folds(studied):
    study = studied[0]
    table = noisy_table()
    pool = np.sort(ff.data.hold_outs(table, 60, stratified=True, seed=0)[0][0])
    shape, scores = table[pool].encoding, []
    for train, held in ff.data.folds(table[pool], 10, stratified=True, seed=0):
        learned = shape.refitted(table[pool[train]].cells)
        x, z = learned.encode(table[pool[train]].cells), learned.encode(table[pool[held]].cells)
        model = LogisticRegression(max_iter=1000).fit(x, table.y[pool[train]])
        scores.append(log_loss(table.y[pool[held]], model.predict_proba(z)))
    linear = next(rival for rival in study.rivals if rival.name.startswith("a linear model"))
    assert linear.score.mean == pytest.approx(np.mean(scores), rel=1e-4)
    assert {rival.name for rival in study.rivals} == {"the class frequencies", linear.name, "gradient boosting"}


def test_signal_growth_and_columns(studied):
    study = studied[0]
    assert study.signal is not None
    assert study.signal.p_value == 0.05  # no permutation of 19 is as good
    assert (study.signal.permuted > study.signal.score).all()
    assert study.growth is not None
    assert study.growth.sizes == [54, 86, 136, 216]
    assert [c.column for c in study.columns][:2] in (["x0", "city"], ["city", "x0"])
    assert {c.column for c in study.columns} == {"city", "x0", "x1", "x2", "x3"}
    assert all(c.useless for c in study.columns if c.column in ("x1", "x2"))


def test_what_is_written_can_be_read(studied):
    study, _, directory, _ = studied
    text = (directory / "study.md").read_text()
    for name in ("fixes", "curves", "data", "columns"):
        assert f"({name}.png)" in text
        assert (directory / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((directory / "study.json").read_text())
    assert record["answer"] == study.sentences
    assert record["recommended"] == study.recommended.name
    frame = study.to_pandas()
    assert list(frame["fix"]) == [t.fix.name for t in study.tried]


def test_the_same_call_resumes_with_the_same_answer(studied, capsys):
    study, _, directory, options = studied
    again = ff.overfitting_study(make_task, noisy_table(), **{**options, "progress": True})
    printed = capsys.readouterr().err.splitlines()
    assert printed[-1].startswith("Recommended: ")
    assert not [line for line in printed if " members" in line or "━" in line]  # progress leaves nothing but whole lines
    assert again.sentences == study.sentences
    np.testing.assert_array_equal([t.scores for t in again.tried], [t.scores for t in study.tried])
    with pytest.raises(ValueError, match="has a study with another epochs: use another directory"):
        ff.overfitting_study(make_task, noisy_table(), **{**options, "epochs": 61})
    with pytest.raises(ValueError, match="has a study with another data"):
        ff.overfitting_study(make_task, noisy_table(seed=1), **options)
    assert directory.is_dir()


def test_the_commands_show_it_and_find_its_page(studied, capsys):
    study, lines, directory, _ = studied
    assert main(["show", str(directory)]) == 0
    assert str(study).split("What to distrust")[0] in capsys.readouterr().out
    assert main(["report", str(directory)]) == 0
    assert "Which fix helps?" in Path(capsys.readouterr().out.strip()).read_text()
    assert main(["compare", str(directory), str(directory)]) == 2
    assert "is a study, which has compared its settings already" in capsys.readouterr().err
    assert (directory / "study.log").read_text().splitlines()[: len(lines)] == lines


def test_a_study_that_was_stopped_before_it_had_a_plan_goes_on(tmp_path):
    asked = {"epochs": 3}
    Recorded(tmp_path / "study", asked, lambda line: None)
    (tmp_path / "study" / "members").mkdir()
    again = Recorded(tmp_path / "study", asked, lambda line: None)
    assert not again.resumed
    again.keep(Plan(3, 32, 5, 1, 1, 10.0))
    assert Recorded(tmp_path / "study", asked, lambda line: None).plan == again.plan
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(FileExistsError, match="has other files"):
        Recorded(tmp_path / "other", asked, lambda line: None)


@pytest.mark.parametrize(
    ("low", "high", "margin", "verdict"),
    [
        (-0.3, -0.2, None, "helps"),
        (-0.3, -0.2, 0.1, "helps"),
        (-0.3, -0.2, 0.25, "helps, maybe less than the margin"),
        (-0.3, -0.2, 0.4, "no difference that matters"),
        (0.2, 0.3, None, "harms"),
        (0.2, 0.3, 0.25, "harms, maybe less than the margin"),
        (-0.1, 0.2, 0.1, "undecided"),
        (-0.1, 0.2, 0.3, "no difference that matters"),
    ],
)
def test_verdicts_by_interval_and_margin(low, high, margin, verdict):
    found = "better" if high < 0 else "worse" if low > 0 else "undecided"
    comparison: Any = SimpleNamespace(difference=Interval((low + high) / 2, low, high, 0.1, 10), verdict=found)
    anything: Any = None
    assert Scores(anything, anything, margin).judged(comparison) == verdict


def test_a_users_own_task_is_tried_with_what_it_can_express():
    random = np.random.default_rng(0)
    x = random.normal(size=(120, 3)).astype(np.float32)

    def mine(hp):
        return ff.Task(ff.nn.MLP((8,), 1, dropout=hp["dropout"]), ff.losses.mse, optax.adam(1e-2))

    study = ff.overfitting_study(mine, ff.Dataset(x, x[:, 0] + random.normal(size=120)), epochs=10, folds=2, budget="1s", margin=0.1)
    assert [t.fix.name for t in study.tried] == ["baseline", "early stopping", "dropout 0.35"]
    assert study.missing["L2 penalty"] == "add ff.penalties.l2(hp['l2']) in make_task(hp)"
    assert study.metric == "RMSE"
    assert "difference of 0.1 or less does not matter" in study.markdown()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "acuracy"}, "no metric 'acuracy'; did you mean 'accuracy'"),
        ({"budget": "soon"}, "a duration such as 90s, 2m or 1h30m, got 'soon'"),
        ({"test": 1.5}, "share of the examples to set aside"),
        ({"groups": [1, 2]}, "one value for each of 300 examples"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ff.overfitting_study(None, noisy_table(), run_dir=tmp_path / "study", **arguments)
    assert not (tmp_path / "study").exists()


def test_too_few_examples():
    with pytest.raises(ValueError, match="at least 50 examples are needed"):
        ff.overfitting_study(None, noisy_table(40))
    with pytest.raises(TypeError, match=r"overfitting_study\(make_task, data\)"):
        ff.overfitting_study(noisy_table(), noisy_table())  # pyright: ignore[reportArgumentType]


def test_a_column_that_is_the_target_is_named_and_left_out():
    table = noisy_table()
    frame = {name: cells.values for name, cells in table.cells.items()}
    answer = np.where(table.y == 1, "sold", "kept").astype(object)
    with pytest.warns(UserWarning, match="tells 'sold' exactly"):
        leaky = ff.data.Table({**frame, "answer": answer, "sold": table.y.astype(float)}, "sold")
    problem, warnings = problem_of(leaky, None, None, 0.2, 5, 0)
    assert warnings[0].startswith("the column 'answer' determines 'sold' exactly, and is left out. If it will be known")
    assert not any("answer" in name for name in problem.pooled().features)
