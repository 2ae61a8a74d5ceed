"""The detectors and their common base classes."""
