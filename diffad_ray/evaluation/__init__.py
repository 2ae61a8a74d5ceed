"""Evaluation of detectors on labelled images: exact metrics, their intervals, ablations."""
