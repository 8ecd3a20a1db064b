"""Residual nets for 32x32 images: 20 layers, or 56, or others (He et al., 2016)."""
