from __future__ import annotations

import doctest
import json

import claims
import numpy as np
import pages
import pytest
from pages import Page, markdown

import flaxfit as ff


@pytest.mark.parametrize("module", [claims, pages])
def test_examples(module):
    assert doctest.testmod(module).failed == 0 < doctest.testmod(module).attempted


def test_a_comparison_decides_a_claim(tmp_path, capsys):
    better = ff.statistics.compare([3.0, 4.0, 5.0], [1.0, 2.1, 3.0], names=("plain", "dropout"))
    with Page("Net", tmp_path, "One.") as page:
        page.claim("ours", "dropout helps", better)
        page.claim("ours", "dropout helps by half", better, "its difference")
        page.claim("ours", "it is noise", None, "p 0.5")
        with pytest.raises(TypeError, match="the claim 'it helps' needs the statistic that decided it"):
            page.claim("ours", "it helps", True)
    claims = [part for part in json.loads((tmp_path / "page.json").read_text())["parts"] if part["kind"] == "claim"]
    assert [(claim["verdict"], claim["statistic"]) for claim in claims] == [
        ("held", "dropout minus plain: -1.97 ± 0.14 (3), p 0.00029"),
        ("held", "its difference"),
        ("undecided", "p 0.5"),
    ]
    assert "held: dropout helps (dropout minus plain: -1.97" in capsys.readouterr().out


def test_the_claims_of_a_study_are_one_family(tmp_path, capsys):
    """Of three claims at p 0.03, 0.001 and 0.2, Holm leaves the second: 0.03 is doubled."""
    rng = np.random.default_rng(0)
    differences = rng.normal(size=8)
    differences = (differences - differences.mean()) / differences.std(ddof=1)
    found = [ff.statistics.compare(np.zeros(8), differences - shift) for shift in (0.95, 1.9, 0.5)]
    assert [c.p_value < 0.05 for c in found] == [True, True, False]
    with Page("Net", tmp_path, "One.") as page:
        for name, comparison in zip("abc", found, strict=True):
            page.claim("ours", name, comparison)
        page.claim("ours", "a check", True, "equal bits")
    claims = [part for part in json.loads((tmp_path / "page.json").read_text())["parts"] if part["kind"] == "claim"]
    assert [claim["verdict"] for claim in claims] == ["undecided", "held", "undecided", "held"]
    assert claims[0]["statistic"].endswith("as one of 3 claims (Holm)")
    assert "undecided as one of 3 claims: a (p 0.0" in capsys.readouterr().out


def test_a_page_says_first_what_was_found_and_once_how_many_values_there_are(tmp_path):
    few, many = ff.statistics.interval([0.1, 0.2, 0.3]), ff.statistics.interval([0.5] * 3)
    with Page("Net", tmp_path, "Three runs.") as page:
        page.claim("ours", "it learns", True, "0.7 to 0.5")
        page.table("Losses", ("net", "loss"), [("one", few), ("two", many)])
        page.table("Both", ("net", "loss"), [("one", few), ("two", ff.statistics.interval([0.1, 0.2]))])
        for name in ("curves", "weights"):
            page.plot(name, ff.plots.panels()[0], name.title())
    lines = [line for line in markdown(tmp_path, "net_", "It learns.").splitlines() if line]
    assert lines[:5] == ["# Net", "It learns.", "![Curves](net_curves.png)", "*Curves.*", "**What was done.** Three runs."]
    assert lines[7] == "| it learns | ours | **held** | 0.7 to 0.5 |"
    assert lines[8:13] == ["**Losses** (n = 3)", "| net | loss |", "| --- | --- |", f"| one | {few.short} |", "| two | 0.5 |"]
    assert f"| one | {few} |" in lines
    assert lines.count("*Curves.*") == lines.count("*Weights.*") == 1


def test_a_study_that_fails_leaves_no_page(tmp_path):
    with pytest.raises(ZeroDivisionError), Page("Net", tmp_path, "One."):
        _ = 1 / 0
    assert not (tmp_path / "page.json").exists()
    with pytest.raises(FileNotFoundError, match=r"holds no page\.json: run the study to its end first"):
        markdown(tmp_path)
