"""The commands of `dino-ros`, a file each: `add_options` gives its parser the options, `run` runs it."""
