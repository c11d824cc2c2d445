"""What a run did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class RunOutcome:
    """Counts of one run.

    Attributes:
        computed: cells that were fitted and inverted.
        reused: cells whose record was there.
        added: those of them that measures were added to.
        failed: cells that broke, or that measures could not be added to.
        skipped: cells that cannot have numbers.
    """

    computed: int = 0
    reused: int = 0
    added: int = 0
    failed: int = 0
    skipped: int = 0
