"""The study of fixes: does a model overfit, since when, and which fix helps on examples that it never saw?"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
