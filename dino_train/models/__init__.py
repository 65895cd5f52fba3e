"""Vision Transformers, and the files that hold their weights."""
