"""Training objectives: self-supervised methods and distillation, one file each."""
