"""A detector as a folder, and what its scores mean."""
