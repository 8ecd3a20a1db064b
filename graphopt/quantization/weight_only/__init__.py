"""Weights in 2, 4 or 8 bits, a scale for every block of inputs; activations stay as they are.

``place`` says which weights, ``solved`` finds scales and integers, ``insert`` writes the operators that read them.
"""

from graphopt.quantization.weight_only.edit import insert
from graphopt.quantization.weight_only.place import asked, place
from graphopt.quantization.weight_only.solve import solved

__all__ = ["asked", "insert", "place", "solved"]
