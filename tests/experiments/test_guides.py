"""The guides: their code runs. Code for Keras runs where it is installed, by experiments/from_keras.py."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("quickly_compiled")

GUIDES = Path(__file__).parents[2] / "docs" / "guides"


@pytest.mark.parametrize("page", sorted(GUIDES.glob("*.md")), ids=lambda page: page.stem)
def test_the_code_of_a_guide_runs_and_prints_what_the_guide_says(page, run_page):
    run_page(page)


def test_the_scripts_for_keras_are_found():
    import from_keras

    _, pairs = from_keras.scripts()
    assert [("keras.Sequential" in theirs, "ff.Task" in ours) for theirs, ours in pairs] == [(True, True)] * 3


@pytest.mark.slow
def test_the_script_for_several_hosts_is_one_run_of_two_processes(tmp_path):
    (code,) = re.findall(r"^```\{code-block\} python\n(.*?)^```$", (GUIDES / "devices.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    (tmp_path / "train.py").write_text(code)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    started = [
        subprocess.Popen(
            [sys.executable, "train.py"],
            cwd=tmp_path,
            env=os.environ | {"FLAXFIT_COORDINATOR": place, "FLAXFIT_PROCESSES": "2", "FLAXFIT_PROCESS": str(number)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    printed = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert re.search(r"^loss 0\.\d{4}$", printed[0], re.MULTILINE)
    assert "loss" not in printed[1]
