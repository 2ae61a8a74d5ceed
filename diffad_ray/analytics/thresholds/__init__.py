"""Thresholds of a table: what each would mean, how one is chosen, and how it is applied."""
