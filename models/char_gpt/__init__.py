"""A small decoder of letters with grouped-query attention and a key-value cache, trained on Shakespeare."""
