"""Passes that remove what no longer does anything."""
