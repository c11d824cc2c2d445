"""Running suites: from a suite file to the record of every cell."""
