"""From weights to students: the ONNX file, its precision, its foreground head, and how it compares with its teacher."""
