"""Data sets that several families learn from: one file each, with a function ``load`` that returns ``Data``."""
