"""Gates: a first look that passes good images on, so that a detector sees only those that may be anomalous."""
