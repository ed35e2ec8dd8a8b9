"""Functional training for Flax: whole runs compiled, overfitting diagnosed, fixes compared."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # what is not used is not imported
__version__ = "0.2.0"
