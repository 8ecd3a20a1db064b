"""Random masked ONNX models: a recipe of bytes, the steps that spend it, and the loops that hunt with it."""
