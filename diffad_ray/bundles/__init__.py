"""Detector bundles: saved detectors with the calibration of their scores."""
