"""The folder of a run: what is written into it, and what is read out of it."""
