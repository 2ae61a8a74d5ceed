"""Pseudo-anomalies: what the segmenter learns from, since real defects are few and ever new."""
