"""The commands of `dino-train`, one file each: `parser` defines the options, `run` executes it.

Importing torch takes seconds, so it is left to `run`: `--help` answers at once.
"""
