"""The HTML report: what is in the file, and what a browser does with it."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flaxfit as ff
from flaxfit.report.html import confusion, curves, intervals, page, points
from flaxfit.report.statistics import interval
from flaxfit.sections import Section, as_html, as_markdown, as_text

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PROBE = """<script>
const first = places[0], found = {figures: places.length};
found.drawn = places.filter(p => p.querySelector('.main-svg')).length;
const press = (place, key) => place.dispatchEvent(new KeyboardEvent('keydown', {key}));
found.said = places.map(place => {
  press(place, 'End');
  press(place, 'ArrowLeft');
  return place.nextElementSibling.textContent;
});
found.hover = first.querySelectorAll('.hoverlayer text').length;
const shown = () => first.querySelectorAll('.scatterlayer .trace').length;
const click = text => [...document.querySelectorAll('label')].find(each => each.textContent === text).querySelector('input').click();
found.traces = [shown()];
for (const name of ['dropout', 'validation', 'plain', 'plain']) { click(name); found.traces.push(shown()); }
const axis = () => [first.layout.xaxis.type, first.layout.yaxis.type];
found.axes = [axis()];
for (const name of ['log y', 'log x, log y']) { click(name); found.axes.push(axis()); }
found.wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
dispatchEvent(new Event('beforeprint'));
found.plot = first.layout.width;
document.body.insertAdjacentHTML('beforeend', '<pre id="probe"></pre>');
document.querySelector('#probe').textContent = JSON.stringify(found);
</script>"""
AXE = """<script>axe.run().then(found => {
  document.body.insertAdjacentHTML('beforeend', '<pre id="probe"></pre>');
  document.querySelector('#probe').textContent = JSON.stringify(found.violations.map(each => [each.id, each.impact, each.nodes[0].html]));
});</script>"""


def browsed(page, scripts, directory):
    """What the scripts leave in the page, in a browser that is 500 pixels wide."""
    assert BROWSER is not None
    (directory / "report.html").write_text(page.replace("</body>", scripts + "</body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    options += ["--disable-sync", "--no-first-run", f"--user-data-dir={directory / 'profile'}", "--enable-logging=stderr", "--v=0"]
    options += ["--window-size=500,900", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run([BROWSER, *options, f"file://{directory / 'report.html'}"], check=True, capture_output=True, text=True)
    assert "CONSOLE" not in done.stderr
    return json.loads(html.unescape(done.stdout.split('<pre id="probe">')[-1].split("</pre>")[0]))


def history(seed):
    random, epochs = np.random.default_rng(seed), np.arange(40)
    falling = np.exp(-epochs / 10) + 0.01 * random.random(40)
    return ff.History({"loss": falling, "mse": falling, "val_loss": falling + 0.2, "val_mse": falling + 0.2})


@pytest.fixture(scope="module")
def report():
    sections = [
        Section("Answer", ["It overfits, </script><b>really</b>.", "- an item"]),
        Section("Curves", [], figure="curves"),
        Section("Fixes", ["*Stars* and under_scores."], ["fix", "score|s"], [["dropout", "0.1 | 0.2"]], figure="fixes"),
        Section("Data", [], figure="data"),
        Section("Confusion", [], figure="confusion"),
    ]
    scores = [interval([0.1, 0.2, 0.3]), interval([0.2, 0.4, 0.5])]
    figures = {
        "curves": curves({"plain": [history(0), history(1)], "dropout": [history(2)]}, "mse", {"plain": 12}),
        "fixes": intervals(["dropout", "decay"], scores, ["#0072B2", "#D55E00"], "difference", "Green helps.", 0.05),
        "data": points([10, 20], scores, (np.array([10.0, 40.0]), np.array([0.2, 0.1]), "law"), ("examples", "loss"), log_x=True),
        "confusion": confusion(np.array([[3, 1], [0, 4]]), ["no", "yes"]),
    }
    return sections, page("Study <1>", "600 examples", sections, figures, {"versions": "jax 1"})


def test_one_file_without_the_network(report):
    text = report[1]
    assert "<title>Study &lt;1&gt;</title>" in text
    assert "It overfits, &lt;/script&gt;&lt;b&gt;really&lt;/b&gt;." in text
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=\"(?!data:)", text)
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_draws_hovers_toggles_and_scales_by_the_keyboard_too(report, tmp_path):
    found = browsed(report[1], PROBE, tmp_path)
    assert found["figures"] == found["drawn"] == 4
    assert found["said"][0].startswith("epoch 39; plain, training: 0.02")
    assert found["said"][0].count(";") == 4
    assert found["said"][1:] == ["dropout: 0.2 (-0.04841 to 0.4484)", "10: 0.20 ± 0.25 (3)", "true yes, predicted no: 0"]
    assert found["hover"] > 0
    # A band and a line for each setting and kind, and the mark of one setting.
    assert found["traces"] == [9, 5, 2, 0, 2]
    assert found["axes"] == [["linear", "linear"], ["linear", "log"], ["log", "log"]]
    assert not found["wide"]
    assert found["plot"] == 660  # on paper


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None or "FLAXFIT_AXE" not in os.environ, reason="needs Chromium, and FLAXFIT_AXE, the file axe.min.js")
def test_nobody_is_shut_out(report, tmp_path):
    assert browsed(report[1], f"<script>{Path(os.environ['FLAXFIT_AXE']).read_text()}</script>{AXE}", tmp_path) == []


def test_many_long_curves_stay_below_five_megabytes():
    falling = 1 + np.arange(5000.0)[::-1]
    runs = [ff.History({"loss": falling, "mse": falling, "val_mse": falling})] * 2
    figure = curves({f"setting {number}": runs for number in range(60)}, "mse")
    assert len({trace.line.color for trace in figure.data if trace.name}) == 60
    assert len(page("many", "", [Section("Curves", [], figure="curves")], {"curves": figure}, {})) < 5_500_000


def test_a_diverged_setting_does_not_flatten_the_others():
    good, bad = history(0), ff.History({"loss": np.full(40, 1e6), "mse": np.full(40, 1e6)})
    low, high = curves({"good": [good], "bad": [bad]}, "mse").layout.yaxis.range
    assert low < 0.2
    assert 0.9 < high < 1.5


def test_the_same_sections_as_text_and_markdown(report):
    text = as_text(report[0])
    assert max(map(len, text.splitlines())) <= 80
    assert "dropout" in text
    markdown = as_markdown("Study", report[0])
    assert r"\*Stars\* and under\_scores." in markdown
    assert "| dropout | 0.1 &#124; 0.2 |" in markdown
    assert "![Curves](curves.png)" in markdown
    assert "<td>dropout</td>" in as_html(report[0])


def test_results_show_themselves_in_a_notebook_and_in_text():
    diagnosis = ff.diagnose(history(0))
    assert diagnosis._repr_html_() == f"<p>{diagnosis}.</p>"
    comparison = ff.statistics.compare([0.1, 0.2, 0.3], [0.2, 0.25, 0.4])
    assert comparison._repr_html_() == f"<p>{html.escape(str(comparison))}.</p>"
    assert comparison._repr_mimebundle_() == {"text/plain": str(comparison)}
    shown = history(0)._repr_html_()
    assert '<th scope="col">last epoch (40)</th>' in shown
    assert f'<td>val_mse</td><td class="number">{history(0)["val_mse"][0]:.4g}</td>' in shown
    assert "No epoch is finished yet." in ff.History({"loss": []})._repr_html_()
    train, test = ff.Dataset(np.zeros((4, 1)), [0, 1, 0, 1]), ff.Dataset(np.ones((3, 1)), [0, 1, 1])
    leakage = ff.data.leakage({"train": train, "test": test})
    assert all(html.escape(warning) in leakage._repr_html_() for warning in leakage.warnings)
    table = ff.data.Table({"age": [20.0, None, 40.0], "city": ["Rome", "Oslo", "Rome"], "sold": ["yes", "no", "no"]}, "sold")
    assert "<p>3 rows to predict sold: 2 classes, no (2), yes (1)</p>" in table._repr_html_()
    assert "<td>city</td><td>category</td>" in table._repr_html_()
    picture: Any = ff.plots.learning_curves({"run": history(0)})
    assert picture._repr_png_().startswith(b"\x89PNG")
