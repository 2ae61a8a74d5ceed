"""Drift: whether what is normal has moved, day by day, and what to do about it."""

from diffad_ray.analytics.drift.judgement import Drift, GroupDrift, drift

__all__ = ["Drift", "GroupDrift", "drift"]
