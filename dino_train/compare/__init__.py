"""Several recipes on the same data and budget: what is run, running it, and what came of it."""
