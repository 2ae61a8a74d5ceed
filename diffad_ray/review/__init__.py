"""Review: people look at images of a table and say which are defective."""
