"""The README and the documentation: their code runs, and prints what they say."""

from __future__ import annotations

import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import flaxfit as ff

pytestmark = pytest.mark.usefixtures("quickly_compiled")

HOME = Path(__file__).parents[2]
# The quickstart is a notebook: building the documentation runs it, and fails where it fails.
PAGES = [page for page in (HOME / "README.md", *sorted((HOME / "docs").glob("*.md"))) if "```python" in page.read_text("utf-8")]
INTERNAL = {"flaxfit.losses.mode_of_function"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_and_prints_what_the_page_says(page, run_page, request):
    if page.stem == "data":
        request.getfixturevalue("synthetic_cache")
    run_page(page)


def test_the_readme_is_short():
    lines = (HOME / "README.md").read_text(encoding="utf-8").splitlines()
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
