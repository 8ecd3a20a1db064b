"""Runtime operators for onnxruntime; there are none yet (see README.md in this folder)."""
