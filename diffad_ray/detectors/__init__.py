"""What a detector is, the detectors themselves, their calibration and how they are kept."""
