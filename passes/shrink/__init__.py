"""Passes that make a model smaller, from the local form to the narrowed weights."""
