"""Saves and restores weights, whole models, and weights for another model, after the Keras tutorial "Save and restore models".

Trains a small network on 1,000 images of MNIST and validates on 1,000. It writes the weights of each epoch that is the best so far, and
exports the whole model. Another process, without Flax and without this script, evaluates an untrained model, the same model after loading
the weights, and the whole model from a directory and from a single file. Expect accuracies of 10% and about 87%, and 20 seconds on 2
cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from claims import holds, prediction
from options import WithOriginals
from pages import Page

import flaxfit as ff
from flaxfit.cli import script


@dataclass(frozen=True)
class Config(WithOriginals):
    """Options."""

    data: Literal["mnist", "digits"] = "mnist"
    """MNIST, or the small digits of scikit-learn (1,000 to train, 797 to validate), which need no network."""
    seeds: int = 5
    """How many runs, with the seeds 0, 1, ... A seed decides the initial weights, the batches and dropout."""
    epochs: int = 10
    """How many epochs to train each run."""
    run_dir: Path = Path("runs/save_and_restore")
    """The directory for runs, weights, models and the page of results."""


NAMES = "{epoch:02d}-{val_loss:.5f}"
SOURCE = {"fresh": 0.083, "weights": 0.868, "directory": 0.842}  # accuracies; the last is of another run of the same net
WAYS = {  # what to save when, of runs of --epochs
    "weights of each epoch": lambda: [ff.callbacks.SaveWeights(NAMES, best_only=False, verbose=True)],
    "weights of the best by val_accuracy, mode max": lambda: [
        ff.callbacks.SaveWeights(NAMES, monitor="val_accuracy", mode="max", verbose=True)
    ],
    "weights of each fifth epoch, and all that training needs": lambda: [
        ff.callbacks.SaveWeights(NAMES, every_epochs=5, best_only=False, verbose=True),
        ff.callbacks.Checkpoint(every_epochs=5, keep=None),
    ],
}
RESTORE = """
import json, sys
from pathlib import Path
import numpy as np
import flaxfit as ff

home, scores, logits = Path(sys.argv[1]), {}, {}
with np.load(home / "validation.npz") as arrays:
    validation = ff.Dataset(**arrays)
for models in sorted((home / "models").iterdir()):
    (weights,) = models.glob("*.safetensors")
    fresh = ff.load(models / "fresh")
    forms = {"fresh": fresh, "weights": fresh.with_weights(weights), "directory": ff.load(models / "trained")}
    forms["file"] = ff.load(models / "trained.flaxfit")
    scores[models.name] = {form: model.evaluate(validation)["accuracy"] for form, model in forms.items()}
    logits |= {f"{models.name},{form}": model.predict(validation.x) for form, model in forms.items()}
np.savez(home / "logits.npz", **logits)
print(json.dumps({"scores": scores, "flax": "flax" in sys.modules}))
"""
ABOUT = """784-512-10 with ReLU and dropout 0.2, trained by Adam on 1,000 images in batches of 32. Another process, which imports
    neither flax nor the script, evaluates an untrained model, the same model with the weights of the best epoch, and the whole model.
    As in the source, the examples that choose the epoch are also those that are evaluated; Adam's epsilon is that of optax, 1e-8. An
    exported model has structure, weights, loss and metrics. The last state of training, with that of the optimizer, is in the run
    directory, from which the same command resumes. Numbers are means with 95% intervals over seeds."""


def main(config: Config) -> None:
    import json
    import shutil
    import subprocess
    import sys
    from dataclasses import replace

    import jax
    import optax

    if config.data == "mnist":
        splits = ff.data.load("mnist", originals=config.originals)
    else:
        splits = ff.data.load("digits", train=1_200, test=597, seed=0)
    train, validation, more = splits.train[:1_000], splits.test[:1_000], splits.train[1_000:1_100]

    def make(loss: Any, accuracy: Any, outputs: int) -> ff.Task:
        model = ff.nn.MLP((512,), outputs, dropout=0.2)
        scale = ff.data.rescale(255 if config.data == "mnist" else 16)
        return ff.Task(model, loss, optax.adam(1e-3), metrics={"accuracy": accuracy}, preprocess=scale)

    task = make(ff.losses.categorical_crossentropy, ff.metrics.categorical_accuracy, 10)
    options: dict[str, Any] = {"validation": validation, "batch_size": 32}
    with Page("Saving and restoring", config.run_dir, f"{config.data}: {ABOUT}") as page:
        runs = config.run_dir / "runs"
        how: dict[str, Any] = {"run_dir": runs, "progress": "seeds", "callbacks": lambda member: [ff.callbacks.SaveWeights(NAMES)]}
        study = ff.fit_many(task, None, train, epochs=config.epochs, seeds=config.seeds, **how, **options)
        np.savez(config.run_dir / "validation.npz", x=validation.x, y=validation.y)
        for old in ("models", "stopped"):
            shutil.rmtree(config.run_dir / old, ignore_errors=True)
        for member, result in zip(study.members, study.results, strict=True):
            models = config.run_dir / "models" / member.name
            ff.export(models / "fresh", task, task.init(jax.random.key(member.seed), train.x[:1]), train)
            ff.export(models / "trained", task, result.best, train, about={"epoch": result.best_epoch})
            ff.pack(models / "trained", models / "trained.flaxfit")
            weights = runs / "members" / member.name / "weights"
            (newest,) = weights.glob(f"{result.best_epoch:02d}-*.safetensors")
            shutil.copy(newest, models)
            print(f"{member.name}: {newest.name}, the best of {len([*weights.iterdir()])} that were written")

        command = [sys.executable, "-c", RESTORE, str(config.run_dir)]
        report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        scores = {
            form: [report["scores"][member.name][form] for member in study.members] for form in ("fresh", "weights", "directory", "file")
        }
        scores["trained"] = [*study.evaluate(validation)["accuracy"]]
        names = {"fresh": "untrained", "weights": "after loading the weights", "directory": "whole model, a directory"}
        names |= {"file": "whole model, a single file", "trained": "in the process that trained"}
        rows = [(names[form], ff.statistics.interval(found), SOURCE.get(form)) for form, found in scores.items()]
        page.table("Validation accuracy in another process", ("model", "accuracy", "source"), rows)
        for form, value in SOURCE.items() if config.data == "mnist" else ():
            single = prediction(scores[form])
            statistic = f"of a single run, 95%: {single.low:.3f} to {single.high:.3f}"
            page.claim("source", f"{names[form]}: the source's {value} is an accuracy that a run has", holds(single, value), statistic)
        by_chance = ff.statistics.interval(scores["fresh"])
        page.claim("source", "an untrained model scores by chance", holds(by_chance, 0.1), f"accuracy {by_chance}, chance 0.1")
        outputs = study.predict(validation.x)
        with np.load(config.run_dir / "logits.npz") as logits:
            for form in ("weights", "directory", "file"):
                apart = max(np.abs(logits[f"{m.name},{form}"] - mine).max() for m, mine in zip(study.members, outputs, strict=True))
                wrong = np.abs(np.subtract(scores[form], scores["trained"])).max()
                statistic = f"largest difference of a logit {apart:.1g}, of an accuracy {wrong:.1g}"
                page.claim(
                    "source", f"{names[form]}: scores as what was trained, without training", bool(max(apart, wrong) < 1e-5), statistic
                )
        page.claim("source", "it needs none of the code that made it", not report["flax"], "flax and the script were not imported")

        rows = []
        for index, (way, callbacks) in enumerate(WAYS.items()):
            where = config.run_dir / "stopped" / f"way {index}"
            ff.fit(task, train, epochs=config.epochs, run_dir=where, callbacks=callbacks(), **options)
            files, saved = sorted(path.stem for path in (where / "weights").iterdir()), len([*(where / "checkpoints").glob("[0-9]*")])
            rows.append((way, f"{len(files)}: {files[0]} to {files[-1]}", saved))
        page.table("Checkpoints while training, seed 0", ("saved", "files of weights: epoch-val_loss", "checkpoints that are left"), rows)

        for epochs in (max(1, config.epochs // 2), config.epochs):
            again = ff.fit(task, train, epochs=epochs, seed=study.members[0].seed, run_dir=config.run_dir / "stopped" / "twice", **options)
        statistic = f"stopped after epoch {max(1, config.epochs // 2)} of {config.epochs}: every metric of every epoch compared bit by bit"
        page.claim("source", "training goes on from what was saved", again.history == study.results[0].history, statistic)

        pairs = []  # is the digit odd? Another head, 100 other rows
        odd = {"x": more.x, "y": more.y % 2}, {"x": validation.x, "y": validation.y % 2}
        few, scored = (ff.Dataset(**rows) for rows in odd)
        other = make(ff.losses.binary_crossentropy, ff.metrics.binary_accuracy, 1)
        for member in study.members:
            state = other.init(jax.random.key(member.seed), few.x[:1])
            params, left = ff.transfer(config.run_dir / "models" / member.name / "trained", state.params)
            starts = state, replace(state, params=params)
            pairs.append([ff.fit(other, few, initial=start, seed=member.seed, epochs=config.epochs).last for start in starts])
        fresh, moved = ([ff.evaluate(other, pair[i], scored)["accuracy"] for pair in pairs] for i in (0, 1))
        decided = ff.statistics.compare(fresh, moved, larger_is_better=True, names=("a fresh net", "one with transferred weights"))
        page.text(f"Left out of the transfer to a net of one output: {'; '.join(f'{path}: {why}' for path, why in left.items())}.")
        page.claim("source", "weights help another model: odd digits, 100 rows", decided)
    print(f"Everything is in {config.run_dir}; the model of seed 0: flaxfit.load('{config.run_dir}/models/seed=0/trained.flaxfit')")


if __name__ == "__main__":
    script(main, Config, __doc__)
