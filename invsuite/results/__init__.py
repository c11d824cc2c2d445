"""Results as records, and all that is computed from records alone: rows, intervals, comparisons, baselines."""
