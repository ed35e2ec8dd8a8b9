"""The README and the documentation: their code runs, and prints what they say."""

from __future__ import annotations

import inspect
import os
import pkgutil
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import flaxfit as ff
from flaxfit import cli

HOME = Path(__file__).parents[2]
# The quickstart is a notebook: building the documentation runs it, and fails where it fails.
PAGES = {
    str(page.relative_to(HOME).with_suffix("")).removeprefix("docs/"): page.read_text(encoding="utf-8")
    for page in (HOME / "README.md", *(HOME / "docs").glob("*.md"), *(HOME / "docs" / "guides").glob("*.md"))
}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FOREIGN = re.compile(r"^```\{code-block\} python\n(.*?)^```$", re.DOTALL | re.MULTILINE)  # code for Keras, PyTorch or several processes
INTERNAL = {"flaxfit.losses.mode_of_function"}
WITH_CODE = sorted(name for name, text in PAGES.items() if name != "quickstart" and "```python" in text)


@pytest.mark.parametrize("page", WITH_CODE)
def test_the_code_of_a_page_runs_and_prints_what_the_page_says(page, tmp_path, monkeypatch, capsys, request):
    """Blocks of a page run in order, in one namespace; a block of text is what the block before it printed."""
    if page == "data":
        request.getfixturevalue("synthetic_cache")
    monkeypatch.chdir(tmp_path)
    namespace, printed = {"__name__": "__main__"}, ""
    for language, code in BLOCK.findall(PAGES[page]):
        if language == "python":
            exec(compile(code, page, "exec"), namespace)
            printed = capsys.readouterr().out
        elif language == "text":
            assert words(printed) == words(code)
        elif language == "sh":
            for line in filter(lambda line: line.startswith("flaxfit "), code.splitlines()):
                assert cli.main(shlex.split(line)[1:]) == 0, capsys.readouterr().err


@pytest.mark.slow
def test_the_script_for_several_hosts_is_one_run_of_two_processes(tmp_path):
    (code,) = FOREIGN.findall(PAGES["guides/devices"])
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


def words(text):
    """A text without its numbers, which differ a little between kinds of processors, and its line breaks."""
    return re.sub(r"[-+]?\d[\d.]*(e-?\d+)?", "#", text).split()


def test_the_readme_is_short():
    lines = PAGES["README"].splitlines()
    assert len(lines) <= 120
    assert any(line.startswith("![") for line in lines[:30])


def public():
    """The public names: those of the package, and in its modules those whose docstring has an example."""
    for name in ff.__all__:
        value = getattr(ff, name)
        if not inspect.ismodule(value):
            yield f"flaxfit.{name}"
            continue
        for inner in getattr(value, "__all__", None) or vars(value):
            found = getattr(value, inner)
            own = hasattr(value, "__all__") or (getattr(found, "__module__", "") == value.__name__ and "Example:" in (found.__doc__ or ""))
            if own and (full := f"flaxfit.{name}.{inner}") not in INTERNAL and not inner.startswith("_"):
                yield full


def test_the_reference_has_every_public_name():
    reference = "\n".join(page.read_text(encoding="utf-8") for page in (HOME / "docs" / "api").glob("*.md"))
    documented = re.findall(r"^\.\. auto\w+:: (\S+)$", reference, re.MULTILINE)
    objects = [pkgutil.resolve_name(name) for name in documented]
    assert [name for name in public() if pkgutil.resolve_name(name) not in objects] == []
