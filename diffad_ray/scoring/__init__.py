"""Scoring: plan, fetch, decode, detect, masks and regions, table; Ray Data moves the shards from stage to stage."""
