"""The page at `/`, on which a person drops an image and sees what a detector says of it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import Response

templates = Environment(loader=PackageLoader("diffad_ray.serving"), autoescape=True, undefined=StrictUndefined)


def page(detectors: Sequence[str], needs_token: bool) -> Response:
    """Return the page; its policy lets it run its own script alone, and talk to this server alone.

    Args:
        detectors: names to choose from.
        needs_token: whether the page asks for a token.
    """
    nonce = secrets.token_urlsafe(16)
    text = templates.get_template("try.html").render(detectors=detectors, needs_token=needs_token, nonce=nonce)
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Response(text, media_type="text/html", headers={"Content-Security-Policy": policy})
