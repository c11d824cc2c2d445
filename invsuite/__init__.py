"""invsuite: feature inversion of transformer vision models, done several ways on equal footing and measured."""

__version__ = "0.1.0"
