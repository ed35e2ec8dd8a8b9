"""Shows on film reviews what L1, L2 and dropout do to overfitting and to the weights.

Trains a 128-128-1 network on 25,000 IMDB reviews with "100 words" in Keras's layout: plain, with L1, with L2, and with dropout. Trains a
16-16-1 network with "10,000 words": plain, with L2, with dropout, and with words left out at random (an augmentation). Tests on 25,000
reviews. It takes 11 minutes on 2 cores. The same command resumes what was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from claims import within
from drawing import histogram
from options import WithOriginals, WithSeeds
from pages import Page
from reviews import alive, curves, kernels, load, make_task, measures

import flaxfit as ff
from flaxfit.cli import script
from flaxfit.report.statistics import compare, interval


@dataclass(frozen=True)
class Config(WithOriginals, WithSeeds):
    """Options."""

    first_seed: int = 7_100
    """The first of the seeds. The others follow it."""
    epochs: int = 20
    """How many epochs to train each run."""
    vocabulary: int = 10_000
    """How many columns the reviews of the larger vocabulary have."""
    rows: int = 25_000
    """How many reviews to train on, and how many to test on."""
    run_dir: Path = Path("runs/imdb_regularizers")
    """The directory for runs, tables and plots."""


NARROW, WIDE, SMALL, FEW, SAME, TOP = "16-16", "128-128", 1e-3, 10, 0.01, 0.01
NETS = {WIDE: ("plain", "L2 0.001", "dropout 0.3", "L1 0.001"), NARROW: ("plain", "L2 0.001", "dropout 0.5", "word dropout 0.3")}
LOSSES = {"onset": "onset", "best": "test loss, best", "last": "last", "training": "training, last"}
LOSSES |= {"accuracy": "test accuracy, best", "last accuracy": "last"}
WEIGHTS = {"share": f"|w| > {SMALL:g}, %", "norm": "L2 norm", "median": "median |w|", "top": "largest 1%, mean |w|"}
WEIGHTS |= {"held": "their share of the sum of |w|, %"}
ABOUT = """ReLU networks on reviews as multi-hot vectors in Keras's layout, validated on the test reviews as in the source. Adam with
    learning rate 0.001 and epsilon 1e-7, 20 epochs; 128-128-1 with "100 words" and batches of 500, 16-16-1 with "10,000 words" and batches
    of 512. Penalties are on the kernels of the two hidden layers, dropout is after both, and *word dropout* leaves out each word of a
    training review with probability 0.3. Losses are without the penalty; the training loss of nets with dropout is with it. The *onset* of
    overfitting is the epoch of the least test loss, from 0. Scores at the best epoch flatter, because the test reviews chose it. Weights
    are those of the hidden kernels after the last epoch. *Few* is under a tenth, *as accurate* within 0.01."""


def main(config: Config) -> None:
    wide, narrow = load(config, 100), load(config, config.vocabulary)
    with Page("IMDB: regularizers", config.run_dir, ABOUT) as page:
        studies = {WIDE: trained(config, WIDE, wide, 500), NARROW: trained(config, NARROW, narrow, 512)}
        found = {size: {name: scores(study.select(net=name)) for name in NETS[size]} for size, study in studies.items()}
        for size, nets in found.items():
            overfitting(page, size, nets)
        weights(page, found)
        every = {f"{size}-1, {name}": net for size, nets in found.items() for name, net in nets.items()}
        for title, columns in (("Losses", LOSSES), ("Weights", WEIGHTS)):
            rows = [(name, *(interval(alive(net[key])[0]) for key in columns)) for name, net in every.items()]
            page.table(title, ("net", *columns.values()), rows)
        for size, study in studies.items():
            page.plot(size, drawn(study, NETS[size]), f"{size}-1: mean loss with 10% to 90% of the runs, and the weights of all runs")


def trained(config: Config, size: str, data: ff.data.Splits, batch: int) -> ff.Study:
    hidden = tuple(map(int, size.split("-")))
    words, both = data.train.x.shape[1], ["Dense_0/kernel", "Dense_1/kernel"]
    penalties = {"L1 0.001": ff.penalties.l1(1e-3, mask=both), "L2 0.001": ff.penalties.l2(1e-3, mask=both)}
    augments = {"word dropout 0.3": ff.augmentation.word_dropout(0.3)}

    def net(hp: Any) -> ff.Task:
        name = hp["net"]
        rate = float(name.split()[1]) if name.startswith("dropout") else 0.0
        return make_task(ff.nn.MLP(hidden, 1, dropout=rate), penalty=penalties.get(name), augment=augments.get(name))

    where = config.run_dir / f"{size}, {words} words, {config.epochs} epochs"
    how: dict[str, Any] = {"seeds": config.every_seed, "epochs": config.epochs, "batch_size": batch, "progress": f"{size}, {words} words"}
    return ff.fit_many(net, [{"net": name} for name in NETS[size]], data.train, validation=data.test, run_dir=where, **how)


def scores(study: ff.Study) -> dict[str, np.ndarray]:
    """Returns what the runs of a net gave, one number a run, NaN for those that died."""
    found, size = measures(study), np.sort(np.abs([kernels(result, hidden=True) for result in study.results]).astype(float))
    top = size[:, -max(1, round(TOP * size.shape[1])) :]
    found |= {"share": 100 * (size > SMALL).mean(1), "norm": np.sqrt((size**2).sum(1)), "median": np.median(size, 1)}
    found |= {"top": top.mean(1), "held": 100 * top.sum(1) / size.sum(1)}
    return {name: np.where(np.isfinite(found["last"]), values, np.nan) for name, values in found.items()}


def overfitting(page: Page, size: str, nets: dict[str, dict[str, np.ndarray]]) -> None:
    others = [name for name in nets if name != "plain"]
    for name in others:
        better = compare(*alive(nets["plain"]["last"], nets[name]["last"]))
        text = f"test loss after the last epoch {better.difference}, p {better.p_value:.2g}"
        page.claim("ours" if name.startswith("word") else "source", f"{size}-1: {name} overfits less than plain", better, text)
    how: dict[str, Any] = {"larger_is_better": True, "margin": SAME}
    stopped = [compare(*alive(nets[name]["last accuracy"], nets["plain"]["accuracy"]), **how) for name in others]
    text = "plain less " + "; ".join(f"{name} {each.difference}" for name, each in zip(others, stopped, strict=True))
    claim = f"{size}-1: plain stopped in time is no more accurate than any of these after the last epoch (within {SAME})"
    page.claim("ours", claim, stopped, text, "not better")


def weights(page: Page, found: dict[str, dict[str, dict[str, np.ndarray]]]) -> None:
    plain, l1, l2 = (found[WIDE][name] for name in ("plain", "L1 0.001", "L2 0.001"))
    share = interval(alive(l1["share"])[0])
    page.claim("source", f"L1 leaves few weights (under {FEW}%, |w| > {SMALL:g})", within(share, -np.inf, FEW), f"{share} %")
    fewer, smaller = compare(*alive(l2["share"], l1["share"])), compare(*alive(plain["norm"], l2["norm"]))
    page.claim("source", "L1 leaves fewer weights than L2", fewer, f"{fewer.difference} points, p {fewer.p_value:.2g}")
    page.claim("source", "L2 leaves small weights: their norm is below plain's", smaller, f"{smaller.difference}, p {smaller.p_value:.2g}")
    pairs = {size: (nets["plain"], nets["L2 0.001"]) for size, nets in found.items()}
    curbed, lost, even, texts = [], [], [], ([], [], [])
    for size, (without, with_l2) in pairs.items():
        medians, tops = (np.log(np.divide(*alive(with_l2[key], without[key]))) for key in ("median", "top"))
        curbed.append(compare(medians, tops))
        fell = [np.subtract(*alive(without[key], with_l2[key])) for key in ("median", "top")]
        lost.append(compare(*fell, larger_is_better=True))
        even.append(compare(*alive(without["held"], with_l2["held"])))
        texts[0].append(
            f"{size}: with L2 the largest 1% are {np.exp(tops.mean()):.2f}, the median is {np.exp(medians.mean()):.2g} of plain's"
        )
        texts[1].append(f"{size}: {even[-1].difference} points, p {even[-1].p_value:.2g}")
        texts[2].append(f"{size}: {fell[1].mean():.2g} against {fell[0].mean():.2g}, p {lost[-1].p_value:.2g}")
    page.claim("source", "L2 curbs large weights most: the largest 1% lose more of their size than the median", lost, "; ".join(texts[2]))
    claim = "L2 curbs large weights most in proportion, too: the largest 1% lose a larger share of their size than the median"
    page.claim("source", claim, curbed, "; ".join(texts[0]))
    shape = compare(*alive(l1["top"] / l1["norm"], l2["top"] / l2["norm"]))
    claim = f"{WIDE}-1: for the same norm, L2 leaves smaller large weights than L1: mean |w| of the largest 1% / norm"
    page.claim("source", claim, shape, f"mean |w| of the largest 1% / norm: {shape.difference}, p {shape.p_value:.2g}")
    page.claim("source", "L2 evens weights out: the largest 1% hold less of the sum of |w| than in plain", even, "; ".join(texts[1]))


def drawn(study: ff.Study, names: tuple[str, ...]) -> Any:
    """Draws losses, of the runs that did not die, and weights."""
    figure, (left, right) = ff.plots.panels(2, size=(11, 4.2))
    parts = {name: study.select(net=name) for name in names}
    ff.plots.study_curves({name: curves(part) for name, part in parts.items()}, ax=left)
    weights = {name: np.concatenate([kernels(result, hidden=True) for result in part.results]) for name, part in parts.items()}
    histogram(right, weights, SMALL)
    return figure


if __name__ == "__main__":
    script(main, Config, __doc__)
