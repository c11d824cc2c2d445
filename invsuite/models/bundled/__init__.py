"""The bundled models: architectures, how they are trained, and (next to this file) their weights and model card."""

#: how every record of a bundled model names its weights: ``bundled vit``
BUNDLED = "bundled"
