"""The training loop, its checks and optimizers, and running it on a cluster."""
