"""Training of inverse networks: what every trained method shares."""
