"""Shows on HIGGS how the size of a network and regularization decide about overfitting, after TensorFlow's "Overfit and underfit".

Trains four sizes of a network, and the largest with L2, with dropout and with both. Each claim is read at the best epoch, on test rows that
chose nothing, and at the end of training, as the source reads its curves. `--rows first --large-seeds 5 --run-dir
runs/overfit_and_underfit_first` trains on the first rows of HIGGS. Each seed of the large networks takes 10 minutes on 2 cores. It may be
stopped at any time: the same command resumes it. `tensorboard --logdir runs/higgs/sample/logs` shows the curves while it trains. The data
are downloaded when they are first needed, 3 MB of the data set's 2.6 GB.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import claims
import higgs
import numpy as np
from higgs import COLORS, LOSS, SIZES
from pages import Page

import flaxfit as ff
from flaxfit.cli import script


@dataclass(frozen=True)
class Config(higgs.HiggsConfig):
    """Options."""

    run_dir: Path = Path("runs/overfit_and_underfit")
    """The directory for plots and the page of results."""


REGULARIZED = ("Tiny", "Large", "L2", "dropout", "combined")
NETS = (*SIZES, "L2", "dropout", "combined")
MARGIN = 0.005  # nats, about what the best epoch of Tiny differs by from seed to seed
ENDS = ("best epoch", "end")
ABOUT = """{rows}. {setting} Large has 4 x 512 units. *L2* is 0.001 on the hidden kernels, *dropout* 0.5 after each hidden layer, *combined*
    L2 0.0001 with dropout 0.5. A claim about a *best epoch* compares the cross-entropy on 4,978 rows of the sample that neither
    trained nor chose anything{but}, and its interval covers seeds and rows. One about the *end* compares the validation cross-entropy
    after the last epoch, as the source reads its curves, over seeds. *Does not beat* means: is not better by more than {margin:g}.
    A run overfits if `flaxfit.diagnose` says that it did, or that it did slightly: validation gets worse, beyond its noise, while training
    does not. *Memorized* (validation ends far above training, but does not rise), *still improving* (the trend of validation falls, though
    no epoch was a new best for 200) and *no change detected* do not count. *Most* is decided by binomial tests over the seeds."""


def main(config: Config) -> None:
    data = higgs.splits(config)
    which = {"sample": "sample", "first": "first rows"}[config.rows]
    but = f" (but for {shared} that also trained)" if (shared := higgs.shared(data)) else ""
    about = ABOUT.format(rows=higgs.ROWS[config.rows], setting=higgs.SETTING, margin=MARGIN, but=but)
    with Page(f"HIGGS: overfitting and underfitting ({which})", config.run_dir, about) as page:
        runs = higgs.trained(config, NETS, data)
        sizes(page, runs)
        regularizers(page, runs, data)
        penalty(config, page, runs, data)
        higgs.table(page, runs, data.test)
        pictures(config, page, runs, data)
        layers = "\n".join(f"{net}\n{ff.summary(higgs.make_task(config, net), data.train.x[:1])}" for net in SIZES)
        page.text(f"<details><summary>The layers of each size</summary>\n\n```text\n{layers}\n```\n\n</details>")


def sizes(page: Page, runs: dict[str, ff.Study]) -> None:
    diagnoses = {net: [ff.diagnose(result.history) for result in runs[net].results] for net in SIZES}
    overfitted = {net: sum(diagnosis.verdict.endswith("overfitted") for diagnosis in found) for net, found in diagnoses.items()}
    counts = [(overfitted[net] if net != "Tiny" else len(runs[net]) - overfitted[net], len(runs[net])) for net in SIZES]
    only_tiny, p = claims.most(counts)
    said = "; ".join(f"{net} {overfitted[net]}/{len(runs[net])} ({ff.verdicts(diagnoses[net])})" for net in SIZES)
    claim = "only Tiny escapes: most of its runs do not overfit, most runs of each other net do"
    page.claim("upstream", claim, only_tiny, f"{said}; p of '{'one does not' if only_tiny is False else 'all do'}' {p:.2g}")
    study = higgs.together({net: runs[net] for net in SIZES})
    epochs = np.log(study.scores("best_epoch", "last"))
    steps = [study.compare({"net": a}, {"net": b}, epochs, mode="min") for a, b in pairwise(SIZES)]
    medians = ", ".join(f"{net} {np.median(runs[net].scores('best_epoch', 'last')):.0f}" for net in SIZES)
    statistic = f"median best epoch: {medians}; p of each step, of logarithms: {', '.join(f'{c.p_value:.2g}' for c in steps)}"
    page.claim("upstream", "the larger, the sooner it overfits: the earlier its best epoch, each size against the next", steps, statistic)


def regularizers(page: Page, runs: dict[str, ff.Study], data: ff.data.Splits) -> None:
    study = higgs.together(runs)

    def compared(a: str, b: str, end: str, margin: float | None = None) -> ff.statistics.Comparison:
        where: dict = {"metric": LOSS, "at": "best", "data": data.test} if end == ENDS[0] else {"metric": f"val_{LOSS}", "at": "last"}
        return study.compare({"net": a}, {"net": b}, **where, margin=margin)

    for end in ENDS:
        for net in ("L2", "dropout"):
            page.claim("upstream", f"{end}: {net} helps Large", compared("Large", net, end))
            page.claim("upstream", f"{end}: {net} does not beat Tiny", compared("Tiny", net, end, MARGIN), wanted="not better")
        rivals = {net: compared(net, "combined", end) for net in NETS if net != "combined"}
        statistic = "differences " + "; ".join(f"from {net} {c.difference}, p {c.p_value:.2g}" for net, c in rivals.items())
        page.claim("source", f"{end}: combined is the best of all", [*rivals.values()], statistic)
        page.claim("source", f"{end}: L2 alone does not suffice: combined is better", rivals["L2"])


def penalty(config: Config, page: Page, runs: dict[str, ff.Study], data: ff.data.Splits) -> None:
    added = {net: np.concatenate([r.history["val_loss"] - r.history[f"val_{LOSS}"] for r in runs[net].results]) for net in NETS}
    scores = runs["L2"].evaluate(data.validation)
    right = all(np.all(more > 0) if higgs.make_task(config, net).penalty else not np.any(more) for net, more in added.items())
    assert right, "val_loss holds a penalty, and nothing else, beside the data loss"
    bare = [ff.evaluate(higgs.make_task(config, "Large"), result.best, data.validation)[LOSS] for result in runs["L2"].results]
    assert np.abs(bare - scores[LOSS]).max() < 1e-6
    least = ", ".join(f"{net} {more.min():.2g}" for net, more in added.items() if higgs.make_task(config, net).penalty)
    page.text(
        f"A penalty makes the objective larger, `val_loss` and the loss of `evaluate` included: in no epoch by less than {least}; without "
        f"one `val_loss` is `val_{LOSS}`. It shapes training only: {LOSS} of L2's weights is the same, scored with the penalty or without."
    )


def pictures(config: Config, page: Page, runs: dict[str, ff.Study], data: ff.data.Splits) -> None:
    colors = {net: ff.plots.PALETTE[color] for net, color in COLORS.items()}
    for name, nets in (("sizes", SIZES), ("regularizers", REGULARIZED)):
        higgs.curves(page, name, runs, nets)
        first = {net: runs[net].results[0].history for net in nets}
        figure = ff.plots.weight_norms(first, log_x=True, colors=colors, title=f"HIGGS: weights of {name}, one seed")
        page.plot(f"{name}_norms", figure, f"Weight norms of the first seed, {name}")
    figure, (ax,) = ff.plots.panels()
    ax.hist(np.ravel(data.validation.x[:1000]), bins=101, color=ff.plots.PALETTE[0])
    ax.set(xlabel="value of a feature", ylabel="count", title="The 28 features of 1,000 rows in 101 bins")
    page.plot("features", figure, "All features have about the same scale, so that nothing is standardized")
    longest = max(len(result.history.epochs) for study in runs.values() for result in study.results)
    figure = ff.plots.schedule(higgs.rate(config), higgs.STEPS[config.rows], longest)
    page.plot("schedule", figure, "The learning rate against the epoch: inverse time decay")


if __name__ == "__main__":
    script(main, Config, __doc__)
