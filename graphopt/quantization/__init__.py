"""From a float model to one with QuantizeLinear and DequantizeLinear where the runtime has integer kernels."""
