"""A study's record: tables, claims and pictures, shown while it runs and kept as plain values, from which pages are made."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import claims
from matplotlib.figure import Figure

from flaxfit.report.statistics import Comparison
from flaxfit.storage.directory import RunDirectory, environment

LEVEL = 0.95
Origin = Literal["source", "upstream", "ours"]
"""Who makes a claim: the notes that a study follows, the tutorial or book that these follow, or this project."""
SETTING = "**What was done.**"
COUNT = re.compile(r" \((?:no interval from )?(\d+)(?: equal values)?\)$")
"""How an interval tells the number of its values."""
VERDICTS = {True: "held", False: "did not hold", None: "undecided"}


class Page:
    """What a study found: printed as it is added, and written to its directory at the end, with command, versions, device and time.

    A context manager; where the study fails or is interrupted, no page is written. The claims that comparisons decide are one family: at
    the end, Holm's method leaves undecided which of them their number alone may explain, and says so.

    Args:
      title: of the study.
      directory: for `page.json` and `plots/`.
      about: what was done, in a sentence or two of Markdown.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as home:
      ...     with Page("Sonar", home, "Hold-out and folds.") as page:
      ...         page.claim("source", "the test score lies below the training score", True, "difference 0.16 ± 0.03, p 1e-5")
      ...     print(markdown(home).splitlines()[0])
      held: the test score lies below the training score (difference 0.16 ± 0.03, p 1e-5)
      # Sonar
    """

    def __init__(self, title: str, directory: str | os.PathLike[str], about: str):
        self._directory, self._parts = RunDirectory(directory), []
        self._head = {"title": title, "about": " ".join(about.split())}
        self._began = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        home = self._directory.path
        home.mkdir(parents=True, exist_ok=True)
        spent = home / ".seconds"  # of all starts, since a study that was interrupted goes on
        seconds = round(time.perf_counter() - self._began + (float(spent.read_text()) if spent.exists() else 0), 1)
        spent.write_text(str(seconds))
        if kind is None:
            self._correct()
            record = {**self._head, "seconds": seconds, "environment": environment(), "parts": self._parts}
            scratch = home / ".page.json.tmp"
            scratch.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            scratch.replace(home / "page.json")

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Adds a table; numbers are shown with four significant digits, NaN as a dash, other values as `str` makes them.

        Where all intervals are of as many values, the table's title says how many, and the cells do not.
        """
        from rich.console import Console
        from rich.table import Table

        cells, count = _counted([[_shown(value) for value in row] for row in rows])
        self._parts.append({"kind": "table", "title": title, "count": count, "columns": list(columns), "rows": cells})
        table = Table(*columns, title=f"{title} (n = {count})" if count else title)
        for row in cells:
            table.add_row(*row)
        widths = [max(len(row[index]) for row in (list(columns), *cells)) + 3 for index in range(len(columns))]
        Console(width=max(80, min(180, 1 + sum(widths)))).print(table)

    def claim(
        self,
        origin: Origin,
        claim: str,
        held: bool | Comparison | Sequence[Comparison] | None,
        statistic: Any = None,
        wanted: claims.Wanted = "better",
    ) -> None:
        """Adds a claim, and whether it held.

        Args:
          origin: who says so.
          claim: a sentence.
          held: None: undecided. A Comparison stands for the claim that its second setting is what is `wanted`; several for all of it.
          statistic: what decided; by default one Comparison in words.
          wanted: see `claims.held`.

        Raises:
          TypeError: nothing says what decided.
        """
        p = None
        if held is not None and not isinstance(held, bool):
            statistic = claims.words(held, wanted) if statistic is None and isinstance(held, Comparison) else statistic
            held, p = claims.decided(held, wanted)
        if statistic is None:
            raise TypeError(f"the claim {claim!r} needs the statistic that decided it.")
        verdict = VERDICTS[held]
        self._parts.append({"kind": "claim", "origin": origin, "claim": claim, "verdict": verdict, "statistic": str(statistic), "p": p})
        print(f"{VERDICTS[held]}: {claim} ({statistic})")

    def _correct(self) -> None:
        """Holm's method over the claims that comparisons decided."""
        family = sorted((part for part in self._parts if part.get("p") is not None), key=lambda part: part["p"])
        largest = 0.0
        for place, part in enumerate(family):
            largest = max(largest, min(1.0, part["p"] * (len(family) - place)))
            if part["verdict"] != VERDICTS[None] and largest >= 1 - LEVEL:
                part["verdict"] = VERDICTS[None]
                part["statistic"] += f"; p {largest:.2g} as one of {len(family)} claims (Holm)"
                print(f"{part['verdict']} as one of {len(family)} claims: {part['claim']} (p {largest:.2g}, Holm)")

    def text(self, text: str) -> None:
        """Adds a paragraph of Markdown."""
        self._parts.append({"kind": "text", "text": text})
        print(text)

    def plot(self, name: str, figure: Figure, caption: str) -> None:
        """Writes a figure to `plots/NAME.png`, 8 inches wide figures as 800 pixels, and adds it."""
        self._directory.plots.mkdir(parents=True, exist_ok=True)
        path = self._directory.plots / f"{name}.png"
        figure.savefig(path, dpi=100)
        self._parts.append({"kind": "plot", "file": f"plots/{name}.png", "caption": caption})
        print(f"{caption}: {os.path.relpath(path)}")


def markdown(directory: str | os.PathLike[str], prefix: str = "plots/", found: str = "") -> str:
    """The page of a study as Markdown: what was found, the first picture, what was done, the claims, all else, and how it was made.

    Args:
      directory: of the study.
      prefix: what stands before the names of the pictures' files in links.
      found: what the study found, in a few sentences that somebody wrote who had read its numbers.

    Raises:
      FileNotFoundError: a directory without a page: its study has not come to its end.
    """
    path = Path(directory) / "page.json"
    if not path.is_file():
        raise FileNotFoundError(f"{directory} holds no page.json: run the study to its end first.")
    page = json.loads(path.read_text(encoding="utf-8"))
    lines = [f"# {page['title']}", "", *([found, ""] if found else [])]
    first = next((part for part in page["parts"] if part["kind"] == "plot"), None)
    lines += [*(_picture(first, prefix) if first else []), f"{SETTING} {page['about']}", ""]
    if claims := [part for part in page["parts"] if part["kind"] == "claim"]:
        decided = [[part["claim"], part["origin"], f"**{part['verdict']}**", part["statistic"]] for part in claims]
        lines += [*_table(["claim", "whose", "verdict", "what decided"], decided), ""]
    for part in page["parts"]:
        if part["kind"] == "table":
            count = f" (n = {part['count']})" if part["count"] else ""
            lines += [f"**{part['title']}**{count}", "", *_table(part["columns"], part["rows"]), ""]
        elif part["kind"] == "plot":
            lines += _picture(part, prefix) if part is not first else []
        elif part["kind"] == "text":
            lines += [part["text"], ""]
    environment = page["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items() if version)
    device = f"{environment['device']['count']} x {environment['device']['kind']}"
    lines += ["**How it was made**", "", f"`{_command(environment['command'])}`", ""]
    lines += [f"{page['seconds']:.0f} s on {device}; {versions}; {environment['started'][:10]}."]
    return "\n".join(lines) + "\n"


def _command(argv: Sequence[str]) -> str:
    """A recorded command as one would type it: without directories before the interpreter and the script's repository."""
    words = [Path(argv[0]).name.rstrip("0123456789.") or argv[0], *argv[1:]]
    return " ".join(f"experiments/{Path(word).name}" if word.endswith(".py") else word for word in words)


def _picture(part: dict[str, Any], prefix: str) -> list[str]:
    caption = part["caption"].removesuffix(".")
    return [f"![{caption}]({prefix}{Path(part['file']).name})", "", f"*{caption}.*", ""]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]


def _counted(cells: list[list[str]]) -> tuple[list[list[str]], int | None]:
    """Cells without the number of values of their intervals, and that number, where all have one number."""
    counts = {match[1] for row in cells for cell in row if (match := COUNT.search(cell))}
    if len(counts) != 1:
        return cells, None
    return [[COUNT.sub("", cell) for cell in row] for row in cells], int(counts.pop())


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if value == value else "-"
    return "" if value is None else str(value)
