"""Model families that graphopt trains, exports and optimizes itself; torch is imported here, never by the optimizer."""
