"""Labelled images: data sets in public layouts, tables of labels."""
