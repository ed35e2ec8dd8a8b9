"""Shows on HIGGS how the size of a network and regularization decide about overfitting, after TensorFlow's "Overfit and underfit".

Trains four sizes of a network on 10,000 examples and validates on 1,000; then the largest with L2, dropout, both, AdamW's weight decay,
batch norm, and noise on its inputs. A run stops if its validation cross-entropy has not improved for --patience epochs. Expect validation
accuracies of 0.64 to 0.70, and an hour and a half on 2 cores: a minute or two for the three small networks, and 16 minutes for each seed
of the seven large ones. It may be stopped at any time: the same command resumes it. The data are downloaded when they are first needed, 3
MB of the data set's 2.6 GB.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from options import WithOriginals
from pages import Page

import flaxfit as ff
from flaxfit.cli import script


@dataclass(frozen=True)
class Config(WithOriginals):
    """Options."""

    study: Literal["sizes", "regularizers", "fixes", "all"] = "all"
    """Which networks to train: the four sizes; Tiny, Large and L2, dropout and both; or Tiny, Large and L2, AdamW, batch norm and noise."""
    seeds: int = 5
    """How many runs of Tiny, Small and Medium, with the seeds 0, 1, ... A seed decides the initial weights, the batches and dropout."""
    large_seeds: int = 5
    """How many runs of each large network. All networks are trained from one seed before the next seed."""
    epochs: int = 10_000
    """The largest number of epochs."""
    patience: int = 200
    """After how many epochs without improvement of val_binary_crossentropy a run stops."""
    run_dir: Path = Path("runs/overfit_and_underfit")
    """The directory for runs, TensorBoard logs (such as logs/sizes/Tiny/seed=0), plots and the page of results."""


SIZES = ("Tiny", "Small", "Medium", "Large")
STUDIES = {
    "sizes": SIZES,
    "regularizers": ("Tiny", "Large", "L2", "dropout", "combined"),
    "fixes": ("Tiny", "Large", "L2", "AdamW", "batch norm", "noise"),
}
# The palette's seven colors, three of them twice, never twice in a picture.
COLORS = {"Tiny": 0, "Small": 1, "Medium": 2, "Large": 3, "L2": 4, "dropout": 5, "combined": 6, "AdamW": 1, "batch norm": 2, "noise": 6}
BATCH, TRAIN, VALIDATION = 500, 10_000, 1_000
STEPS = TRAIN // BATCH
LOSS = "val_binary_crossentropy"
# L2 in the loss adds 0.002 w to a gradient that Adam divides by its root mean square, in Large about 0.002, 0.0005 (three times) and 0.01
# by layer: it takes 1, 4 (three times) and 0.2 times the rate off a weight. AdamW has one number for all: about their geometric mean.
DECAY = 2.0
NOISE = 0.3  # standard deviation; that of the features is 0.8 on average
ABOUT = f"""Four sizes of a network and six fixes for the largest, trained on {TRAIN:,} examples and validated on {VALIDATION:,}. Adam
    with learning rate 0.001 and inverse time decay, batches of {BATCH}, early stopping on the validation cross-entropy. Large has 4 x
    512 units. *L2* is 0.001, *dropout* 0.5, *combined* L2 0.0001 with dropout 0.5. *AdamW* has a decoupled weight decay of {DECAY:g},
    which shrinks a weight about as much as L2 0.001 does after Adam's scaling. *noise* adds Gaussian noise of standard deviation
    {NOISE:g} to the training examples. L2 is on all five kernels; Adam's epsilon is that of optax, 1e-8. Numbers are means with 95%
    intervals over seeds. All runs share the same {VALIDATION:,} validation examples, which also choose the best epoch. Each diagnosis
    is a test on the curves. *overfitted*: validation gets worse while training gets better, from the epoch named on. *slightly
    overfitted*: by less than 5% of the earlier improvement. *memorized*: no such rise, but a wide gap. *still improving*:
    validation gets better. *no change detected*: none of these. Only the first counts as not escaping overfitting."""


def main(config: Config) -> None:
    from itertools import pairwise

    import jax
    import optax

    splits = ff.data.load("higgs", validation=VALIDATION, train=TRAIN, originals=config.originals)
    train, validation = splits.train, splits.validation
    rate = ff.schedules.inverse_time_decay(1e-3, decay_steps=STEPS * 1000)

    def task(hidden: tuple[int, ...] = (512,) * 4, l2: float = 0.0, optimizer: Any = None, augment: Any = None, **net: Any) -> ff.Task:
        return ff.Task(
            model=ff.nn.MLP(hidden, 1, activation="elu", **net),
            loss=ff.losses.binary_crossentropy,
            metrics={"accuracy": ff.metrics.binary_accuracy},
            penalty=ff.penalties.l2(l2) if l2 else None,
            augment=augment,
            optimizer=optimizer or optax.adam(rate),
            learning_rate=rate,
        )

    tasks = {
        "Tiny": task((16,)),
        "Small": task((16, 16)),
        "Medium": task((64,) * 3),
        "Large": task(),
        "L2": task(l2=1e-3),
        "dropout": task(dropout=0.5),
        "combined": task(l2=1e-4, dropout=0.5),
        "AdamW": task(optimizer=optax.adamw(rate, weight_decay=DECAY, mask=ff.masks.kernels)),
        "batch norm": task(batch_norm=True),
        "noise": task(augment=ff.augmentation.gaussian_noise(NOISE)),
    }
    studies = {name: nets for name, nets in STUDIES.items() if config.study in (name, "all")}
    nets = [net for net in tasks if any(net in members for members in studies.values())]
    for net in SIZES:
        print(f"{net}\n{ff.summary(tasks[net], train.x[:1])}")

    def fit(part: str, chosen: list[str], seeds: int) -> ff.Study:
        def logs(member: ff.Member) -> list[ff.callbacks.Callback]:
            net = member.setting["net"]
            group = next(name for name, members in STUDIES.items() if net in members)
            return [ff.callbacks.TensorBoard(config.run_dir / "logs" / group / net / f"seed={member.seed}")]

        return ff.fit_many(
            lambda hp: tasks[hp["net"]],
            [{"net": net} for net in chosen],
            train,
            validation=validation,
            epochs=config.epochs,
            batch_size=BATCH,
            early_stopping=ff.EarlyStopping(LOSS, patience=config.patience),
            seeds=seeds,
            callbacks=logs,
            progress=f"{part} nets, seeds 0 to {seeds - 1}",
            run_dir=config.run_dir / part,
        )

    with Page("HIGGS: overfitting and underfitting", config.run_dir, ABOUT) as page:
        if note := train.record().get("note"):
            page.text(f"The data stand in for HIGGS's first rows: {note}.")
        study = fit("small", [net for net in nets if net in SIZES[:3]], config.seeds)
        for seeds in range(1, config.large_seeds + 1):  # what has ended is only read
            large = fit("large", [net for net in nets if net not in SIZES[:3]], seeds)
        study += large
        runs = {net: study.select(net=net) for net in nets}
        diagnoses = {net: [ff.diagnose(result.history) for result in runs[net].results] for net in nets}

        def row(net: str) -> list[Any]:
            some = runs[net]
            epochs = map(np.median, ([len(r.history.epochs) for r in some.results], some.scores("best_epoch", "last")))
            scores = some.scores(LOSS), some.scores(LOSS, "last"), some.scores(LOSS[4:], "last"), some.evaluate(validation)["accuracy"]
            intervals = map(ff.statistics.interval, scores)
            size = sum(leaf.size for leaf in jax.tree.leaves(some.results[0].last.params))
            return [net, size, len(some), *(f"{epoch:.0f}" for epoch in epochs), *intervals, ff.verdicts(diagnoses[net])]

        columns = (
            "net",
            "weights",
            "runs",
            "epochs",
            "best epoch",
            "validation, best",
            "validation, last",
            "training, last",
            "accuracy, best epoch",
        )
        page.table("Binary cross-entropy; epochs are medians", [*columns, "diagnosis"], map(row, nets))

        def compared(a: str, b: str, scores: Any = None) -> ff.statistics.Comparison:
            return study.compare({"net": a}, {"net": b}, scores, mode="min")

        fixes = [net for net in nets if net not in SIZES]
        pairs = {(net, rival): compared(rival, net) for net in fixes for rival in ("Large", "Tiny")}
        if "AdamW" in nets:
            pairs["AdamW", "L2"] = compared("L2", "AdamW")
        rows = [(*names, c.difference, c.p_value, c.verdict) for names, c in pairs.items()]
        if rows:
            page.table("Best validation cross-entropy, paired over common seeds", ("fix", "against", "difference", "p", "verdict"), rows)

        if "sizes" in studies:
            words = {net: [d.verdict for d in diagnoses[net]] for net in SIZES}
            as_said = [np.mean([(word == "overfitted") != (net == "Tiny") for word in words[net]]) for net in SIZES]
            open_ended = any(word in ("still improving", "too short to tell") for net in SIZES for word in words[net])
            decided = None if open_ended else True if min(as_said) == 1 else False if min(as_said) < 0.5 else None
            statistic = "; ".join(f"{net} {ff.verdicts(diagnoses[net])}" for net in SIZES)
            page.claim(
                "upstream", "only Tiny escapes overfitting (all runs: held; fewer than half of a net's: did not hold)", decided, statistic
            )
            turns = study.scores("best_epoch", "last")
            steps = [compared(a, b, np.log(turns)) for a, b in pairwise(SIZES)]
            means = ", ".join(f"{net} {np.median(runs[net].scores('best_epoch', 'last')):.0f}" for net in SIZES)
            statistic = f"median best epoch: {means}; p of each step, of logarithms: {', '.join(f'{c.p_value:.2g}' for c in steps)}"
            page.claim("upstream", "the larger, the sooner it overfits", steps, statistic)
        if "regularizers" in studies:
            for net in ("L2", "dropout"):
                page.claim("upstream", f"{net} helps Large", pairs[net, "Large"])
                page.claim("upstream", f"{net} does not beat Tiny", pairs[net, "Tiny"], wanted="worse")
            rivals = {net: compared(net, "combined") for net in nets if net in SIZES + STUDIES["regularizers"][2:4]}
            statistic = "; ".join(f"from {net} {c.difference}, p {c.p_value:.2g}" for net, c in rivals.items())
            page.claim("source", "combined is the best of all", [*rivals.values()], f"differences {statistic}")
        if "L2" in nets:
            added = {net: np.concatenate([r.history["val_loss"] - r.history[LOSS] for r in runs[net].results]) for net in nets}
            scores = runs["L2"].evaluate(validation)
            right = all(np.all(more > 0) if tasks[net].penalty else not np.any(more) for net, more in added.items())
            statistic = f"the least val_loss - {LOSS} of an epoch: {', '.join(f'{net} {more.min():.2g}' for net, more in added.items())}; "
            statistic += f"evaluate's loss - {LOSS[4:]} of L2's best: {np.min(scores['loss'] - scores[LOSS[4:]]):.2g}"
            page.claim(
                "source", "a penalty makes the objective larger", bool(right and np.all(scores["loss"] > scores[LOSS[4:]])), statistic
            )
            bare = [ff.evaluate(tasks["Large"], result.best, validation)[LOSS[4:]] for result in runs["L2"].results]
            apart = np.abs(bare - scores[LOSS[4:]]).max()
            statistic = f"largest difference of {LOSS[4:]} of L2's best weights, scored with and without the penalty: {apart:.1g}"
            page.claim("source", "a penalty shapes training only", bool(apart < 1e-6), statistic)

        curves = {"smooth": 10, "log_x": True, "ylim": (0.5, 0.7)}
        colors = {net: ff.plots.PALETTE[color] for net, color in COLORS.items()}
        for name, members in studies.items():
            histories = {net: runs[net].results[0].history for net in members}
            figure = ff.plots.learning_curves(histories, **curves, colors=colors, title=f"HIGGS: {name}, seed 0")
            page.plot(name, figure, f"Learning curves of seed 0, {name}; smoothed with a standard deviation of 10 epochs")
            figure = ff.plots.weight_norms(histories, log_x=True, colors=colors, title=f"HIGGS: weights of {name}, seed 0")
            page.plot(f"{name}_norms", figure, f"Weight norms of seed 0, {name}")
        longest = max(len(result.history.epochs) for result in study.results)
        figure = ff.plots.schedule(rate, STEPS, longest)
        figure.axes[0].set_title("Inverse time decay: half at epoch 1,000, a third at 2,000")
        page.plot("schedule", figure, "The learning rate against the epoch")

    print(f"Everything is in {config.run_dir}")


if __name__ == "__main__":
    script(main, Config, __doc__)
