"""What is known about a model: read, never edited."""
