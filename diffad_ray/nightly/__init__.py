"""The night: what keeps a table up to date without anyone at the keyboard, step after step."""
