"""A demonstration plant: an archive made on the spot, from training to report."""
