"""``python -m invsuite``."""

from invsuite.cli import main

main()
