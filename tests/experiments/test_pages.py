from __future__ import annotations

import doctest
import json

import claims
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
        page.claim("dropout helps", better)
        page.claim("dropout helps by half", better, "its difference")
        page.claim("it is noise", None, "p 0.5")
        with pytest.raises(TypeError, match="the claim 'it helps' needs the statistic that decided it"):
            page.claim("it helps", True)
    claims = [part for part in json.loads((tmp_path / "page.json").read_text())["parts"] if part["kind"] == "claim"]
    assert [(claim["verdict"], claim["statistic"]) for claim in claims] == [
        ("held", str(better)),
        ("held", "its difference"),
        ("undecided", "p 0.5"),
    ]
    assert f"held: dropout helps ({better})" in capsys.readouterr().out


def test_a_study_that_fails_leaves_no_page(tmp_path):
    with pytest.raises(ZeroDivisionError), Page("Net", tmp_path, "One."):
        _ = 1 / 0
    assert not (tmp_path / "page.json").exists()
    with pytest.raises(FileNotFoundError, match=r"holds no page\.json: run the study to its end first"):
        markdown([tmp_path], tmp_path)
