"""What a run uses of the machine: precision, compilation, several processes."""
