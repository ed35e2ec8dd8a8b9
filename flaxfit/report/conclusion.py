"""What the learning curves of a run say, in three sentences: does it overfit, how good is it, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping

from flaxfit.history import History
from flaxfit.report.diagnosis import Diagnosis


def conclusion(history: History, diagnosis: Diagnosis | None, constant: Mapping[str, float], study: str | None = None) -> list[str]:
    """Returns three sentences about a run.

    Args:
      history: what it has logged.
      diagnosis: of this history; None without validation examples.
      constant: the validation scores of the best constant prediction, as far as they are known, by the names of their columns.
      study: the command that studies fixes for this run, if it is known.
    """
    monitored = f"val_{history.data_loss}" if diagnosis is not None else str(history.data_loss)
    best = None if history.best_epoch is None else history.row(history.best_epoch - int(history.epochs[0]))
    beaten = best is None or monitored not in constant or best[monitored] < constant[monitored]
    find = f"find out which fix helps: {study or 'flaxfit.overfitting_study in Python'}"
    if diagnosis is None:
        first = "It was trained without validation examples, so it is not known whether it overfits."
        last = "Train it with validation examples, fit(validation=...)."
    else:
        first, last = _verdict(diagnosis), _next(diagnosis, find)
    if not beaten:
        last = "Check the inputs, the targets and the learning rate. Perhaps the inputs say nothing about the target."
    return [first, _score(history, best, monitored, constant, beaten), last]


def _verdict(found: Diagnosis) -> str:
    level = f"at the end its validation loss is {found.validation[1]:.3g}, its training loss {found.training[1]:.3g}"
    if found.epoch is not None:
        how = {"possibly overfitted": "may overfit", "slightly overfitted": "overfits slightly"}.get(found.verdict, "overfits")
        few = f", though only on {found.rows} validation examples" if found.verdict == "possibly overfitted" else ""
        share = f", by {100 * found.share:.2g}% of the earlier improvement" if found.verdict == "slightly overfitted" else ""
        first, final = found.onset or (found.epoch, found.epoch)
        return (
            f"It {how} from epoch {found.epoch} ({first} to {final}) on: its validation loss rises from {found.validation[0]:.3g} to "
            f"{found.validation[1]:.3g} at the end of training{share}, while its training loss is {found.training[1]:.3g}{few}."
        )
    return {
        "memorized": f"It has memorized its training examples, though validation does not become worse: {level}.",
        "still improving": f"It does not overfit so far, and is still improving: {level}.",
        "diverging": f"It diverges: {level}.",
        "too short to tell": "It is too short to tell whether it overfits.",
    }.get(found.verdict, f"It does not overfit, as far as its curves show: {level}.")


def _next(found: Diagnosis, find: str) -> str:
    if found.epoch is not None:
        return f"Use the weights of the best epoch, as the saved model does, not those of the last one, and {find}."
    return {
        "memorized": f"More examples or regularization may narrow the gap; {find}.",
        "diverging": "Lower the learning rate, or clip the gradients (optax.clip_by_global_norm).",
    }.get(
        found.verdict,
        "Train it for more epochs: the same call or command with a larger number continues it."
        if found.verdict in ("still improving", "too short to tell")
        else f"A larger network may do better, since nothing shows that this one is too large; {find}.",
    )


def _score(history: History, best: Mapping[str, float] | None, monitored: str, constant: Mapping[str, float], beaten: bool) -> str:
    if best is None:
        return "No epoch has a finite loss."
    columns = [monitored, *(name for name in constant if name != monitored and name in best)]
    scores = " and ".join(f"{name} {best[name]:.4g}" for name in columns)
    text = f"Its best epoch of {history.epochs[-1]} is {history.best_epoch}, with {scores}"
    if monitored not in constant:
        return f"{text}."
    levels = " and ".join(f"{constant[name]:.4g}" for name in columns if name in constant)
    return f"{text}; {'the best constant prediction has' if beaten else 'this is no better than the best constant prediction,'} {levels}."
