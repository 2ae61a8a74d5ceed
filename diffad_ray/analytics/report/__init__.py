"""The numbers of a period, and what changed since the period before; no image is opened."""

from diffad_ray.analytics.report.whole import Question, Report, report

__all__ = ["Question", "Report", "report"]
