"""Detectors as files for other programs."""
