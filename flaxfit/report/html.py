"""A report as one HTML file that needs no network: sections, tables, and figures with hover, log axes and curves to switch on and off."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flaxfit.arguments import needed
from flaxfit.history import History
from flaxfit.report.plots import PALETTE
from flaxfit.report.sections import Section, paragraphs_html, table_html
from flaxfit.report.statistics import Interval

_STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --muted: #5f6670; --line: #d9dde3; --back: #fff; --panel: #f5f6f8; --accent: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e8eb; --muted: #a0a7b2; --line: #3a4049; --back: #16181c; --panel: #1f2228; --accent: #6cb8e6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 4rem; background: var(--back); color: var(--text);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
p, ul { margin: .5rem 0; } a { color: var(--accent); } .muted { color: var(--muted); font-size: .9rem; }
.answer { background: var(--panel); border-left: 4px solid var(--accent); padding: .8rem 1rem; border-radius: 4px; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--muted); font-weight: 600; } .figure { width: 100%; min-height: 260px; margin: .8rem 0; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--accent); }
@media print { body { max-width: none; } details > * { display: block; } h2 { break-after: avoid; } .figure { break-inside: avoid; } }
"""
_SCRIPT = """
const dark = window.matchMedia('(prefers-color-scheme: dark)');
function colors() {
  const style = getComputedStyle(document.documentElement);
  return {text: style.getPropertyValue('--text').trim(), line: style.getPropertyValue('--line').trim()};
}
function themed(layout) {
  const c = colors(), made = JSON.parse(JSON.stringify(layout));
  made.paper_bgcolor = made.plot_bgcolor = 'rgba(0,0,0,0)';
  made.font = {color: c.text, size: 13};
  made.modebar = {bgcolor: 'rgba(0,0,0,0)', color: c.line, activecolor: c.text};
  for (const name of Object.keys(made)) if (/^[xy]axis/.test(name)) Object.assign(made[name], {gridcolor: c.line, zerolinecolor: c.text});
  for (const menu of made.updatemenus || []) Object.assign(menu, {bgcolor: '#f5f6f8', font: {color: '#1c1e21'}});
  return made;
}
function draw() {
  for (const place of document.querySelectorAll('.figure')) {
    const figure = FIGURES[place.dataset.name];
    const options = {responsive: true, displaylogo: false, modeBarButtonsToRemove: ['lasso2d', 'select2d']};
    Plotly.react(place, figure.data, themed(figure.layout), options);
  }
}
draw();
dark.addEventListener('change', draw);
"""


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
            if note := figures[section.figure].layout.meta:
                parts.append(f'<p class="muted">{html.escape(note)}</p>')
            label = html.escape(f"Figure: {section.title}")
            height = figures[section.figure].layout.height or 400
            parts.append(
                f'<div class="figure" role="img" aria-label="{label}" data-name="{section.figure}" style="height:{height}px"></div>'
            )
        if section.rows:
            parts.append(table_html(section.columns, section.rows))
        parts.append("</section>")
    parts.append(
        "<section><h2>Configuration and versions</h2>" + table_html(["", ""], [[name, text] for name, text in facts.items()]) + "</section>"
    )
    data = {name: json.loads(figure.to_json()) for name, figure in figures.items()}
    text = json.dumps(data).replace("<", "\\u003c")  # so that no text in it ends the script
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n'
        + "\n".join(parts)
        + f"\n</main>\n<script>{offline.get_plotlyjs()}</script>\n<script>const FIGURES = {text};{_SCRIPT}</script></body></html>\n"
    )


def curves(runs: Mapping[str, Sequence[History]], column: str, marks: Mapping[str, tuple[float, str]] | None = None) -> Any:
    """Returns a figure of learning curves: of each setting the median of its runs and a band, with a switch for log axes.

    Args:
      runs: setting -> its runs.
      column: the training column.
      marks: setting -> an epoch to mark, and what to call it.
    """
    graph = needed("plotly.graph_objects", "an HTML report", "report")
    figure, many = graph.Figure(), max(map(len, runs.values())) > 1
    for color, (name, histories) in zip(_colors(len(runs)), runs.items(), strict=True):
        for each, dash in ((column, "solid"), (f"val_{column}", "dash")):
            if each not in histories[0]:
                continue
            values = np.full((len(histories), max(len(h.epochs) for h in histories)), np.nan)
            for row, history in zip(values, histories, strict=True):
                row[: len(history.epochs)] = history[each]
            alive = np.isfinite(values).sum(0) >= max(1, len(values) // 2)
            epochs = np.flatnonzero(alive) + 1
            low, middle, high = (np.nanquantile(values[:, alive], q, axis=0) for q in (0.1, 0.5, 0.9))
            label = f"{name}, {'validation' if each.startswith('val_') else 'training'}"
            if many:
                band = {"x": np.r_[epochs, epochs[::-1]], "y": np.r_[high, low[::-1]], "fill": "toself", "fillcolor": _faint(color)}
                figure.add_scatter(**band, line={"width": 0}, legendgroup=label, showlegend=False, hoverinfo="skip")
            figure.add_scatter(x=epochs, y=middle, name=label, legendgroup=label, line={"color": color, "dash": dash, "width": 2})
    for epoch, text in (marks or {}).values():
        figure.add_vline(x=epoch, line={"dash": "dot", "width": 1.5, "color": "gray"}, annotation_text=text)
    buttons = [
        {"label": label, "method": "relayout", "args": [{"yaxis.type": y, "xaxis.type": x}]}
        for label, x, y in (("linear", "linear", "linear"), ("log y", "linear", "log"), ("log x, log y", "log", "log"))
    ]
    figure.update_layout(
        _layout("epoch", column.replace("_", " "), 440),
        updatemenus=[
            {"type": "buttons", "direction": "right", "buttons": buttons, "x": 0, "y": 1.14, "xanchor": "left", "showactive": True}
        ],
        hovermode="x unified",
        meta="Medians of the runs, with bands from 10% to 90% of them." if many else None,
        legend={"orientation": "h", "y": -0.2},
    )
    return figure


def intervals(
    names: Sequence[str], values: Sequence[Interval], colors: Sequence[str], title: str, note: str = "", margin: float | None = None
) -> Any:
    """Returns a figure of intervals, one below the other, with a line at 0."""
    graph = needed("plotly.graph_objects", "an HTML report", "report")
    figure = graph.Figure()
    means = np.array([value.mean for value in values])
    low, high = (np.array([getattr(value, side) for value in values]) for side in ("low", "high"))
    known = np.isfinite(low)
    error = {"type": "data", "symmetric": False, "array": np.where(known, high - means, 0), "arrayminus": np.where(known, means - low, 0)}
    text = [f"{name}: {value.mean:.4g} ({value.low:.4g} to {value.high:.4g})" for name, value in zip(names, values, strict=True)]
    for color in dict.fromkeys(colors):
        chosen = [index for index, each in enumerate(colors) if each == color]
        bars = {**error, "array": error["array"][chosen], "arrayminus": error["arrayminus"][chosen], "color": color, "thickness": 2}
        figure.add_scatter(
            x=means[chosen],
            y=[names[index] for index in chosen],
            error_x=bars,
            mode="markers",
            marker={"color": color, "size": 9},
            showlegend=False,
            text=[text[index] for index in chosen],
            hovertemplate="%{text}<extra></extra>",
        )
    figure.add_vline(x=0, line={"width": 1, "color": "gray"})
    if margin is not None:
        figure.add_vrect(x0=-margin, x1=margin, fillcolor="gray", opacity=0.15, line_width=0)
    figure.update_layout(_layout(title, "", 110 + 26 * len(names)), meta=note or None)
    figure.update_yaxes(categoryorder="array", categoryarray=list(names)[::-1], automargin=True)
    return figure


def points(x: Sequence[float], values: Sequence[Interval], line: tuple[Any, Any, str], titles: tuple[str, str], log_x: bool = False) -> Any:
    """Returns a figure of means with intervals, and a line with its name."""
    graph = needed("plotly.graph_objects", "an HTML report", "report")
    figure = graph.Figure()
    up, down = ([abs(getattr(v, side) - v.mean) if np.isfinite(v.low) else 0 for v in values] for side in ("high", "low"))
    bars = {"type": "data", "symmetric": False, "array": up, "arrayminus": down}
    figure.add_scatter(
        x=list(x), y=[v.mean for v in values], error_y=bars, mode="markers", marker={"color": PALETTE[0], "size": 9}, name="measured"
    )
    figure.add_scatter(x=line[0], y=line[1], name=line[2], line={"color": PALETTE[1], "dash": "dash"})
    figure.update_layout(_layout(*titles, 380), legend={"orientation": "h", "y": -0.25})
    if log_x:
        figure.update_xaxes(type="log", tickvals=list(x), ticktext=[f"{value:g}" for value in x])
    return figure


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> Any:
    """Returns a figure of a confusion matrix, shape (classes, classes), true classes in rows."""
    graph = needed("plotly.graph_objects", "an HTML report", "report")
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    text = matrix.astype(str) if len(classes) <= 20 else None
    heat = graph.Heatmap(
        z=shares, x=list(classes), y=list(classes), text=text, texttemplate="%{text}", colorscale="Blues", zmin=0, zmax=1, showscale=False
    )
    heat.hovertemplate = "true %{y}, predicted %{x}: %{z:.1%} of the true ones<extra></extra>"
    figure = graph.Figure(heat)
    figure.update_layout(_layout("predicted", "true", 220 + 40 * min(len(classes), 12)))
    figure.update_xaxes(type="category")
    figure.update_yaxes(type="category", autorange="reversed", automargin=True)
    return figure


def _layout(x: str, y: str, height: int) -> dict[str, Any]:
    return {
        "template": "none",
        "height": height,
        "margin": {"l": 60, "r": 20, "t": 50, "b": 50},
        "xaxis": {"title": {"text": x}, "automargin": True},
        "yaxis": {"title": {"text": y}, "automargin": True},
    }


def _colors(count: int) -> list[str]:
    """Different colors, as many as are asked for."""
    if count <= len(PALETTE) - 1:
        return list(PALETTE[:count])
    return [f"hsl({360 * index / count:.0f}, 65%, 50%)" for index in range(count)]


def _faint(color: str) -> str:
    if color.startswith("hsl"):
        return color.replace("hsl", "hsla").replace(")", ", 0.15)")
    return f"rgba({', '.join(str(int(color[i : i + 2], 16)) for i in (1, 3, 5))}, 0.15)"
