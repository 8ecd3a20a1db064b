"""Passes that fold masks into what they mask."""
