"""Restores weights and whole models, after the Keras tutorial "Save and restore models", and sets the source's scores beside 20 runs.

A small network is trained on 1,000 images of MNIST, for 5 epochs as a whole model and for 10 as weights. Another process, without Flax and
without this script, restores an untrained model with weights from files, and the whole models. It takes a minute on 2 cores. The same
command resumes what was stopped.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from claims import single, within
from drawing import band
from pages import Page
from thousand_images import WithImages, images, initial, make_task

import flaxfit as ff
from flaxfit.cli import script
from flaxfit.report.statistics import interval


@dataclass(frozen=True)
class Config(WithImages):
    """Options."""

    first_seed: int = 7_550
    """The first of the seeds. The others follow it."""
    epochs: tuple[int, int] = (5, 10)
    """How many epochs to train the whole models, and those of which only weights are saved."""
    run_dir: Path = Path("runs/save_and_restore")
    """The directory for runs, weights, models and the page of results."""


SCORES = {  # which runs -> metric, the source's number, half the width of a range that is too wide to fail
    "untrained": {"accuracy": (0.083, 0.013), "loss": (2.4276, 0.24276)},
    "whole model": {"accuracy": (0.842, 0.013), "loss": (None, None)},
    "weights": {"accuracy": (0.868, 0.013), "loss": (0.3528, 0.03528)},
}
RESTORE = """
import json, sys
from pathlib import Path
import numpy as np
import flaxfit as ff

home, logits = Path(sys.argv[1]), {}
fresh = ff.load(home / "fresh")
x = np.load(home / "x.npy")
for place in sorted(home.glob("seed=*")):
    forms = {"directory": ff.load(place / "whole"), "file": ff.load(place / "whole.flaxfit")}
    forms |= {file.stem: fresh.with_weights(file) for file in place.glob("*.safetensors")}
    logits |= {f"{form}, {place.name}": model.predict(x) for form, model in forms.items()}
np.savez(home / "logits.npz", **logits)
print(json.dumps({"flax": "flax" in sys.modules, "summary": forms["file"].summary()}))
"""
FORMS = {"directory": "a whole model, from a directory", "file": "a whole model, from a single file"}
FORMS |= {"weights": "weights that a callback saved", "by_hand": "weights that were saved by hand"}
ABOUT = """784-512-10 with ReLU and dropout 0.2, trained by Adam (epsilon 1e-7) on the first 1,000 training images in batches of 32, and
    scored on the first 1,000 test images after the last epoch, as in the source: for 5 epochs as a whole model, for 10 as weights. A number
    of the source is *within the range of a further run* if it lies where one further run is likely to be: all five do with 95% where the
    source is right. A range that is wider than half the distance between the source's two accuracies, ± 0.013, or than ± 10% of a loss,
    could hardly fail: a number inside is then undecided. Models are restored in a process that imports neither flax nor the script. A whole
    model has no state of the optimizer; checkpoints, from which training goes on, have it. (Keras saves each epoch by default,
    `save_best_only=False`; `flaxfit.callbacks.SaveWeights` only the best.)"""


def main(config: Config) -> None:
    (train, test, _), task = images(config), make_task(config)
    with Page("Saving and restoring", config.run_dir, f"{config.data}: {ABOUT}") as page:
        studies = {}
        for kind, epochs in zip([*SCORES][1:], config.epochs, strict=True):
            how: dict[str, Any] = {"validation": test, "batch_size": 32, "seeds": config.every_seed, "epochs": epochs, "progress": kind}
            if kind == "weights":
                how["callbacks"] = lambda member: [ff.callbacks.SaveWeights("weights", every_epochs=config.epochs[1], best_only=False)]
            where = config.run_dir / f"{kind}, {epochs} epochs, from seed {config.first_seed}"
            studies[kind] = ff.fit_many(task, None, train, run_dir=where, **how)
        scores(config, page, task, test, studies)
        restored(config, page, task, test, studies)
        resumed(config, page, task, train, test, studies["weights"])


def scores(config: Config, page: Page, task: ff.Task, test: ff.Dataset, studies: dict[str, Any]) -> None:
    fresh = [ff.evaluate(task, initial(task, test.x, seed), test) for seed in config.every_seed]
    found = {"untrained": {name: np.array([each[name] for each in fresh]) for name in ("accuracy", "loss")}}
    found |= {kind: {name: study.scores(f"val_{name}", "last") for name in ("accuracy", "loss")} for kind, study in studies.items()}
    trained = {"untrained": "untrained"} | {kind: f"{kind}, {n} epochs" for kind, n in zip([*SCORES][1:], config.epochs, strict=True)}
    rows = [(trained[kind], *(cell for n in each for cell in (SCORES[kind][n][0], interval(each[n])))) for kind, each in found.items()]
    page.table("On 1,000 test images", ("model", "accuracy, source", "accuracy", "loss, source", "loss"), rows)
    for kind, numbers in SCORES.items():
        for name, (value, widest) in numbers.items():
            if value is not None and config.data == "mnist":
                found_is = single(found[kind][name], value, widest, 5, 1e-4)
                page.claim("source", f"{trained[kind]}: the source's {name}, {value:g}, is within the range of a further run", *found_is)
    figure, axes = ff.plots.panels(2)
    for ax, (name, label) in zip(axes, {"accuracy": "test accuracy", "loss": "test loss (nats a row)"}.items(), strict=True):
        runs = np.transpose([result.history[f"val_{name}"] for result in studies["weights"].results])[1:]  # of the second epoch and on
        ax.plot(range(2, len(runs) + 2), runs, color=ff.plots.PALETTE[0], linewidth=0.6, alpha=0.3)
        band(ax, range(2, len(runs) + 2), runs, "mean", 0)
        for epoch, kind in zip(config.epochs, [*SCORES][1:], strict=True):
            if SCORES[kind][name][0] is not None:
                ax.plot(epoch, SCORES[kind][name][0], "kx", markersize=9)
        ax.set(xlabel="epoch", ylabel=label)
    page.plot("runs", figure, "Runs from the second epoch on, and their mean with its 95% interval; crosses: the source's two runs")
    chance = interval(found["untrained"]["accuracy"])
    page.claim("ours", "an untrained model scores by chance: the mean accuracy is 0.1 ± 0.03", within(chance, 0.07, 0.13), chance)


def resumed(config: Config, page: Page, task: ff.Task, train: ff.Dataset, test: ff.Dataset, study: ff.Study) -> None:
    (half, whole), home = config.epochs, config.run_dir / "resumed"
    shutil.rmtree(home, ignore_errors=True)
    for epochs in (half, whole):
        how: dict[str, Any] = {"epochs": epochs, "validation": test, "batch_size": 32, "seed": config.first_seed}
        again = ff.fit(task, train, run_dir=home, **how)
    statistic = f"stopped after epoch {half} of {whole}: every metric of every epoch compared bit by bit"
    page.claim("source", "training goes on from what was saved", again.history == study.results[0].history, statistic)


def restored(config: Config, page: Page, task: ff.Task, test: ff.Dataset, studies: dict[str, Any]) -> None:
    home = config.run_dir / "models"
    shutil.rmtree(home, ignore_errors=True)
    whole, weights = studies.values()
    for member, five, ten in zip(whole.members, whole.results, weights.results, strict=True):
        place = home / member.name
        ff.export(place / "whole", task, five.last, test[:1], about={"epoch": config.epochs[0]})
        ff.pack(place / "whole", place / "whole.flaxfit")
        ff.save_weights(place / "by_hand.safetensors", ten.last)
        shutil.copy(weights.directory.member(member.name).path / "weights" / "weights.safetensors", place)
    ff.export(home / "fresh", task, initial(task, test.x, config.first_seed), test[:1])
    np.save(home / "x.npy", test.x)
    command = [sys.executable, "-c", RESTORE, str(home)]
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    with np.load(home / "logits.npz") as logits:
        for form, name in FORMS.items():
            study = whole if form in ("directory", "file") else weights
            pairs = zip(study.members, study.predict(test.x, "last"), strict=True)
            apart = max(np.abs(logits[f"{form}, {member.name}"] - own).max() for member, own in pairs)
            claim = f"{name}: the outputs are those of the trained model, without training"
            page.claim("source", claim, bool(apart < 1e-5), f"largest difference of a logit, over {len(study)} models: {apart:.1g}")
    page.claim("source", "it needs none of the code that made it", not report["flax"], "neither flax nor the script was imported")
    page.text(f"What the restored model prints as its `summary()`:\n\n```text\n{report['summary']}\n```")


if __name__ == "__main__":
    script(main, Config, __doc__)
