"""Training: the loop in plain torch, and Ray Train around it."""
