"""The page itself, as a server answers it, and as one file that holds its images."""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

from diffad_ray.reports.pages import rendered

TITLE = "Review"


class Page(NamedTuple):
    """A page and the policy that lets it run its own script alone."""

    text: str
    policy: str


def review_page(data: dict[str, Any] | None = None) -> Page:
    """Return the page.

    Args:
        data: all that a page in one file shows, see `diffad_ray.review.single_file`; None: the page asks its server.
    """
    nonce = secrets.token_urlsafe(16)
    connections, images = ("'self'", "blob: data:") if data is None else ("'none'", "data:")
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}' 'unsafe-inline'; "
        f"img-src {images}; connect-src {connections}; base-uri 'none'; form-action 'none'"
    )
    title = TITLE if data is None else f"Review of {data['table']}"
    text = rendered("review.html", title=title, data=data, nonce=nonce, policy=policy)
    return Page(text, policy + ("" if data else "; frame-ancestors 'none'"))
