"""One table per operator family: what must shrink to how many parameters, and what must not shrink."""
