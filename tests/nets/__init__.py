"""Masked torch nets of the usual architectures, each with a twin that was narrowed by hand."""
