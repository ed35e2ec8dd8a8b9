"""The HTML report: what is in the file, and what a browser does with it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

import flaxfit as ff
from flaxfit.report.html import confusion, curves, intervals, page, points
from flaxfit.report.sections import Section, as_html, as_markdown, as_text
from flaxfit.report.statistics import interval

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PROBE = """<script>
const places = [...document.querySelectorAll('.figure')], first = places[0], found = {figures: places.length};
found.drawn = places.filter(p => p.querySelector('.main-svg')).length;
Plotly.Fx.hover(first, [{curveNumber: first.data.findIndex(trace => trace.hoverinfo !== 'skip'), pointNumber: 3}]);
found.hover = first.querySelectorAll('.hoverlayer text').length;
const shown = () => first.querySelectorAll('.scatterlayer .trace').length;
found.traces = shown();
Plotly.restyle(first, {visible: 'legendonly'}, [0]).then(() => {
  found.hidden = shown();
  first.querySelectorAll('.updatemenu-button')[1].dispatchEvent(new MouseEvent('click', {bubbles: true}));
  setTimeout(() => {
    found.axis = first.layout.yaxis.type;
    found.wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
    document.body.insertAdjacentHTML('beforeend', '<pre id="probe">' + JSON.stringify(found) + '</pre>');
  }, 200);
});
</script>"""


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
        "curves": curves({"plain": [history(0), history(1)], "dropout": [history(2)]}, "mse", {"plain": (12.0, "from here on")}),
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
def test_a_browser_draws_hovers_toggles_and_scales(report, tmp_path):
    assert BROWSER is not None
    (tmp_path / "report.html").write_text(report[1].replace("</body>", PROBE + "</body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    options += ["--disable-sync", "--no-first-run", f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0"]
    command = [
        BROWSER,
        *options,
        "--window-size=500,900",
        "--virtual-time-budget=20000",
        "--dump-dom",
        f"file://{tmp_path / 'report.html'}",
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "CONSOLE" not in done.stderr
    found = json.loads(html.unescape(done.stdout.split('<pre id="probe">')[-1].split("</pre>")[0]))
    assert found["figures"] == found["drawn"] == 4
    assert found["hover"] > 0
    assert found["hidden"] == found["traces"] - 1
    assert found["axis"] == "log"
    assert not found["wide"]


def test_the_same_sections_as_text_and_markdown(report):
    text = as_text(report[0])
    assert max(map(len, text.splitlines())) <= 80
    assert "dropout" in text
    markdown = as_markdown("Study", report[0])
    assert r"\*Stars\* and under\_scores." in markdown
    assert "| dropout | 0.1 &#124; 0.2 |" in markdown
    assert "![Curves](curves.png)" in markdown
    assert "<td>dropout</td>" in as_html(report[0])
