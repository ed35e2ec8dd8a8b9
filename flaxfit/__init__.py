"""Functional training for Flax: whole runs compiled, overfitting diagnosed, fixes compared."""

from typing import Any

import lazy_loader

_lazy, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # what is not used is not imported
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        return _lazy(name)
    from flaxfit.arguments import absent

    raise absent(__name__, name, __all__, {"Callback": "ff.callbacks.Callback"})
