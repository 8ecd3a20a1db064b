"""What a run of graphopt tells its user: one record (`schema`), shown as a table, as HTML or as JSON."""
