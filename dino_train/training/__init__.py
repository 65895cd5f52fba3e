"""The training loop, its optimizers, and running it on a cluster."""
