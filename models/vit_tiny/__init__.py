"""A small vision transformer for digits (8x8) and CIFAR-10 (32x32)."""
