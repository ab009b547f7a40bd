"""Columns and events as numbers and codes."""

# made by `make sync` from the modules' __all__: do not edit

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
