"""What one wants to know of a table: queries, the summary, pictures."""
