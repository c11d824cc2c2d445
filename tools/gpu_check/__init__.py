"""A check of the suite on a GPU machine without a network: pack what it lacks, then test, time and benchmark there."""
