"""What this machine can compute at most, what a detector needs of it, and what is reached."""
