"""One file for each command of `dino-train`: its options, `parser`, and what it does, `run`.

torch takes seconds to import: `run` does, so that `--help` does without.
"""
