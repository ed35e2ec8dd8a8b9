"""The answer of a study as one HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flaxfit import __version__
from flaxfit.overfitting.figures import COLORS
from flaxfit.overfitting.plan import duration
from flaxfit.report import html
from flaxfit.report.colors import PALETTE
from flaxfit.report.statistics import share
from flaxfit.sections import Section
from flaxfit.storage.directory import environment

if TYPE_CHECKING:
    from flaxfit.overfitting.answer import OverfittingStudy


def page(study: OverfittingStudy) -> str:
    """Returns the page."""
    sections, figures = list(study.sections()), {}
    compared = [t for t in study.tried if t.comparison is not None]
    names = [t.fix.name + (" (recommended)" if t.fix == study.recommended else "") for t in compared]
    differences = [t.comparison.difference for t in compared if t.comparison is not None]
    note = f"Better to the {'right' if study.larger_is_better else 'left'}. Green: shown to help. Orange: shown to harm."
    if compared:
        colors = [COLORS.get(t.verdict, "#888888") for t in compared]
        figures["fixes"] = html.intervals(names, differences, colors, f"{study.metric}: difference from the baseline", note, study.margin)
    first = next(iter(study.curves.values()))[0]
    onsets = {"baseline": study.diagnosis.epoch} if study.diagnosis.epoch is not None else {}
    figures["curves"] = html.curves(study.curves, str(first.data_loss), onsets)
    if (growth := study.growth) is not None:
        sizes = [*growth.sizes, 2 * growth.sizes[-1]]
        n = np.geomspace(sizes[0], sizes[-1], 60)
        floor, factor = growth.law
        line = n, floor + factor * n**-growth.exponent, f"{floor:.3g} + {factor:.3g} / n^{growth.exponent:g}"
        figures["data"] = html.points(growth.sizes, growth.scores, line, ("training examples", study.metric), log_x=True)
    if study.columns:
        colors = ["#888888" if c.useless else PALETTE[0] for c in study.columns]
        named, losses = [c.column for c in study.columns], [c.loss for c in study.columns]
        figures["columns"] = html.intervals(named, losses, colors, f"{study.metric}: worse by", "Gray: not shown to be needed.")
    if study.classes is not None:
        sections += _on_test(study, figures)
    about = environment()
    facts = {
        "plan": ", ".join(f"{name} {value}" for name, value in study.plan.record().items() if name != "seconds"),
        "time": duration(study.seconds),
        "baseline": study.baseline,
        "command": " ".join(about["command"]),
        "started in": about["directory"],
        "commit": about["commit"] or "-",
        "device": f"{about['device']['count']} x {about['device']['kind']}",
        "versions": ", ".join(f"{name} {version}" for name, version in {"flaxfit": __version__, **about["versions"]}.items() if version),
    }
    return html.page("Overfitting study", study.data, sections, figures, facts)


def _on_test(study: OverfittingStudy, figures: dict[str, Any]) -> list[Section]:
    """The confusion matrix and the reliability diagram of the test examples."""
    from flaxfit import metrics

    logits, y, classes = study.test_outputs, study.test_targets, study.classes or ()
    figures["confusion"] = html.confusion(np.asarray(metrics.confusion_matrix(logits, y)), classes)
    confidence, right, counts = metrics.reliability(logits, y)
    shares = [share(round(each * count), count) for each, count in zip(right, counts, strict=True)]
    line = [0, 1], [0, 1], "as often right as predicted"
    note = "Bars are 95% intervals. Below the line, the network is too sure of itself; above it, it is more often right than it says."
    titles = "predicted probability of the class", "share that is right"
    figures["calibration"] = html.points(confidence.tolist(), shares, line, titles, note=note)
    figures["calibration"].update_layout(xaxis_range=[0, 1.02], yaxis_range=[-0.02, 1.02])
    error = float(metrics.ece(logits, y))
    rows = [
        [f"{each:.3f}", f"{part.mean:.3f} [{part.low:.3f}, {part.high:.3f}]", str(part.count)]
        for each, part in zip(confidence, shares, strict=True)
    ]
    return [
        Section("Confusion on the test examples", ["True classes are in rows, predicted classes in columns."], figure="confusion"),
        Section(
            "Calibration on the test examples",
            [
                f"The expected calibration error (ECE) is {error:.3g}: on average, the predicted probability is so far from the share of "
                "predictions that are right. The diagram shows where."
            ],
            ["predicted", "right, 95% interval", "examples"],
            rows,
            figure="calibration",
        ),
    ]
