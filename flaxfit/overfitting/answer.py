"""What a study found, in sentences, tables and figures."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flaxfit.history import History
from flaxfit.overfitting.columns import Importance
from flaxfit.overfitting.findings import Rival, Signal, Tried
from flaxfit.overfitting.fixes import Fix
from flaxfit.overfitting.growth import Growth
from flaxfit.overfitting.plan import Plan, duration
from flaxfit.report.diagnosis import Diagnosis
from flaxfit.report.statistics import Comparison, Interval
from flaxfit.sections import Section, Shown, as_html, as_markdown
from flaxfit.state import TrainState
from flaxfit.task.task import Task


@dataclass(frozen=True, eq=False)
class OverfittingStudy(Shown):
    """The answer of `flaxfit.overfitting_study`. Printed, it is the whole report.

    Attributes:
      metric: the metric that decides, for a reader.
      larger_is_better: whether larger scores are better.
      data: a description of the examples and how they were split.
      plan: what was trained.
      baseline: a description of the baseline.
      diagnosis: whether the baseline overfits, from the mean curve of its runs.
      verdicts: how often its runs got each verdict.
      curves: setting -> the learning curves of its runs.
      tried: the baseline and the fixes.
      missing: kind of fix -> how it could have been tried.
      recommended: the simplest fix within one standard error of the best.
      best: the fix with the best mean score.
      test: metric -> its value for the recommended network on the test examples, with its interval over these examples.
      test_rows: the number of test examples.
      rivals: the simple models.
      signal: whether anything can be learned, or None.
      growth: what more data would do, or None.
      columns: how much the network needs each column.
      warnings: what to distrust.
      covers: what the intervals of the comparisons cover.
      margin: the smallest difference that matters, or None.
      task: the recommended network.
      state: its weights, trained on all examples but the test examples.
      classes: the names of the classes, or None.
      test_outputs: the outputs of the recommended network for the test examples.
      test_targets: their targets.
      seconds: how long the study took.
      directory: where it was written, or None.
    """

    metric: str
    larger_is_better: bool
    data: str
    plan: Plan
    baseline: str
    diagnosis: Diagnosis
    verdicts: str
    curves: Mapping[str, Sequence[History]]
    tried: Sequence[Tried]
    missing: Mapping[str, str]
    recommended: Fix
    best: Fix
    test: Mapping[str, Interval]
    test_rows: int
    rivals: Sequence[Rival]
    signal: Signal | None
    growth: Growth | None
    columns: Sequence[Importance]
    warnings: Sequence[str]
    covers: str
    margin: float | None
    task: Task
    state: TrainState
    classes: tuple[str, ...] | None
    test_outputs: np.ndarray
    test_targets: np.ndarray
    seconds: float
    directory: Path | None = None

    def __repr__(self) -> str:
        return f"OverfittingStudy({len(self.tried)} settings; recommended: {self.recommended.name}; {duration(self.seconds)})"

    def _repr_html_(self) -> str:
        return as_html(self.sections(), {name: figure._repr_png_() for name, figure in self.plots().items()})

    def row(self, fix: Fix | str) -> Tried:
        """Returns what a fix did.

        Raises:
          KeyError: it was not tried.
        """
        name = fix if isinstance(fix, str) else fix.name
        return {tried.fix.name: tried for tried in self.tried}[name]

    @property
    def helpful(self) -> list[Tried]:
        """The fixes that are shown to help, the best first."""
        sign = -1 if self.larger_is_better else 1
        return sorted((t for t in self.tried if t.verdict == "helps"), key=lambda t: sign * t.score.mean)

    @property
    def sentences(self) -> list[str]:
        """The answer: what beats the network, whether the baseline overfits, which fix helps, and what to use."""
        found = []
        better = [rival for rival in self.rivals if rival.as_good]
        if better:
            sign = -1 if self.larger_is_better else 1
            rival = min(better, key=lambda r: sign * r.score.mean)
            net, name = self.row(self.recommended).score, rival.name
            if rival.comparison.verdict == "worse":
                how = f"{name} is better than the recommended network"
            elif sign * rival.score.mean < sign * net.mean:
                how = f"{name} scores slightly better, within noise"
            else:
                how = f"the recommended one is not shown to be better than {name}"
            found.append(
                f"You may not need a network: {how}. {self._where.capitalize()} its {self.metric} is {rival.score.short}, "
                f"that of the recommended network {net.short}, a difference of {rival.comparison.difference.short}."
            )
        found.append(self._overfits())
        found.append(self._helps())
        main, interval = next(iter(self.test.items()))
        an = "an" if main[:1] in "aeiouRMA" and not main.startswith("u") else "a"
        others = "".join(f", {name} {value.short}" for name, value in list(self.test.items())[1:])
        change = "Keep the baseline" if self.recommended.kind == "baseline" else f"Use {_article(self.recommended)}"
        if self.recommended.stops:
            change += f" (it ended after {self.row(self.recommended).epochs:.0f} epochs on average)"
        if self.recommended != self.best:
            change += ", the simplest setting within one standard error of the best"
        found.append(
            f"{change}. Trained without the {self.test_rows} test examples, it has {an} {main} of {interval.short}{others} on these. "
            "Every ± and [] is a 95% interval."
        )
        return found

    @property
    def _where(self) -> str:
        return "in cross-validation" if self.plan.folds > 1 else "on the later examples"

    def _overfits(self) -> str:
        d = self.diagnosis
        if "overfitted" in d.verdict and d.epoch is not None:
            how = {"overfitted": "overfits", "slightly overfitted": "overfits slightly", "possibly overfitted": "possibly overfits"}
            onset = f" ({d.onset[0]} to {d.onset[1]})" if d.onset and d.onset[0] < d.onset[1] else ""
            rose = f"the validation loss, averaged over {d.runs} runs, rises from {d.validation[0]:.3g} to {d.validation[1]:.3g}"
            alone = f"all {d.runs} runs overfit" if d.agree == d.runs else f"{d.agree} of the {d.runs} runs overfit"
            return (
                f"The baseline {how[d.verdict]} from epoch {d.epoch}{onset} on: {rose} at the end of training, while the training loss "
                f"falls to {d.training[1]:.3g}. Judged one by one, {alone}."
            )
        said = {
            "memorized": "does not become worse, but ends far from its training score: it memorizes training examples",
            "still improving": "does not overfit: it is still improving at the end, so train it for more epochs",
            "diverging": "diverges: lower the learning rate",
            "no change detected": "shows no overfitting",
            "too short to tell": "was trained for too few epochs to tell whether it overfits",
        }
        return f"The baseline {said.get(d.verdict, d.verdict)}, in {d.agree} of {d.runs} runs."

    def _helps(self) -> str:
        beyond = "" if self.margin is None else f" by more than {self.margin:g}"
        helpful = self.helpful
        if not helpful:
            return f"No fix is shown to help{beyond}: no difference from the baseline is beyond noise."
        top = helpful[0]
        assert top.comparison is not None
        kinds = dict.fromkeys(each.fix.kind for each in helpful if each.fix.kind != top.fix.kind)
        also = f" Also shown to help, at one strength or more: {', '.join(kinds)}." if kinds else ""
        return (
            f"What helps most{beyond} is {_article(top.fix)}: {self._where} the {self.metric} is {top.score.short} instead of "
            f"{self.tried[0].score.short}, a difference of {top.comparison.difference.short}.{also}"
        )

    def sections(self) -> list[Section]:
        """Returns the report, section by section."""
        sections = [Section("Answer", [*self.sentences])]
        if self.warnings:
            sections.append(Section("What to distrust", [f"- {warning}" for warning in self.warnings]))
        sections.append(Section("Data and plan", [self.data, f"Baseline: {self.baseline}.", self._planned()]))
        judged = [f"{self.diagnosis}.", f"Judged one by one: {self.verdicts}."]
        sections += [Section("Does the baseline overfit?", judged, figure="curves"), self._fixes()]
        if self.rivals:
            rows = [[r.name, r.score.short, r.comparison.difference.short, _judged(r)] for r in self.rivals]
            told = f"Trained and scored on the same examples. The network is {_article(self.recommended)}."
            sections.append(Section("Simple models", [told], ["model", self.metric, "network minus model", "the network"], rows))
        sections.append(self._more_data())
        if self.columns:
            rows = [[c.column, c.loss.short, "" if not c.useless else "not shown to be needed"] for c in self.columns]
            told = f"How much worse the {self.metric} becomes if a column is permuted among held-out examples "
            told += f"(95% intervals over {'folds' if self.plan.folds > 1 else 'seeds'})."
            sections.append(Section("Columns", [told], ["column", "worse by", "remark"], rows, figure="columns"))
        return sections

    def _planned(self) -> str:
        plan = self.plan
        how = f"{plan.folds} folds, repeated {plan.repeats} times" if plan.repeats > 1 else f"{plan.folds} folds"
        how = how if plan.folds > 1 else f"{plan.repeats} seeds on one split in the order of time"
        what = f"{len(self.tried)} settings on {how}, {plan.epochs} epochs in batches of {plan.batch_size}"
        return f"Trained: {what}, in {duration(self.seconds)}."

    def _fixes(self) -> Section:
        rows = []
        for tried in self.tried:
            difference = "-" if tried.comparison is None else tried.comparison.difference.short
            seconds = "-" if math.isnan(tried.seconds) else f"{tried.seconds:.2g}"
            rows.append([tried.fix.name, tried.score.short, difference, tried.verdict, f"{tried.epochs:.0f}", seconds])
        better = "Larger" if self.larger_is_better else "Smaller"
        margin = "" if self.margin is None else f" A difference of {self.margin:g} or less does not matter."
        notes = [
            f"{better} is better. Differences are from the baseline, with intervals that hold for all {len(self.tried) - 1} of them "
            f"together (95%); they cover {self.covers}.{margin}"
        ]
        notes += [f"Not tried: {kind}. To try it, {how}." for kind, how in self.missing.items()]
        return Section("Which fix helps?", notes, ["fix", self.metric, "difference", "verdict", "epochs", "s"], rows, figure="fixes")

    def _more_data(self) -> Section:
        told = []
        if self.signal is not None:
            real = self.signal.p_value <= 0.05
            smallest = self.signal.p_value <= 1.001 / (1 + len(self.signal.permuted))
            least = ", the smallest that so many permutations can give" if smallest else ""
            told.append(
                f"Signal: with permuted targets, {len(self.signal.permuted)} times, the {self.metric} was "
                f"{self.signal.permuted.mean():.4g} on average; with the true targets it is {self.signal.score:.4g} "
                f"(p = {self.signal.p_value:.2g}{least}). "
                + ("There is something to learn." if real else "Nothing shows that there is anything to learn from these columns.")
            )
        if self.growth is None:
            return Section("Is there signal, and would more data help?", told)
        told.append(self.growth.sentence(self.metric))
        rows = [[str(size), score.short] for size, score in zip(self.growth.sizes, self.growth.scores, strict=True)]
        return Section("Is there signal, and would more data help?", told, ["training examples", self.metric], rows, figure="data")

    def markdown(self) -> str:
        """Returns the report as Markdown, with links to the figures that `write` makes."""
        return as_markdown("Overfitting study", self.sections())

    def to_pandas(self) -> Any:
        """Returns the fixes as a pandas data frame: scores, differences, intervals and verdicts."""
        import pandas

        return pandas.DataFrame(
            [
                {
                    "fix": t.fix.name,
                    "kind": t.fix.kind,
                    "score": t.score.mean,
                    "low": t.score.low,
                    "high": t.score.high,
                    "difference": math.nan if t.comparison is None else t.comparison.difference.mean,
                    "difference_low": math.nan if t.comparison is None else t.comparison.difference.low,
                    "difference_high": math.nan if t.comparison is None else t.comparison.difference.high,
                    "p_value": math.nan if t.comparison is None else t.comparison.p_value,
                    "verdict": t.verdict,
                    "epochs": t.epochs,
                    "seconds": t.seconds,
                }
                for t in self.tried
            ]
        )

    def record(self) -> dict[str, Any]:
        """Returns the answer as plain values for JSON. Numbers that are not finite are None."""

        def compared(c: Comparison | None) -> dict[str, Any] | None:
            return None if c is None else {"difference": c.difference.record(), "p_value": c.p_value, "verdict": c.verdict}

        return _finite(
            {
                "answer": self.sentences,
                "warnings": list(self.warnings),
                "metric": self.metric,
                "data": self.data,
                "plan": self.plan.record(),
                "diagnosis": {name: getattr(self.diagnosis, name) for name in ("verdict", "epoch", "onset", "runs", "agree")},
                "fixes": [
                    {
                        "name": t.fix.name,
                        "kind": t.fix.kind,
                        "setting": dict(t.fix.setting),
                        "score": t.score.record(),
                        "verdict": t.verdict,
                        "comparison": compared(t.comparison),
                        "epochs": t.epochs,
                        "seconds": t.seconds,
                    }
                    for t in self.tried
                ],
                "not_tried": dict(self.missing),
                "recommended": self.recommended.name,
                "test": {name: value.record() for name, value in self.test.items()},
                "test_rows": self.test_rows,
                "simple_models": [{"name": r.name, "score": r.score.record(), "network": compared(r.comparison)} for r in self.rivals],
                "signal": None if self.signal is None else {"score": self.signal.score, "p_value": self.signal.p_value},
                "more_data": None if self.growth is None else self.growth.record(),
                "columns": [{"name": c.column, "worse_by": c.loss.record(), "needed": not c.useless} for c in self.columns],
                "seconds": self.seconds,
                "sections": [asdict(section) for section in self.sections()],
            }
        )

    def plots(self) -> dict[str, Any]:
        """Returns the figures: name -> a matplotlib Figure."""
        from flaxfit.overfitting.figures import figures

        return figures(self)

    def report(self, file: str | Path) -> Path:
        """Writes the report as one HTML file that needs no network, and returns the file.

        Raises:
          ImportError: Plotly is not installed.
        """
        from flaxfit.overfitting.page import page

        Path(file).write_text(page(self), encoding="utf-8")
        return Path(file)

    def write(self, directory: str | Path) -> Path:
        """Writes `study.md` with its figures, `study.json`, and with Plotly `report.html` to a directory, and returns the Markdown file."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, figure in self.plots().items():
            figure.savefig(directory / f"{name}.png")
        (directory / "study.json").write_text(json.dumps(self.record(), indent=1))
        (directory / "study.md").write_text(self.markdown())
        with contextlib.suppress(ImportError):
            self.report(directory / "report.html")
        return directory / "study.md"


def _article(fix: Fix) -> str:
    """A fix as it appears in a sentence."""
    names = {
        "smaller network": "a smaller network",
        "larger network": "a larger network",
        "L2 penalty": "an L2 penalty",
        "L1 penalty": "an L1 penalty",
    }
    kind = names.get(fix.kind, "the baseline" if fix.kind == "baseline" else fix.kind)
    if fix.strength[:1] in ("", "("):
        return f"{kind} {fix.strength}".strip()
    return f"{kind} of {fix.strength.replace(', ', ' and ')}"


def _judged(rival: Rival) -> str:
    known = {"better": "is better", "worse": "is worse", "equivalent": "is as good"}
    return known.get(rival.comparison.verdict, "is not shown to be better")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
