"""A report as one HTML file that needs no network: sections, tables, and figures with hover, log axes and curves to switch on and off.

`page.css` and `page.js` beside this file are its looks and its behavior. What a mouse does in a figure, the keyboard does as well.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb

from flaxfit.arguments import needed
from flaxfit.history import History
from flaxfit.report.bands import band, limits
from flaxfit.report.colors import PALETTE, distinct
from flaxfit.report.statistics import Interval
from flaxfit.sections import Section, paragraphs_html, table_html

_POINTS = 20_000  # of all curves together, so that the file stays below 5 MB


def page(title: str, subtitle: str, sections: Sequence[Section], figures: Mapping[str, Any], facts: Mapping[str, str]) -> str:
    """Returns a report as one HTML page.

    Args:
      title: its heading.
      subtitle: a line below it.
      sections: its sections. The first one is the answer.
      figures: name -> a Plotly figure, for the sections that name one.
      facts: configuration and versions, for the table at the end.

    Raises:
      ImportError: Plotly is not installed.
    """
    offline = needed("plotly.offline", "an HTML report", "report")
    parts = [f"<h1>{html.escape(title)}</h1>", f'<p class="muted">{html.escape(subtitle)}</p>']
    for place, section in enumerate(sections):
        parts.append(f"<section><h2>{html.escape(section.title)}</h2>" + paragraphs_html(section.paragraphs, place == 0))
        if section.figure is not None and section.figure in figures:
            layout = figures[section.figure].layout
            note = html.escape((layout.meta or {}).get("note", ""))
            label = html.escape(f"Figure: {section.title} (arrow keys go from point to point)")
            parts.append(
                f'<div class="plot"><p class="muted">{note}</p><div class="figure" role="application" tabindex="0" aria-label="{label}" '
                f'data-name="{section.figure}" style="height:{layout.height}px"></div></div>'
            )
        if section.rows:
            parts.append(table_html(section.columns, section.rows, section.title))
        parts.append("</section>")
    about = table_html(["what", "value"], [[name, text] for name, text in facts.items()], "Configuration and versions")
    parts.append(f'<section class="facts"><h2>Configuration and versions</h2>{about}</section>')
    data = {name: json.loads(figure.to_json()) for name, figure in figures.items()}
    text = json.dumps(data).replace("<", "\\u003c")  # so that no text in it ends the script
    style, script = (files("flaxfit.report").joinpath(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{html.escape(title)}</title><style>\n{style}</style></head>\n<body><main>\n'
        + "\n".join(parts)
        + f"\n</main>\n<script>{offline.get_plotlyjs()}</script>\n<script>\nconst FIGURES = {text};\n{script}</script></body></html>\n"
    )


def curves(settings: Mapping[str, Sequence[History]], column: str, onsets: Mapping[str, int] | None = None) -> Any:
    """Returns a figure of learning curves: the mean and a band of each setting, with switches for log axes, settings and kinds of curves.

    Args:
      settings: setting -> the histories of its runs.
      column: the training column. Its `val_` twin is drawn where there is one.
      onsets: setting -> the epoch from which on it overfits, of those that do.
    """
    graph = needed("plotly.graph_objects", "an HTML report", "report")
    figure, drawn, many = graph.Figure(), [], max(map(len, settings.values())) > 1
    colors = dict(zip(settings, distinct(len(settings), PALETTE[:-1]), strict=True))
    dashes = {"training": "", "validation": "6 3"}
    for name, histories in settings.items():
        for kind, each in (("training", column), ("validation", f"val_{column}")):
            if not all(each in history for history in histories):
                continue
            epochs, *levels = band(histories, each)
            drawn.append((epochs, levels[0]))
            kept = np.unique(np.linspace(0, len(epochs) - 1, max(50, _POINTS // (6 * len(settings)))).astype(int))[: len(epochs)]
            x, (mean, low, high) = epochs[kept], (level[kept].astype(np.float32) for level in levels)
            common = {"legendgroup": name, "meta": [name, kind], "showlegend": False}
            if many:
                faint = f"rgba({', '.join(str(round(255 * part)) for part in to_rgb(colors[name]))}, 0.15)"
                filled = {"x": np.r_[x, x[::-1]], "y": np.r_[high, low[::-1]], "fill": "toself", "fillcolor": faint}
                figure.add_scatter(**filled, mode="lines", line={"width": 0}, hoverinfo="skip", **common)
            line = {"color": colors[name], "dash": "dash" if kind == "validation" else "solid", "width": 2}
            figure.add_scatter(x=x, y=mean, name=f"{name}, {kind}", mode="lines", line=line, hovertemplate="%{y:.4g}", **common)
            onset = (onsets or {}).get(name)
            if kind == "validation" and onset in epochs:
                marker = {"symbol": "triangle-down", "size": 13, "color": colors[name], "line": {"color": "white", "width": 1}}
                place = {"x": [onset], "y": levels[0][epochs == onset].astype(np.float32)}
                figure.add_scatter(**place, mode="markers", marker=marker, hoverinfo="skip", **common)
    axes = []
    for label, log_x, log_y in (("linear", False, False), ("log y", False, True), ("log x", True, False), ("log x, log y", True, True)):
        span = limits(drawn, log_x, log_y)
        y = {"type": "log" if log_y else "linear", "autorange": span is None}
        if span is not None:
            y["range"] = list(np.log10(span)) if log_y else list(span)
        axes.append([label, {"type": "log" if log_x else "linear", "autorange": True}, y])
    notes = ["Means of the runs, with bands from 10% to 90% of them."] * many
    notes += ["A triangle marks the epoch from which on a setting overfits."] * bool(onsets)
    kinds = list(dict.fromkeys(trace.meta[1] for trace in figure.data))
    meta = {"note": " ".join([*notes, "Drag to zoom, double-click to go back."]), "axes": axes}
    meta |= {"kinds": [[kind, dashes[kind]] for kind in kinds], "names": list(colors.items())}
    figure.update_layout(_layout("epoch", column.replace("_", " "), 400), hovermode="x unified", meta=meta)
    figure.update_yaxes(axes[0][2])
    return figure


def intervals(
    names: Sequence[str], values: Sequence[Interval], colors: Sequence[str], title: str, note: str = "", margin: float | None = None
) -> Any:
    """Returns a figure of intervals, one below the other, with a line at 0."""
    graph = needed("plotly.graph_objects", "an HTML report", "report")
    figure = graph.Figure()
    for name, value, color in zip(names, values, colors, strict=True):
        figure.add_scatter(
            x=[value.mean],
            y=[name],
            error_x={**_bars([value]), "color": color, "thickness": 2},
            mode="markers",
            marker={"color": color, "size": 9},
            showlegend=False,
            text=[f"{name}: {value.mean:.4g} ({value.low:.4g} to {value.high:.4g})"],
            hovertemplate="%{text}<extra></extra>",
        )
    figure.add_vline(x=0, line={"width": 1, "color": "gray"})
    if margin is not None:
        figure.add_vrect(x0=-margin, x1=margin, fillcolor="gray", opacity=0.15, line_width=0)
    figure.update_layout(_layout(title, "", 80 + 26 * len(names)), meta={"note": note})
    figure.update_yaxes(categoryorder="array", categoryarray=list(names)[::-1], automargin=True)
    return figure


def points(
    x: Sequence[float],
    values: Sequence[Interval],
    line: tuple[Any, Any, str],
    titles: tuple[str, str],
    log_x: bool = False,
    note: str = "",
) -> Any:
    """Returns a figure of means with intervals, and a line with its name."""
    graph = needed("plotly.graph_objects", "an HTML report", "report")
    figure = graph.Figure()
    figure.add_scatter(
        x=list(x),
        y=[v.mean for v in values],
        error_y=_bars(values),
        mode="markers",
        marker={"color": PALETTE[0], "size": 9},
        name="measured",
        text=[f"{each:.4g}: {value}" for each, value in zip(x, values, strict=True)],
        hovertemplate="%{text}<extra></extra>",
    )
    figure.add_scatter(x=line[0], y=line[1], name=line[2], mode="lines", line={"color": PALETTE[1], "dash": "dash"}, hoverinfo="skip")
    above = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    figure.update_layout(_layout(*titles, 380), legend=above, meta={"note": note})
    figure.update_layout(margin_t=50)
    if log_x:
        figure.update_xaxes(type="log", tickvals=list(x), ticktext=[f"{value:g}" for value in x])
    return figure


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> Any:
    """Returns a figure of a confusion matrix, shape (classes, classes), true classes in rows."""
    graph = needed("plotly.graph_objects", "an HTML report", "report")
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    shown = "%{text}" if len(classes) <= 20 else None
    names, counts = list(classes), matrix.astype(int).tolist()
    heat = graph.Heatmap(z=shares, x=names, y=names, text=counts, texttemplate=shown, zmin=0, zmax=1, showscale=False)
    heat.hovertemplate = "true %{y}, predicted %{x}: %{z:.1%} of the true ones<extra></extra>"
    figure = graph.Figure(heat)
    figure.update_layout(_layout("predicted", "true", 220 + 40 * min(len(classes), 12)))
    figure.update_xaxes(type="category")
    figure.update_yaxes(type="category", autorange="reversed", automargin=True)
    return figure


def _bars(values: Sequence[Interval]) -> dict[str, Any]:
    """How far intervals reach from their means; those that are not known reach nowhere."""
    up, down = ([abs(getattr(v, side) - v.mean) if np.isfinite(v.low) else 0 for v in values] for side in ("high", "low"))
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down}


def _layout(x: str, y: str, height: int) -> dict[str, Any]:
    return {
        "template": "none",
        "height": height,
        "margin": {"l": 60, "r": 20, "t": 12, "b": 50},
        "xaxis": {"title": {"text": x}, "automargin": True},
        "yaxis": {"title": {"text": y}, "automargin": True},
    }
