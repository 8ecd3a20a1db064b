"""What is known about a graph: supports, fills, demands, masks. Never edits."""
