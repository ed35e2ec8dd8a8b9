from __future__ import annotations

import optax
import optuna
import pytest

import flaxfit as ff

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def make_task(hp):
    return ff.Task(ff.nn.MLP((8,), 1), ff.losses.binary_crossentropy, optax.adam(hp["rate"]))


def space(trial):
    return {"rate": trial.suggest_float("rate", 1e-5, 1e-1, log=True)}


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def opened(path, **options):
    sampler = optuna.samplers.TPESampler(seed=0)
    return optuna.create_study(study_name="s", storage=f"sqlite:///{path}", load_if_exists=True, sampler=sampler, **options)


def test_optuna_asks_prunes_and_is_told_what_fit_gives(table, tmp_path):
    train, validation = table
    pruner = optuna.pruners.MedianPruner(n_startup_trials=2)
    study = opened(tmp_path / "o.db", pruner=pruner)
    options = {"validation": validation, "seeds": 2, "epochs": [2, 6], "batch": 4, "run_dir": tmp_path / "runs"}
    ff.optimize(study, make_task, space, train, trials=8, **options)
    states = [trial.state.name for trial in study.trials]
    assert len(states) == 8
    assert set(states) == {"COMPLETE", "PRUNED"}
    best = study.best_trial
    assert sorted(best.intermediate_values) == [2, 6]
    fits = [ff.fit(make_task(best.params), train, validation=validation, epochs=6, seed=seed) for seed in (0, 1)]
    mean = sum(r.history["val_loss"].min() for r in fits) / 2
    assert best.value == pytest.approx(mean, rel=1e-4)
    pruned = next(trial for trial in study.trials if trial.state.name == "PRUNED")
    assert sorted(pruned.intermediate_values) == [2]


def test_trials_that_a_dead_process_left_go_on(table, tmp_path):
    train, validation = table
    study = opened(tmp_path / "o.db")
    left = study.ask()
    rate = space(left)["rate"]
    options = {"validation": validation, "epochs": 2, "batch": 2, "run_dir": tmp_path / "runs"}
    ff.optimize(opened(tmp_path / "o.db"), make_task, space, train, trials=3, **options)
    trials = opened(tmp_path / "o.db").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert trials[0].params["rate"] == rate
    ff.optimize(opened(tmp_path / "o.db"), make_task, space, train, trials=3, **options)
    assert len(opened(tmp_path / "o.db").trials) == 3


def test_a_direction_against_the_metric_and_epochs_that_fall(table):
    train, validation = table
    with pytest.raises(ValueError, match="must not maximize val_binary_crossentropy"):
        ff.optimize(optuna.create_study(direction="maximize"), make_task, space, train, trials=1, validation=validation)
    with pytest.raises(ValueError, match="must increase"):
        ff.optimize(optuna.create_study(), make_task, space, train, trials=1, epochs=[4, 2])


def test_what_diverges_never_wins(table):
    train, validation = table
    how = {"validation": validation, "epochs": 2}
    study = optuna.create_study()
    with pytest.warns(RuntimeWarning, match="ended on a value that is not finite"):
        ff.optimize(study, make_task, lambda trial: {"rate": trial.suggest_float("rate", 1e29, 1e30)}, train, trials=2, **how)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL"]
    with pytest.warns(RuntimeWarning, match="not finite"), pytest.raises(ValueError, match="in round 1 each value of rate has a run"):
        ff.narrow(make_task, "rate", (1e29, 1e30), train, **how)
