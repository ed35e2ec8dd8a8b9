"""Saves while a network trains, under names with epoch and metrics, and measures what weights and whole models cost in time and on disk.

It takes 3 minutes on 2 cores, on which nothing else should run. Times are measured anew by each start.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pages import Page
from thousand_images import WithImages, images, initial, make_task, measured, spread

import flaxfit as ff
from flaxfit.cli import script
from flaxfit.report.statistics import compare


@dataclass(frozen=True)
class Config(WithImages):
    """Options."""

    seeds: int = 20
    """How often each cost is measured; all runs have the first seed."""
    first_seed: int = 4_200
    """The seed of the runs."""
    epochs: int = 10
    """How many epochs to train."""
    widths: tuple[int, ...] = (64, 512, 2_048)
    """The numbers of hidden units whose weights and models are timed."""
    run_dir: Path = Path("runs/save_costs")
    """The directory for runs, weights, models and the page of results."""


NAMES = "{epoch:02d}-{val_loss:.5f}"
BATCHES = 50
ABOUT = """784-512-10 with ReLU and dropout 0.2, trained by Adam on 1,000 images in batches of 32 for 10 epochs; weights are a safetensors
    file, a whole model is what `flaxfit.export` writes: compiled programs, weights, loss, metrics and a description, which run without the
    code. Costs are medians over 20 measurements, taken in turns on a machine that other programs use; a time is compared by its logarithm,
    in pairs of one turn. Programs are compiled before. Each run saves a checkpoint and its best model at the end, as all runs do."""


def save_models(home: Path, name: str, rows: ff.Dataset) -> ff.callbacks.Callback:
    """Exports the whole model after each epoch, under a name with epoch and metrics."""

    class SaveModels(ff.callbacks.Callback):
        every_epochs = 1

        def on_chunk_end(self, progress: ff.callbacks.Progress) -> None:
            """Exports the model where an epoch has ended."""
            if len(progress.new.epochs):
                file = name.format(**{**progress.history.row(-1), "epoch": progress.epoch})
                ff.export(home / file, progress.run.task, progress.state.train, rows)

    return SaveModels()


def main(config: Config) -> None:
    data, task = images(config), make_task(config)
    shutil.rmtree(config.run_dir / "runs", ignore_errors=True)  # times are measured anew
    with Page("Saving while training, and what it costs", config.run_dir, f"{config.data}: {ABOUT}") as page:
        names(config, page, task, data)
        during(config, page, task, data)
        apart(config, page, data[0])


def fitted(config: Config, task: ff.Task, home: Path, data: Sequence[ff.Dataset], *callbacks: ff.callbacks.Callback) -> ff.Result:
    how: dict[str, Any] = {"validation": data[1], "batch_size": 32, "epochs": config.epochs, "seed": config.first_seed}
    return ff.fit(task, data[0], run_dir=home, callbacks=list(callbacks), **how)


def names(config: Config, page: Page, task: ff.Task, data: Sequence[ff.Dataset]) -> None:
    home, weights, checkpoint = config.run_dir / "runs", ff.callbacks.SaveWeights, ff.callbacks.Checkpoint
    ways = {
        "weights, each epoch": ("weights", weights(NAMES, best_only=False)),
        "weights, the best by val_accuracy": ("weights", weights(NAMES, monitor="val_accuracy", mode="max")),
        "whole models, each epoch": ("models", save_models(home / "whole models, each epoch" / "models", NAMES, data[1][:1])),
        f"checkpoints, each {BATCHES} batches": ("checkpoints", checkpoint(every_steps=BATCHES, keep=None)),
    }
    history = [fitted(config, task, home / way, data, callback).history for way, (_, callback) in ways.items()][-1]
    accuracy, last = history["val_accuracy"], config.epochs * -(-len(data[0]) // 32)
    every = [NAMES.format(epoch=epoch, val_loss=loss) for epoch, loss in enumerate(history["val_loss"], start=1)]
    better = [name for place, name in enumerate(every) if accuracy[place] > max(accuracy[:place], default=-1)]
    wanted, rows = (every, better, every, [f"{step}" for step in (*range(BATCHES, last, BATCHES), last)]), []
    for (way, (folder, _)), those in zip(ways.items(), wanted, strict=True):
        files = [path.name.removesuffix(".safetensors") for path in (home / way / folder).iterdir() if path.name[0].isdigit()]
        rows.append((way, len(files), f"{those[0]} to {those[-1]}"))
        page.claim("source", f"{way}: these are saved, and nothing else", sorted(files) == sorted(those), f"{len(files)} files")
    page.table("Saved in a run", ("what and when", "files", "names"), rows)
    places = [home / "whole models, each epoch" / "models" / name for name in every]
    off = max(abs(ff.load(place).evaluate(data[1])["accuracy"] - score) for place, score in zip(places, accuracy, strict=True))
    page.claim("source", "a whole model of an epoch has the accuracy that was logged", bool(off < 1e-6), f"largest difference {off:.1g}")


def during(config: Config, page: Page, task: ff.Task, data: Sequence[ff.Dataset]) -> None:
    home = config.run_dir / "runs" / "timed"
    ways: dict[str, list[ff.callbacks.Callback]] = {
        "nothing": [],
        "weights": [ff.callbacks.SaveWeights(NAMES, best_only=False)],
        "whole models": [save_models(home / "models", NAMES, data[1][:1])],
    }
    runs = measured({way: lambda way=way: fitted(config, task, home, data, *ways[way]) for way in ways}, config.seeds, home)
    page.table(f"A run of {config.epochs} epochs that saves after each", ("saved", "seconds"), [(way, spread(runs[way])) for way in ways])
    pair = compare(np.log(runs["whole models"]), np.log(runs["weights"]))
    statistic = f"a run with whole models takes {np.median(runs['whole models'] / runs['weights']):.1f} times as long, p {pair.p_value:.2g}"
    page.claim("source", "whole models cost a run more time than weights", pair, statistic)
    size = sum(path.stat().st_size for path in (home / "checkpoints").rglob("*") if path.is_file())
    page.text(f"A checkpoint, from which training goes on, holds Adam's state as well: {size / 1000:,.0f} kB with 512 units.")


def apart(config: Config, page: Page, train: ff.Dataset) -> None:
    """What weights and whole models of some sizes cost."""
    file, folder, rows, times, sizes = config.run_dir / "runs" / "weights.safetensors", config.run_dir / "runs" / "whole", [], [], []
    for width in config.widths:
        task = make_task(config, width=width)
        state = initial(task, train.x, config.first_seed)
        steps: dict[str, Callable[[], Any]] = {
            "save weights": lambda state=state: ff.save_weights(file, state),
            "save whole": lambda task=task, state=state: ff.export(folder, task, state, train[:1]),
            "load weights": lambda: ff.load_weights(file),
            "load whole": lambda: ff.load(folder),
        }
        times.append(measured(steps, config.seeds))
        sizes.append([file.stat().st_size, sum(path.stat().st_size for path in folder.iterdir())])
        rows.append((f"{width:,}", *(f"{size / 1000:,.0f}" for size in sizes[-1]), *(spread(1000 * times[-1][step]) for step in steps)))
    columns = ("units", "kB, weights", "kB, whole", *(f"ms, {step}" for step in times[0]))
    page.table("Weights and whole models: medians and quartiles", columns, rows)
    for way in ("save", "load"):
        pairs = [compare(np.log(each[f"{way} whole"]), np.log(each[f"{way} weights"]), names=("whole", "weights")) for each in times]
        ratios = ", ".join(f"{np.median(each[f'{way} whole'] / each[f'{way} weights']):.1f}" for each in times)
        page.claim("source", f"whole models cost more time than weights to {way}", pairs, f"times as long, by size: {ratios}")
    more = np.array([whole - weights for weights, whole in sizes])
    statistic = f"bytes more, by size: {', '.join(map(str, more))}"
    page.claim("source", "whole models cost more disk than weights", bool(min(more) > 0), statistic)
    page.claim("ours", "how much more does not depend on the size of the network (to 1,000 bytes)", bool(np.ptp(more) < 1_000), statistic)
    figure, (ax,) = ff.plots.panels()
    for color, step in enumerate(times[0]):
        low, middle, high = np.transpose([np.quantile(1000 * each[step], (0.25, 0.5, 0.75)) for each in times])
        ax.errorbar(range(len(rows)), middle, (middle - low, high - middle), fmt="o-", color=ff.plots.PALETTE[color], label=step)
    ax.set(yscale="log", xticks=range(len(rows)), xticklabels=[row[0] for row in rows], xlabel="hidden units", ylabel="time (ms)")
    ax.legend(frameon=False)
    page.plot("times", figure, "Time to save and to load: medians and quartiles")


if __name__ == "__main__":
    script(main, Config, __doc__)
