"""Self-supervised pretraining, distillation, evaluation and export of Vision Transformers."""
