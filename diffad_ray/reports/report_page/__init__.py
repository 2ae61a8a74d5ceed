"""A report of a period as one HTML page that holds all it shows, and needs neither script nor network."""

from diffad_ray.reports.report_page.page import page, write_page

__all__ = ["page", "write_page"]
