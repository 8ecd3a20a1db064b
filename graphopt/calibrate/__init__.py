"""What tensors hold, and the scale and zero point that lose least of it: numbers only, no graphs."""
