"""The page on which people review images: its template with style and script, and its pictures."""
