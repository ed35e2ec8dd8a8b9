"""How the documentation is built: `sphinx-build -W -n docs docs/_build`."""

from __future__ import annotations

import pkgutil
import re
from typing import Any

import sphinx.ext.napoleon
from docutils import nodes
from sphinx.domains.python import PyObject
from sphinx.ext.napoleon import GoogleDocstring

import flaxfit

project = "flaxfit"
version = release = flaxfit.__version__
author = project_copyright = "the flaxfit authors"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "results/speed/*.md"]

# Pages. Notebooks are run at each build, so that what they print is what this version prints.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_execution_show_tb = True
nb_merge_streams = True

# The reference. A name in single backticks becomes a link where there is such an object. With -n, a name of one of these packages that
# does not exist is an error; other text in backticks stays as it is.
default_role = "py:obj"
nitpick_ignore_regex = [(r"py:obj", r"(?!(flaxfit|jax|flax|optax)(\.\w+)+$).*")]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say it in words, with shapes and units
autodoc_inherit_docstrings = False
autodoc_default_options = {"exclude-members": "tree_flatten_with_keys, tree_unflatten"}
napoleon_numpy_docstring = False
napoleon_attr_annotations = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 80

# Links to other projects come from their own sites, and on a machine without a network from the short lists beside this file, which are
# in the first, plain-text format of Sphinx's inventories.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3/", (None, "inventories/python.txt")),
    "numpy": ("https://numpy.org/doc/stable/", (None, "inventories/numpy.txt")),
    "jax": ("https://docs.jax.dev/en/latest/", (None, "inventories/jax.txt")),
    "flax": ("https://flax-linen.readthedocs.io/en/latest/", (None, "inventories/flax.txt")),
    "optax": ("https://optax.readthedocs.io/en/latest/", (None, "inventories/optax.txt")),
}
intersphinx_timeout = 10

html_theme = "sphinx_book_theme"
html_title = "flaxfit"
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True, "navbar_persistent": []}
html_static_path = ["static"]
html_css_files = ["flaxfit.css"]


def _exists(app: Any, env: Any, node: Any, content: nodes.Node) -> nodes.Node | None:
    """Shows a name that no inventory lists as plain code if it can be imported, and leaves the others to be reported."""
    try:
        pkgutil.resolve_name(node["reftarget"])
    except (ImportError, AttributeError, ValueError):
        return None
    return content if node["reftarget"].split(".")[0] in ("jax", "flax", "optax") else None


class _Docstring(GoogleDocstring):
    def _parse(self) -> None:
        if self._what == "property":  # napoleon would take the words before a colon for a type, and not read `Raises:`
            self._what = "method"
        super()._parse()


def _escape(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keeps reStructuredText from reading names that end in an underscore, such as val_, as links. Code in backticks is left alone."""
    for index, line in enumerate(lines):
        parts = line.split("`")
        parts[::2] = [re.sub(r"(?<=\w)_(?!\w)", r"\\_", part) for part in parts[::2]]
        lines[index] = "`".join(parts)


def _defaults(app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None) -> Any:
    """Shows an empty dict where a dataclass makes one, so that Sphinx can parse the signature."""
    return signature and signature.replace("<factory>", "{}"), returns


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", _escape)
    app.connect("missing-reference", _exists, priority=900)  # after intersphinx
    app.connect("autodoc-process-signature", _defaults)
    sphinx.ext.napoleon.GoogleDocstring = _Docstring
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
