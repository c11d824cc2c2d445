"""The bundled models: architectures, weights and model card; ``tools/train_bundled`` trains them."""
