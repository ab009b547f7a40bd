"""From the event log to the A/B test: `import recsys_nb as rn`, then
`rn.Dataset`, `rn.Recommender`, ...; each name is loaded when it is first used."""

# made by `make sync` from the modules' __all__: do not edit

import lazy_loader

from . import _help  # noqa: F401  what `help` says of parameters

__version__ = "0.2.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
