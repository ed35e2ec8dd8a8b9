"""Shows on 300 images of MNIST what an ensemble of five networks gains, and how far dropout is an ensemble in one network.

The ensembles are of the source's network, trained by SGD for 601 updates, and of the same network trained by Adam to the end, which is
compared with single networks with dropout. Networks with dropout are tested with masks drawn, too. It takes 3 minutes on 2 cores. The same
command resumes what was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from claims import within
from drawing import band
from few_images import BATCH, ROWS, by_adam, by_sgd, deep
from options import WithOriginals, WithSeeds
from pages import Page

import flaxfit as ff
from flaxfit.cli import script
from flaxfit.report.statistics import compare, interval


@dataclass(frozen=True)
class Config(WithOriginals, WithSeeds):
    """Options."""

    first_seed: int = 3_400
    """The first of the seeds. The others follow it."""
    ensembles: int = 20
    """How many ensembles of five networks. No network is in two of them."""
    epochs: int = 201
    """How many epochs of 3 steps to train each run."""
    masks: int = 20
    """How many random dropout masks are averaged."""
    test: int = 10_000
    """How many of the 10,000 test images to use."""
    run_dir: Path = Path("runs/mnist_ensembles")
    """The directory for runs, plots and the page of results."""


MEMBERS, MARGIN, SHOWN = 5, 1.0, (1, 2, 5, 10, 20)
DROPOUTS = {
    "SGD, classic dropout 0.2 in all layers": {"way": "SGD", "rate": 0.2, "places": "all layers", "classic": True},
    "Adam, dropout 0.2 in all layers": {"way": "Adam", "rate": 0.2, "places": "all layers", "classic": False},
    "Adam, dropout 0.5 in one layer": {"way": "Adam", "rate": 0.5, "places": "one layer", "classic": False},
}
ABOUT = """784-(100 x 6)-10 networks with ReLU and He initialization, trained on the first 300 images of MNIST in batches of 100 drawn with
    replacement, and tested on its 10,000 test images: the source's by SGD with learning rate 0.01, and by Adam with learning rate 0.001,
    which brings networks with dropout to the end of their training, too. Ensembles average the probabilities of five networks from seeds
    of their own. *Thinned* networks have a dropout mask drawn while they are tested. The margin is 1 point: runs of one network differ by
    about as much, and an ensemble gains several times that."""


def make_task(hp):
    model = deep(rate=hp.get("rate", 0.0), places=hp.get("places", "all layers"), classic=hp.get("classic", False))
    return by_sgd(model) if hp["way"] == "SGD" else by_adam(model)


def main(config: Config) -> None:
    splits = ff.data.load("mnist", originals=config.originals, test=config.test)
    train, test = splits.train[:ROWS], splits.test
    with Page("Ensembles, and dropout as one, MNIST from 300 images", config.run_dir, ABOUT) as page:
        joined = ensembles(config, page, train, test)
        dropout = thinned(config, page, train, test, joined)
        for name, scores in dropout.items():
            pair = compare(joined[DROPOUTS[name]["way"]], scores, larger_is_better=True, method="unpaired", margin=MARGIN)
            claim = f"dropout is worth an ensemble: one net ({name}) scores as five plain nets together do (within 1 point)"
            page.claim("source", claim, pair, f"{pair.difference} points, equivalence p {pair.p_equivalent:.2g}", wanted="equivalent")


def trained(config: Config, name: str, setting: dict[str, Any], train: ff.Dataset, seeds: range) -> ff.Study:
    how: dict[str, Any] = {"epochs": config.epochs, "batch_size": BATCH, "replacement": True, "seeds": seeds}
    return ff.fit_many(make_task, [setting], train, run_dir=config.run_dir / name, progress=name, **how)


def ensembles(config: Config, page: Page, train: ff.Dataset, test: ff.Dataset) -> dict[str, np.ndarray]:
    """Returns the test accuracies of ensembles in percent, shape (ensembles,), by how their members were trained."""
    found, rows = {}, []
    seeds = range(config.first_seed + config.seeds, config.first_seed + config.seeds + MEMBERS * config.ensembles)
    for way in ("SGD", "Adam"):
        study = trained(config, f"{way}, plain", {"way": way}, train, seeds)
        pairs = [(member.task, result.last) for member, result in zip(study.members, study.results, strict=True)]
        alone, together = 100 * study.evaluate(test, "last")["accuracy"].reshape(-1, MEMBERS), []
        for start in range(0, len(pairs), MEMBERS):
            joined = ff.ensemble(pairs[start : start + MEMBERS])
            together.append(100 * ff.evaluate(joined.task, joined.state, test)["accuracy"])
        found[way], gain = np.array(together), interval(together - alone.mean(1))
        rows.append((way, interval(alone.mean(1)), interval(alone.max(1)), interval(together), gain))
        claim = f"{way}: an ensemble of five nets gains some percent (1 to 10 points) over its members"
        page.claim("source", claim, within(gain, 1, 10), f"gain {gain} points")
        pair = compare(alone.max(1), found[way], larger_is_better=True)
        text = f"{pair.difference} points, p {pair.p_value:.2g}"
        page.claim("ours", f"{way}: the ensemble is better than the best of its five nets", pair, text)
    columns = ("trained by", "mean of five nets, %", "best of five, %", "ensemble, %", "gain over the mean, points")
    page.table(f"{config.ensembles} ensembles of five plain nets: test accuracy", columns, rows)
    return found


def thinned(config: Config, page: Page, train: ff.Dataset, test: ff.Dataset, joined: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the test accuracies of nets with dropout, tested as usual, in percent, shape (seeds,)."""
    import jax

    rows, found, counts = [], {}, [count for count in SHOWN if count <= config.masks]
    figure, axes = ff.plots.panels(3, size=(11, 4.2))
    for ax, (name, setting) in zip(axes, DROPOUTS.items(), strict=True):
        study, scores = trained(config, name, setting, train, config.every_seed), []
        task = study.members[0].task

        @jax.jit
        def probabilities(params, x, keys, task=task):
            """Of nets with a mask drawn, shape (masks, rows, classes)."""
            return jax.lax.map(lambda key: jax.nn.softmax(task.apply(params, {}, task.prepared(x), {"dropout": key})[0]), keys)

        for member, result in zip(study.members, study.results, strict=True):
            drawn = np.asarray(probabilities(result.last.params, test.x, jax.random.split(jax.random.key(member.seed), config.masks)))
            scores.append([100 * float(np.mean(drawn[:count].mean(0).argmax(-1) == test.y)) for count in counts])
        found[name], means = 100 * study.evaluate(test, "last")["accuracy"], np.array(scores).T
        one, many, plain = means[0], means[-1], joined[setting["way"]]
        rows.append((name, interval(one), interval(many), interval(found[name]), interval(plain)))
        pair = compare(one, found[name], larger_is_better=True)
        text = f"{pair.difference} points, p {pair.p_value:.2g}"
        page.claim("source", f"{name}: with dropout off, the net is better than one thinned net", pair, text)
        pair = compare(many, found[name], larger_is_better=True, margin=MARGIN)
        claim = f"{name}: dropout is an implicit ensemble: off, the net scores as {counts[-1]} thinned nets together do (within 1 point)"
        page.claim("source", claim, pair, f"{pair.difference} points, equivalence p {pair.p_equivalent:.2g}", wanted="equivalent")
        band(ax, counts, means, "thinned nets, averaged", 0)
        band(ax, counts, np.broadcast_to(found[name], means.shape), "dropout off", 1)
        band(ax, counts, np.broadcast_to(plain, (len(counts), len(plain))), "five plain nets, averaged", 2, "--")
        ax.set(xscale="log", xlabel="masks drawn", title=name.replace("dropout ", "dropout\n"), xticks=counts, xticklabels=counts)
        ax.minorticks_off()
    axes[0].set_ylabel("test accuracy (%)")
    axes[-1].legend(frameon=False, loc="lower right")
    page.plot(
        "masks",
        figure,
        "Test accuracy of networks with dropout: masks drawn and averaged, or off; means with 95% intervals. Each panel has its own scale",
    )
    columns = ("nets with dropout", "one thinned net, %", f"{counts[-1]} thinned nets, averaged, %", "dropout off, %", "five plain nets, %")
    page.table("Nets with dropout: test accuracy", columns, rows)
    return found


if __name__ == "__main__":
    script(main, Config, __doc__)
