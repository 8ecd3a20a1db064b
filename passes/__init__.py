"""The passes: one small file each, grouped by what they are for."""
