"""Passes that write what is left in the form that runs fastest."""
