"""Optional packages, which only some data sets and files need."""

from __future__ import annotations

import importlib
from typing import Any


def needed(module: str, what: str) -> Any:
    """Imports a module of the extra `data`.

    Raises:
      ImportError: it is not installed. The message says that `what` needs it, and how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{what} needs {module}, which cannot be imported ({error}): pip install flaxfit[data]") from error
