"""Names that are imported when they are first used (PEP 562), so that importing a package costs nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from flaxfit.arguments import unknown


def names(package: str, places: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__`.

    Args:
      package: its `__name__`.
      places: public name -> the module below the package that the name is in, or is.
    """

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(unknown("name", name, places, f"in {package}"))
        module = importlib.import_module(f"{package}.{places[name]}")
        # A module may hold a function of its own name, as `export` does, or import a module of that name, as `nn` does.
        is_module = places[name].rsplit(".", 1)[-1] == name and not callable(getattr(module, name, None))
        value = module if is_module else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted([*places, *vars(sys.modules[package])])
