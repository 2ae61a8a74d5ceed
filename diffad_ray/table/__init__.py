"""The table that scoring writes and analysts read: its files, its columns, its runs, and its upkeep."""
