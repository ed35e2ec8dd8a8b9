"""The benchmark of training times: its peers train the same, its processes answer, and its tables say what the rounds say."""

from __future__ import annotations

import csv
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

SPEED = Path(__file__).parents[2] / "experiments" / "speed"
sys.path[:0] = [str(SPEED), str(SPEED / "peers")]  # as for the scripts that are run from there

import suite  # noqa: E402
import tables  # noqa: E402
from servers import FLAXFIT, PEERS, Failed, Server, interpreter, variables  # noqa: E402
from workloads import FIRST, TINY, WORKLOADS, growing  # noqa: E402

LAYERS = (("dense", 8, "relu"), ("dense", 1, None))
WORK = replace(TINY, layers=LAYERS, batch=40, epochs=40, rate=0.02, decay_steps=1_000, l2=(1e-4,))


@pytest.fixture
def arrays():
    """An easy problem of 170 examples: the last batch is a part of one."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(270, 4)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] > 0).astype(np.float32)
    return {"x": x[:170], "y": y[:170], "validation_x": x[170:], "validation_y": y[170:]}


def plain(work):
    """A workload as its peers get it."""
    return SimpleNamespace(**asdict(work), precision="float32", strategy="auto", rows=170)


@pytest.fixture
def fast_compilation():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.usefixtures("fast_compilation")
def test_flaxfit_and_the_programs_written_by_hand_train_the_same(arrays):
    import by_hand
    import with_flaxfit

    flaxfit = with_flaxfit.build(plain(WORK), arrays)(1, 40)
    scan, steps = (by_hand.build(plain(WORK), arrays, loop=loop)(1, 40) for loop in (False, True))
    assert scan.loss == pytest.approx(steps.loss, rel=1e-3)  # the same weights and batches
    assert flaxfit.loss == pytest.approx(scan.loss, abs=0.05)
    assert min(flaxfit.accuracy, scan.accuracy) > 0.9
    both = replace(WORK, members=2, l2=(1e-4, 1e-3))
    many, mapped = with_flaxfit.build(plain(both), arrays)(1, 40), by_hand.build(plain(both), arrays, members=True)(1, 40)
    assert many.runs == mapped.runs == 2
    assert mapped.loss == pytest.approx(many.loss, abs=0.05)


def test_a_round_of_folds_holds_out_other_folds_each_time():
    from serve import trainings

    folds = np.array([[0, 1, 2] * 3, [2, 1, 0] * 3])
    arrays = {"x": np.arange(9), "y": np.arange(9), "folds": folds}
    work = SimpleNamespace(folds=True, sample=2, members=6)
    held_out = [rows.validation_x.tolist() for seed in range(3) for rows in trainings(work, arrays, seed)]
    assert held_out == [[0, 3, 6], [1, 4, 7], [2, 5, 8], [2, 5, 8], [1, 4, 7], [0, 3, 6]]
    assert [len(rows.x) for rows in trainings(work, arrays, 0)] == [6, 6]


def test_a_process_answers_or_says_what_it_lacks(arrays, tmp_path):
    peer, log = PEERS["sklearn"], tmp_path / "log"
    np.savez(tmp_path / "arrays.npz", **arrays)
    work = vars(plain(replace(WORK, decay_steps=None, l2=(0.0,))))
    work["arrays"] = str(tmp_path / "arrays.npz")
    with Server(peer, interpreter(peer, tmp_path), variables(peer, "float32"), log) as server:
        assert {"numpy", "scikit-learn"} <= server.about["versions"].keys()
        with pytest.raises(Failed, match=r"^MLPClassifier lacks a learning rate that decays$"):
            server.ask(prepare={**work, "decay_steps": 100})
        first = server.ask(prepare=work)
        assert first["accuracy"] > 0.9
        assert 30 < first["memory"] < 2000
        assert server.ask(round=1, epochs=1)["accuracy"] < first["accuracy"]
        with pytest.raises(Failed, match=r"AttributeError: .* \(see .*log\)$"):
            server.ask(prepare={"arrays": work["arrays"]})
    with pytest.raises(Failed, match=r"No module named 'with_nothing' \(see .*log\)"):
        Server(replace(peer, module="with_nothing"), sys.executable, variables(peer, "float32"), log)


def test_an_environment_that_cannot_be_made_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    peer = replace(PEERS["torch"], environment="none", requirements=("no-such-package==1.0",))
    (tmp_path / "none" / "bin").mkdir(parents=True)
    (tmp_path / "none" / "bin" / "python").symlink_to(sys.executable)
    with pytest.raises(Failed, match=r"^pip could not install no-such-package==1\.0: "):
        interpreter(peer, tmp_path)


def answer(seconds, accuracy=0.8, runs=1, epochs=10, **more):
    return {"seconds": seconds, "accuracy": accuracy, "runs": runs, "epochs": epochs, "memory": 300.0, "device_memory": None} | more


@pytest.fixture
def record():
    """Three rounds of a workload of ten epochs, and three of a first epoch."""
    work = asdict(replace(TINY, epochs=10, tolerance=0.05))
    rounds = [
        {
            FLAXFIT: answer(1.0 * slow),
            "scan": answer(ratio * slow, 0.78),
            "torch": answer(4.0 * slow, 0.3, epochs=5),
            "products": answer(0.01),
        }
        for slow, ratio in ((1, 1.2), (2, 1.4), (5, 1.3))
    ]
    prepared = {FLAXFIT: answer(3.0), "scan": answer(3.0, 0.81), "torch": answer(9.0, 0.7)}
    usual = {"work": work, "rounds": rounds, "prepared": prepared, "operations": 2e10, "failed": {"sklearn": "it lacks elu"}}
    starts = [{name: answer(0.5 * slow, epochs=1, start=2.0) for name, slow in ((FLAXFIT, 2), ("scan", 1))} for _ in range(3)]
    first = {"work": asdict(FIRST[0]), "rounds": starts, "operations": None, "failed": {}}
    about = {"title": "flaxfit", "versions": {"jax": "0.10"}, "device": "cpu", "python": "3.11"}
    machine = {"processor": "a processor", "cores": 2, "system": "Linux", "load": 0.1, "started": "2026-01-02T03:04:05+00:00"}
    record = {"machine": machine, "command": ["--rounds", "3"], "precision": "float32", "peers": {FLAXFIT: about}}
    growth = [{**usual, "work": asdict(replace(work, epochs=10)), "failed": {}} for work in growing()[:3]]
    return record | {"skipped": {"fabric": "Lightning Fabric: pip failed"}, "workloads": [usual, first, *growth]}


def test_a_command_is_shown_without_the_directories_of_the_machine():
    words = ["--originals", "data", "--rounds", "3", "--peers", "scan", "torch", "--output", "there", "--quick"]
    assert suite.shown(words) == ["--rounds", "3", "--peers", "scan", "torch", "--quick"]
    assert suite.shown([]) == []


def test_ratios_are_those_of_a_round(record):
    found = tables.summaries(record["workloads"][0])
    assert [*found] == [FLAXFIT, "scan", "torch"]
    scan, torch = found["scan"], found["torch"]
    assert found[FLAXFIT].time == 200  # ms for each epoch, the median of 100, 200 and 500
    assert (scan.low, scan.ratio, scan.high) == pytest.approx((1.25, 1.3, 1.35))
    assert torch.ratio == pytest.approx(8)  # 4 s for half the epochs
    assert scan.accuracy == pytest.approx((0.81 + 3 * 0.78) / 4)
    assert scan.same
    assert torch.accuracy == 0.7  # of all epochs alone
    assert not torch.same
    assert found[FLAXFIT].share == pytest.approx(20 * 0.01 / 0.2)  # 20 billion operations at 100 a second take the whole 0.2 s


def test_the_tables(record, tmp_path):
    tables.write(record, tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert "| workload | flaxfit, ms per epoch | share of GEMM | hand-written scan | PyTorch |" in text
    assert f"| HIGGS tiny: 16 units | 200 | 1e+02% | 1.3 (1.25 to 1.35) | 8 (8 to 8) {tables.MARK} |" in text
    assert "| HIGGS tiny: 16 units, cold cache | 1 | 0.5 (0.5 to 0.5) |" in text
    assert "| HIGGS tiny: 16 units, cold cache | 2 | 2 |" in text  # from the start of the process
    assert "HIGGS tiny, rows" not in text
    for words in ("Lightning Fabric: pip failed", "scikit-learn: it lacks elu (HIGGS tiny: 16 units)", "100 GFLOP/s", "--rounds 3"):
        assert words in text
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert [(row["workload"], row["peer"]) for row in rows][:2] == [("higgs-tiny", FLAXFIT), ("higgs-tiny", "scan")]
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in ("ratios.png", "growth.png"))


def test_operations_of_the_products_of_an_epoch():
    arrays = {"x": np.empty((10, 3)), "y": np.empty(10), "validation_y": np.empty(4)}
    work = replace(TINY, layers=(("dense", 5, "relu"), ("dropout", 0.5), ("dense", 2, None)))
    assert work.operations(arrays) == 2 * 3 * 5 * (2 * 10 + 4) + 2 * 5 * 2 * (3 * 10 + 4)
    assert WORKLOADS[6].operations(arrays) is None


def test_workloads_are_chosen_by_name():
    assert {work.name for work in suite.chosen(suite.Config(workloads=("population", "sonar")))} == {
        "population-16",
        "population-128",
        "sonar",
    }
    assert len(suite.chosen(suite.Config())) == len(WORKLOADS) + len(FIRST)
    assert len(suite.chosen(suite.Config(growth=True))) == len(WORKLOADS) + len(FIRST) + len(growing())
    assert suite.chosen(suite.Config(quick=True))[0].epochs == TINY.epochs // 4
    with pytest.raises(SystemExit, match=r"^there is no workload higs: choose from higgs-tiny, sonar"):
        suite.chosen(suite.Config(workloads=("higs",)))
    with pytest.raises(SystemExit, match=r"^there is no peer keras-pytorch: choose from flaxfit, scan"):
        suite.chosen(suite.Config(peers=("keras-pytorch",)))
