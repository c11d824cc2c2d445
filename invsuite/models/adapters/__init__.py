"""From a source string ``ADAPTER:NAME`` to a model: one file per adapter, imported when a source names it."""
