"""Familiarity: patch statistics of normal images, and a small network that segments the residuals from them."""
