"""The commands of `dino-ros`, a file each: `add_options` gives its parser the options, `run` runs it."""

import os

# Before NumPy is imported, which reads it then; see nodes/__init__.py. Beside other programs, whitening the tokens of a
# frame on two threads took ten times the CPU time of one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
