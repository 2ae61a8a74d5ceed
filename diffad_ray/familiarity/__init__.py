"""Familiarity: how well each place of an image fits in with what normal images show."""
