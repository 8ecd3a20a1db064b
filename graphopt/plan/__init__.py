"""What to do: which positions of which axes are kept, decided for axes that belong together."""
