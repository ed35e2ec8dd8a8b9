"""Reports made of sections, as text of 80 columns, as Markdown and as HTML."""

from __future__ import annotations

import base64
import html
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import fill
from typing import Any


@dataclass(frozen=True)
class Section:
    """One section of a report."""

    title: str  # its heading, or nothing
    paragraphs: Sequence[str]  # its text. A paragraph that begins with "- " is an item of a list.
    columns: Sequence[str] = ()  # the headings of its table, or nothing
    rows: Sequence[Sequence[str]] = field(default=())  # the cells of its table
    figure: str | None = None  # the name of its figure, or None


class Shown(ABC):
    """What a notebook shows as HTML, and an interpreter and `print` as text, from its `sections()`."""

    @abstractmethod
    def sections(self) -> list[Section]:
        """Returns what there is to show."""

    def __str__(self) -> str:
        return as_text(self.sections())

    def _repr_html_(self) -> str:
        return as_html(self.sections())

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/plain": str(self)}


class Sentence(Shown):
    """What is shown as one sentence, the text that its class gives it."""

    def sections(self) -> list[Section]:
        """Returns the sentence as a section of a report."""
        return [Section("", [f"{self}."])]


class Plain(str):
    """Text that a notebook and an interpreter show as `print` does."""

    def __repr__(self) -> str:
        return str(self)


def as_text(sections: Sequence[Section], width: int = 80) -> str:
    """Returns the sections as text that fits a terminal."""
    parts = []
    for section in sections:
        lines = [section.title, "-" * len(section.title)]
        lines += [fill(text, width, subsequent_indent="  " * text.startswith("- "), break_on_hyphens=False) for text in section.paragraphs]
        if section.rows:
            lines.append(table(section.columns, section.rows, width))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int = 80, right: Sequence[str] = ()) -> str:
    """Returns a table as text, with the columns named in `right` aligned there. Cells that are too long for the width are folded."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        word = all(" " not in row[place] and len(row[place]) <= width // 2 for row in rows)
        side = "right" if column in right else "left"
        made.add_column(column, justify=side, overflow="fold", no_wrap=word and not place)  # names are not broken, so that the headings are
    for row in rows:
        made.add_row(*row)
    return "\n".join(line for line in printed(made, width).splitlines() if line)


def printed(table: Any, width: int = 80) -> str:
    """Returns a table of rich as text. In a notebook, nothing else is shown: rich's own console would leave an empty output."""
    from rich.console import Console

    console = Console(width=width, no_color=True, force_terminal=False, force_jupyter=False)
    with console.capture() as text:
        console.print(table, markup=False)
    return "\n".join(line.rstrip() for line in text.get().rstrip().splitlines())


def as_markdown(title: str, sections: Sequence[Section]) -> str:
    """Returns the sections as Markdown. The figure `name` is the file `name.png`."""
    parts = [f"# {title}"]
    for section in sections:
        parts.append(f"## {section.title}")
        listed = "\n".join(_escaped(text) for text in section.paragraphs if text.startswith("- "))
        parts += [_escaped(text) for text in section.paragraphs if not text.startswith("- ")] + [listed] * bool(listed)
        if section.rows:
            lines = [section.columns, ["---"] * len(section.columns), *section.rows]
            parts.append("\n".join(f"| {' | '.join(_escaped(cell).replace('|', '&#124;') for cell in line)} |" for line in lines))
        if section.figure:
            parts.append(f"![{section.title}]({section.figure}.png)")
    return "\n\n".join(parts) + "\n"


def as_html(sections: Sequence[Section], figures: Mapping[str, bytes] | None = None) -> str:
    """Returns the sections as HTML, for a notebook, with those of their figures that are given as PNG."""
    parts = []
    for section in sections:
        title = f"<p><strong>{html.escape(section.title)}</strong></p>" if section.title else ""
        table = table_html(section.columns, section.rows, section.title) if section.rows else ""
        parts.append(title + table + paragraphs_html(section.paragraphs))
        if figures and section.figure is not None and section.figure in figures:
            data = base64.b64encode(figures[section.figure]).decode()
            parts.append(f'<img alt="{html.escape(section.title)}" src="data:image/png;base64,{data}" style="max-width: 100%">')
    return "".join(parts)


def paragraphs_html(paragraphs: Sequence[str], answer: bool = False) -> str:
    """Returns paragraphs and lists as HTML, those of an answer in a box."""
    items = [text[2:] for text in paragraphs if text.startswith("- ")]
    plain = "".join(f"<p>{html.escape(text)}</p>" for text in paragraphs if not text.startswith("- "))
    listed = f"<ul>{''.join(f'<li>{html.escape(text)}</li>' for text in items)}</ul>" if items else ""
    return f'<div class="answer">{plain}{listed}</div>' if answer else plain + listed


def table_html(columns: Sequence[str], rows: Sequence[Sequence[str]], name: str = "") -> str:
    """Returns a table as HTML. The keyboard scrolls it where it is wider than the screen; `name` tells it from others."""
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' if column else "<td></td>" for column in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    label = html.escape(f"Table: {name}")
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="table" role="region" tabindex="0" aria-label="{label}">{table}</div>'


def _cell(text: str) -> str:
    kind = ' class="number"' if re.match(r"[-\d.]+(?![-\w])", text) else ""
    return f"<td{kind}>{html.escape(text)}</td>"


def _escaped(text: str) -> str:
    return text.replace("*", r"\*").replace("_", r"\_").replace("<", "&lt;")
