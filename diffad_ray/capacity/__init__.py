"""Capacity: what scoring an archive by a given time takes, from a short trial on images of the archive itself."""
