"""Takes trained weights elsewhere: to Keras and from it, as HDF5, and to another network.

HDF5 needs Keras and h5py; without them that part is left out. It takes half a minute on 2 cores. The same command resumes what was stopped.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from options import if_installed
from pages import Page
from thousand_images import WithImages, images, initial, make_task

import flaxfit as ff
from flaxfit.cli import script
from flaxfit.report.statistics import compare, interval


@dataclass(frozen=True)
class Config(WithImages):
    """Options."""

    first_seed: int = 4_100
    """The first of the seeds. The others follow it."""
    epochs: int = 10
    """How many epochs to train each run."""
    run_dir: Path = Path("runs/share_weights")
    """The directory for runs, weights and the page of results."""


LAYERS = {"Dense_0": "dense", "Dense_1": "dense_1"}  # of flaxfit -> of Keras
PLACES = {f"layers/{theirs}/vars/{i}": (ours, name) for ours, theirs in LAYERS.items() for i, name in enumerate(("kernel", "bias"))}
ABOUT = """784-512-10 with ReLU and dropout 0.2, trained by Adam on 1,000 images. HDF5: Keras reads files `.weights.h5`, in which the
    first kernel is at `layers/dense/vars/0`; h5py writes it there. Transfer: the first layer of a trained net becomes that of a
    net that says whether a digit is odd, which is trained for as many epochs on 100 other images, and set beside one from fresh weights."""


def main(config: Config) -> None:
    (train, test, few), task = images(config), make_task(config)
    with Page(
        "Weights in another program and in another network", config.run_dir, f"{config.data}, {config.epochs} epochs: {ABOUT}"
    ) as page:
        how: dict[str, Any] = {"seeds": config.every_seed, "epochs": config.epochs, "batch_size": 32, "progress": "runs"}
        where = config.run_dir / f"{config.epochs} epochs, from seed {config.first_seed}"
        study = ff.fit_many(task, None, train, run_dir=where, **how)
        with_keras(config, page, task, test, study)
        transferred(config, page, few, test, study)


def with_keras(config: Config, page: Page, task: ff.Task, test: ff.Dataset, study: ff.Study) -> None:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras, h5py = if_installed("keras"), if_installed("h5py")
    if not (keras and h5py):
        page.text("Keras or h5py was not installed, so HDF5 was left out.")
        return
    scaled = np.asarray(task.prepared(test.x)).reshape(len(test), -1)
    layers = [keras.layers.Input(scaled.shape[1:]), keras.layers.Dense(512, "relu"), keras.layers.Dropout(0.2), keras.layers.Dense(10)]
    model, file, apart = keras.Sequential(layers), config.run_dir / "model.weights.h5", {"to": [], "from": []}
    for result in study.results:
        with h5py.File(file, "w") as content:
            for place, (layer, name) in PLACES.items():
                content[place] = np.asarray(result.last.params[layer][name])
        model.load_weights(file)
        ours = ff.predict(task, result.last, test.x)
        apart["to"].append(np.abs(model.predict(scaled, verbose=0) - ours).max())

        model.save_weights(file)
        params: dict[str, Any] = {layer: {} for layer in LAYERS}
        with h5py.File(file) as content:
            for place, (layer, name) in PLACES.items():
                params[layer][name] = content[place][()]
        fresh = initial(task, test.x, 0)
        loaded = replace(fresh, params=ff.transfer(params, fresh.params)[0])
        apart["from"].append(np.abs(ff.predict(task, loaded, test.x) - ours).max())
    claims = {
        "to": "HDF5: Keras loads weights of flaxfit and computes the same",
        "from": "HDF5: flaxfit loads what Keras saved and computes the same",
    }
    for way, claim in claims.items():
        words = f"largest difference of a logit, over {len(study)} models: {max(apart[way]):.1g}; Keras {keras.__version__}"
        page.claim("source", claim, bool(max(apart[way]) < 1e-4), words)


def transferred(config: Config, page: Page, few: ff.Dataset, test: ff.Dataset, study: ff.Study) -> None:
    odd, scored = (ff.Dataset(part.x, part.y % 2) for part in (few, test))
    task, pairs, left = make_task(config, outputs=1), [], {}
    for member, result in zip(study.members, study.results, strict=True):
        fresh = initial(task, odd.x, member.seed)
        params, left = ff.transfer(result.last.params, fresh.params)
        how: dict[str, Any] = {"seed": member.seed, "epochs": config.epochs}
        runs = [ff.fit(task, odd, initial=start, **how).last for start in (fresh, replace(fresh, params=params))]
        pairs.append([ff.evaluate(task, run, scored)["accuracy"] for run in runs])
    names = ("fresh weights", "transferred weights")
    rows = list(zip(names, map(interval, np.transpose(pairs)), strict=True))
    page.table("Is the digit odd? Accuracy on 1,000 test images after training on 100", ("from", "accuracy"), rows)
    pair = compare(*np.transpose(pairs), larger_is_better=True, names=names)
    page.claim("source", "weights help another model: odd digits, trained on 100 images", pair)
    page.text(f"Left out of the transfer: {'; '.join(f'{path}: {why}' for path, why in left.items())}.")


if __name__ == "__main__":
    script(main, Config, __doc__)
