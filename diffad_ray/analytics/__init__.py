"""What one wants to know of a table: SQL over it, its summary, and its runs."""
