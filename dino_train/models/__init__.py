"""Vision Transformers, and files with their weights."""
