"""How a run uses the machine: precision, memory, several processes."""
