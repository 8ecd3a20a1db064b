"""Steps: each adds a few nodes behind one value of the pool. One file per operator family."""
