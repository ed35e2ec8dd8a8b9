"""Shows on film reviews that the larger a network, the sooner and the faster it overfits, and what becomes of the size of its weights.

Trains networks on 25,000 IMDB reviews as multi-hot vectors in Keras's layout, and tests them on 25,000 others: two sizes with "100 words"
and three with "10,000 words". It takes 50 minutes on 2 cores, and a few on a GPU. The same command resumes what was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from claims import within
from options import WithOriginals, WithSeeds
from pages import Page
from reviews import alive, curves, kernels, load, make_task, measures

import flaxfit as ff
from flaxfit.cli import script
from flaxfit.report.statistics import Comparison, compare, interval


@dataclass(frozen=True)
class Config(WithOriginals, WithSeeds):
    """Options."""

    first_seed: int = 7_000
    """The first of the seeds. The others follow it."""
    few_seeds: int = 5
    """How many runs of the networks "bigger" and "overfitting", each of which takes minutes."""
    epochs: int = 20
    """How many epochs to train each run."""
    long_epochs: int = 300
    """How many epochs to train the network "overfitting"."""
    vocabulary: int = 10_000
    """How many columns the reviews of the larger vocabulary have."""
    rows: int = 25_000
    """How many reviews to train on, and how many to test on."""
    run_dir: Path = Path("runs/imdb_capacity")
    """The directory for runs, tables and plots, which takes 2 GB."""


FEW_WORDS, FEW_RUNS, MUCH, SAME = 100, ("bigger", "overfitting"), 0.5, 0.01
HIDDEN = {"smaller": (4, 4), "baseline": (16, 16), "bigger": (512, 512), "basic": (256, 128), "overfitting": (1024, 512, 512, 512)}
SMALL_TO_LARGE = (("smaller", "baseline", "bigger"), ("basic", "overfitting"))
SOURCE = {"smaller": 6, "baseline": 4}  # the epoch from about which the source sees it overfit
ABOUT = """ReLU networks on reviews as multi-hot vectors in Keras's layout, validated on the test reviews as in the source. Adam with
    learning rate 0.001 and epsilon 1e-7, no regularization. "10,000 words" (9,996 and four other columns): batches of 512, 20 epochs. "100
    words" (96 and four): batches of 500, 20 epochs, 300 of *overfitting*. Epochs count from 0. The *onset* of overfitting is the epoch of
    the least test loss. The *rise* is the mean change of the test loss an epoch over the 5 epochs after it, or to the end. A run whose test
    loss never falls below 0.69 has died (a coin's is 0.693) and is left out. Onsets are compared over all runs (Welch's test); where those
    of a network agree, its variance counts as 0, and p is too small. Scores at the best epoch are too good: test reviews chose it."""
TABLES = {
    "Losses": {"onset": "onset", "best": "test loss, best", "last": "last", "rise": "rise an epoch", "training": "training, last"},
    "Kernels": {"before": "sum of |w|, best", "after": "last", "growth": "last / best"},
}


def main(config: Config) -> None:
    data = {words: load(config, words) for words in (config.vocabulary, FEW_WORDS)}
    with Page("IMDB: capacity", config.run_dir, ABOUT) as page:
        studies = trained(config, data)
        nets = {name: measures(study, config.epochs) for name, study in studies.items()}
        weights = {name: len(kernels(study.results[0])) for name, study in studies.items()}
        decide(page, nets, weights)
        for title, columns in TABLES.items():
            second, rows = SOURCE if title == "Losses" else {name: f"{count:,}" for name, count in weights.items()}, []
            for name, net in nets.items():
                cells = (interval(alive(net[key])[0]) for key in columns)
                rows.append((f"{name} {'-'.join(map(str, HIDDEN[name]))}-1", second.get(name), *cells))
            page.table(title, ("net", "source's onset" if title == "Losses" else "weights", *columns.values()), rows)
        for names, words in zip(SMALL_TO_LARGE, (config.vocabulary, FEW_WORDS), strict=True):
            caption = f"{words:,} words: means with 10% to 90% of the runs. The axes count epochs from 1, triangles are of the mean curve"
            page.plot(f"curves_{names[0]}", drawn({name: studies[name] for name in names}), caption)
        layers = ff.summary(make_task(ff.nn.MLP(HIDDEN["baseline"], 1)), np.zeros((1, config.vocabulary), np.uint8))
        page.text(f"<details><summary>The layers of the baseline</summary>\n\n```text\n{layers}\n```\n\n</details>")


def trained(config: Config, data: dict[int, ff.data.Splits]) -> dict[str, ff.Study]:
    def net(hp: Any) -> ff.Task:
        return make_task(ff.nn.MLP(HIDDEN[hp["net"]], 1))

    studies = {}
    for names, (words, splits), batch in zip(SMALL_TO_LARGE, data.items(), (512, 500), strict=True):
        for name in names:
            epochs = config.long_epochs if name == "overfitting" else config.epochs
            seeds = config.every_seed[: config.few_seeds] if name in FEW_RUNS else config.every_seed
            where = {"run_dir": config.run_dir / f"{name}, {words} words, {epochs} epochs", "progress": f"{name}, {words} words"}
            how: dict[str, Any] = {"seeds": seeds, "epochs": epochs, "batch_size": batch, **where}
            studies[name] = ff.fit_many(net, [{"net": name}], splits.train, validation=splits.test, **how)
    return studies


def decide(page: Page, nets: dict[str, dict[str, np.ndarray]], weights: dict[str, int]) -> None:
    from scipy.stats import spearmanr

    def pairs(key: str, larger: bool = False, log: bool = False, **how: Any) -> dict[tuple[str, str], Comparison]:
        """Compares the networks with the next larger ones, by common seeds unless `how` says otherwise."""
        every = {names: [nets[name][key] for name in names] for group in SMALL_TO_LARGE for names in pairwise(group)}
        both = {
            names: [alive(each)[0] for each in runs] if how.get("method") == "unpaired" else alive(*runs) for names, runs in every.items()
        }
        return {names: compare(*(np.log(v) if log else v), larger_is_better=larger, names=names, **how) for names, v in both.items()}

    for (small, large), found in pairs("onset", method="unpaired").items():
        page.claim("source", f"{large} overfits sooner than {small}", found, f"onset {found.difference}, p {found.p_value:.2g}")
    for name, epoch in SOURCE.items():
        found = interval(alive(nets[name]["onset"])[0])
        page.claim("source", f"{name} overfits from about epoch {epoch} (within 1)", within(found, epoch - 1, epoch + 1), f"onset {found}")
    small, large = alive(nets["smaller"]["rise"], nets["baseline"]["rise"])
    rises = "; ".join(f"{name} {interval(alive(nets[name]['rise'])[0])} an epoch" for name in SMALL_TO_LARGE[0])
    claim = f"smaller then gets worse much more slowly than baseline (less than {MUCH} times as fast)"
    page.claim("source", claim, compare(MUCH * large, small), rises)
    faster = pairs("rise")["baseline", "bigger"]
    page.claim("ours", "bigger gets worse faster than baseline", faster, f"difference {faster.difference}, p {faster.p_value:.2g}", "worse")
    same = [found for names, found in pairs("accuracy", larger=True, margin=SAME).items() if "baseline" in names]
    claim = f"at their best epochs smaller, baseline and bigger are as accurate (within {SAME})"
    page.claim("ours", claim, same, "; ".join(f"{c.names[1]} less {c.names[0]} {c.difference}" for c in same), "equivalent")

    found = [compare(*np.log(alive(net["before"], net["after"])), larger_is_better=True) for net in nets.values()]
    text = "; ".join(f"{name} {interval(alive(net['growth'])[0])}" for name, net in nets.items())
    page.claim("source", "the weights of each net grow while it overfits: sum of |w|, last epoch / best epoch", found, text)
    for net, count in weights.items():
        nets[net]["each"] = nets[net]["then"] / count
    sums, means = (pairs(key, larger=True, log=True) for key in ("then", "each"))
    texts = ["; ".join(f"{b} / {a} {np.exp(c.difference.mean):.3g}, p {c.p_value:.2g}" for (a, b), c in f.items()) for f in (sums, means)]
    page.claim("source", "the sum of |w| grows with the size of the net (after as many epochs, 20)", [*sums.values()], texts[0])
    page.claim("ours", "and so does the mean of |w|: the single weights of larger nets are larger", [*means.values()], texts[1])
    ranks: dict[str, Any] = {n: spearmanr(*alive(net["after"], net["last"] - net["best"])) for n, net in nets.items() if n not in FEW_RUNS}
    signs = [np.sign(each.statistic) for each in ranks.values() if each.pvalue < 0.05 / len(ranks)]
    text = "; ".join(f"{name} {each.statistic:+.2f}, p {each.pvalue:.2g}" for name, each in ranks.items())
    claim = "of the runs of one net, those that end with a larger sum of |w| overfit more (rank correlation with last minus best test loss)"
    page.claim("ours", claim, False if -1 in signs else len(signs) == len(ranks) or None, text)


def drawn(studies: dict[str, ff.Study]) -> Any:
    """Draws losses, and how the sum of |w| grows, of the runs that did not die."""
    figure, (left, right) = ff.plots.panels(2, size=(11, 4.2))
    runs, column = {name: curves(study) for name, study in studies.items()}, "sum of |w| / that after the first epoch"
    ff.plots.study_curves(runs, log_x=True, log_y=True, ax=left)
    grown = {name: [ff.History({column: each["kernel_l1"] / each["kernel_l1"][0]}) for each in found] for name, found in runs.items()}
    ff.plots.study_curves(grown, column, log_x=True, ax=right)
    right.legend().remove()  # the same as on the left
    return figure


if __name__ == "__main__":
    script(main, Config, __doc__)
