"""Pretraining of Vision Transformers by self-distillation, from images, videos and robot logs."""
