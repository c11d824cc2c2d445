"""Feature inversion of transformer vision models, done several ways on equal footing and measured.

The names of ``__init__.pyi`` are imported when they are used: ``import invsuite`` imports neither torch nor a model.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
