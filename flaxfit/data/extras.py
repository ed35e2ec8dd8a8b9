"""Packages that only some data sets and files need."""

from __future__ import annotations

import importlib
from typing import Any


def needed(module: str, what: str) -> Any:
    """A module of the extra `data`, imported late.

    Args:
      module: its name.
      what: what needs it, for the error.

    Raises:
      ImportError: it is not installed.

    Example:
      >>> needed("json", "read_json").loads("[1]")
      [1]
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{what} needs {module}, which cannot be imported ({error}): pip install flaxfit[data]") from error
