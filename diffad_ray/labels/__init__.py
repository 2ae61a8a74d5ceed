"""Labelled images: datasets in public layouts, and tables of labels."""
