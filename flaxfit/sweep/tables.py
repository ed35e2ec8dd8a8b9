"""Scores and comparisons by setting, as tables that fit 80 columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np

from flaxfit.report.statistics import Comparison, Interval, share
from flaxfit.sections import Section, Shown, printed


@dataclass(frozen=True)
class Row:
    """One setting in a `Table`.

    Attributes:
      setting: the hyperparameters of the setting.
      scores: the score of each run, or the mean over seeds of each split.
      interval: the interval of the finite scores.
      runs: the number of runs.
      broken: the number of runs whose score is not finite.
      collapsed: the names of the runs that are no better than a constant prediction.
      without: the interval without these runs, or None if there are none.
    """

    setting: Mapping[str, Any]
    scores: np.ndarray
    interval: Interval
    runs: int
    broken: int = 0
    collapsed: tuple[str, ...] = ()
    without: Interval | None = None


class _Tabled(Shown):
    """A table with remarks, which is shown as one section."""

    def __str__(self) -> str:
        """The table with its remarks below it, at most 80 columns wide."""
        from rich.table import Table as RichTable

        section = self.sections()[0]
        table = RichTable(title=section.title)
        for column in section.columns:
            table.add_column(column, overflow="fold")
        for row in section.rows:
            table.add_row(*(re.sub(r",(?=\S)", ", ", cell) for cell in row))  # so that the names of settings wrap where they can
        return "\n".join([printed(table, 80), *(fill(note, 80) for note in section.paragraphs)])


@dataclass(frozen=True)
class Table(_Tabled):
    """Scores by setting. Its text is a table with mean, interval and standard deviation.

    Attributes:
      metric: the metric and the epoch.
      rows: the settings.
      covers: what the intervals cover, and what they do not; empty if there are none.
      notes: further remarks below the table.
    """

    metric: str
    rows: Sequence[Row]
    covers: str
    notes: Sequence[str] = ()

    def to_pandas(self) -> Any:
        """Returns the settings as a pandas data frame: hyperparameters, mean, interval, standard deviation and runs."""
        import pandas

        return pandas.DataFrame(
            [
                {
                    **row.setting,
                    "mean": row.interval.mean,
                    "low": row.interval.low,
                    "high": row.interval.high,
                    "sd": row.interval.sd,
                    "runs": row.runs,
                    "not_finite": row.broken,
                }
                for row in self.rows
            ]
        )

    def sections(self) -> list[Section]:
        """Returns the table with its remarks as a section of a report."""
        title = f"mean, {self.rows[0].interval.level:.0%} interval" if self.covers else "mean"
        names = list(self.rows[0].setting)
        lines = []
        for row in self.rows:
            runs = f"{row.runs}, {row.broken} not finite" if row.broken else str(row.runs)
            sd = "-" if np.isnan(row.interval.sd) else f"{row.interval.sd:.2g}"
            lines.append([*(str(row.setting[name]) for name in names), runs, row.interval.short, sd])
        notes = [f"Intervals cover {self.covers}."] * bool(self.covers) + [*self.notes]
        for row in self.rows:
            if row.collapsed:
                rate = share(len(row.collapsed), row.runs)
                without = f"; without them {row.without}" if row.without is not None else ""
                some = ", ".join(row.collapsed[:5]) + (", ..." if len(row.collapsed) > 5 else "")
                notes.append(
                    f"No better than a constant prediction: {len(row.collapsed)} of {row.runs} runs ({rate.mean:.0%}, {rate.low:.0%} to "
                    f"{rate.high:.0%}): {some}{without}."
                )
        return [Section(self.metric, notes, [*names, "runs", title, "sd"], lines)]


@dataclass(frozen=True)
class Comparisons(_Tabled):
    """Comparisons of settings with a baseline, corrected for their number. Its text is a table.

    Attributes:
      metric: the metric and the epoch.
      baseline: the name of the setting that the others are compared with.
      rows: the comparisons, as `flaxfit.statistics.family` corrects them.
      broken: name of a setting that is not compared -> the number of its runs whose score is not finite.
      covers: what the intervals cover, and what they do not.
      notes: further remarks below the table.
    """

    metric: str
    baseline: str
    rows: Sequence[Comparison]
    broken: Mapping[str, int]
    covers: str
    notes: Sequence[str] = ()

    def to_pandas(self) -> Any:
        """Returns the comparisons as a pandas data frame: setting, difference, interval, p-value and verdict."""
        import pandas

        return pandas.DataFrame(
            [
                {
                    "setting": c.names[1],
                    "difference": c.difference.mean,
                    "low": c.difference.low,
                    "high": c.difference.high,
                    "p_value": c.p_value,
                    "verdict": c.verdict,
                }
                for c in self.rows
            ]
        )

    def sections(self) -> list[Section]:
        """Returns the comparisons with their remarks as a section of a report."""
        correlations = ["-" if np.isnan(c.correlation) else f"{c.correlation:+.2f}" for c in self.rows]
        lines = [[c.names[1], c.difference.short, f"{c.p_value:.2g}", r, c.verdict] for c, r in zip(self.rows, correlations, strict=True)]
        lines += [[name, "-", "-", "-", f"{count} runs not finite"] for name, count in self.broken.items()]
        level = f"{self.rows[0].difference.level:.0%}" if self.rows else ""
        several = f"p-values are corrected by Holm's method; intervals hold at {level} for all {len(self.rows)} together."
        notes = [several] * (len(self.rows) > 1) + [f"Intervals cover {self.covers}.", *self.notes]
        for c in self.rows:
            if c.margin is not None and c.verdict == "undecided" and c.needed > c.difference.count:
                number = f"{c.needed:.0f} runs" if np.isfinite(c.needed) else "more held-out rows"
                notes.append(f"{c.names[1]}: an interval of ± {c.margin:g} takes {number}.")
        title = f"{self.metric}: difference from {self.baseline}"
        return [Section(title, notes, ["setting", "difference", "p", "r of pairs", "verdict"], lines)]
