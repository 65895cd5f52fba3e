"""From weights to student files: ONNX, precision, foreground head, and how a student compares with its teacher."""
