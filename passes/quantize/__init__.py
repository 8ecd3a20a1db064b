"""Passes that prepare a model for quantization, or repair what it costs."""
