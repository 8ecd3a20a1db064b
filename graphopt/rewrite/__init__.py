"""Editing: carries out a plan. Never analyses."""
