"""The answer to a request that gets no decision: an HTTP status, and the reason in words."""

from __future__ import annotations

from diffad_ray.scoring.settings import Status

HTTP_STATUS: dict[Status, int] = {
    "unreadable": 422,
    "too_large": 413,
    "failed": 422,
    "missing": 404,
    "denied": 403,
    "archived": 409,
    "timeout": 504,
}
"HTTP statuses by the status that scoring gives an image of that kind."


class Refused(Exception):
    """A request is answered without a decision.

    Attributes:
        code: HTTP status.
        status: the status that scoring gives such an image; None where the request is at fault, not the image.
        retry_after: seconds after which the same request may succeed.
    """

    def __init__(self, code: int, message: str, status: Status | None = None, retry_after: int | None = None):
        super().__init__(message)
        self.code, self.status, self.retry_after = code, status, retry_after

    @classmethod
    def of_image(cls, status: Status, message: str) -> Refused:
        """Return the refusal of an image, with the status and the reason that scoring writes."""
        return cls(HTTP_STATUS[status], message, status)

    def headers(self) -> dict[str, str]:
        headers = {"WWW-Authenticate": "Bearer"} if self.code == 401 else {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.code in (408, 413):
            # What is left of the body is not read, so the connection can't carry another request.
            headers["Connection"] = "close"
        return headers
