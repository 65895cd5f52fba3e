"""Comparing recipes on the same data and budget: the plan, the runs and the results."""
