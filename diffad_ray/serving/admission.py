"""How many requests a replica takes at the same time, and when a refused one may come back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from diffad_ray.serving.refusals import Refused

LONGEST_WAIT = 60
"Seconds of `Retry-After` at most."


class Place:
    """The place of a request, with the bytes of its body as they arrive."""

    def __init__(self, admission: Admission):
        self.admission, self.bytes = admission, 0

    def hold(self, count: int) -> None:
        """Count bytes that the request holds in memory.

        Raises:
            Refused: all requests together would hold too many.
        """
        if self.admission.bytes + count > self.admission.most_bytes and self.admission.taken > 1:
            raise self.admission.busy()
        self.bytes += count
        self.admission.bytes += count


class Admission:
    """Counts requests and the bytes of their bodies; used in one event loop.

    Args:
        places: requests at the same time.
        most_bytes: bytes of their bodies; a request that is alone may exceed them.
    """

    def __init__(self, places: int, most_bytes: int):
        self.places, self.most_bytes = places, most_bytes
        self.taken = self.bytes = 0
        self.seconds_an_image = 0.1
        self.is_closed = False

    @contextmanager
    def place(self) -> Iterator[Place]:
        """Return a place for the length of a request.

        Raises:
            Refused: 503, because all places are taken or the server shuts down.
        """
        if self.is_closed:
            raise Refused(503, "the server shuts down", retry_after=LONGEST_WAIT // 10)
        if self.taken >= self.places:
            raise self.busy()
        self.taken += 1
        place = Place(self)
        try:
            yield place
        finally:
            self.taken -= 1
            self.bytes -= place.bytes

    def busy(self) -> Refused:
        """Return the refusal of a request without a place, with the time until half of the queue is done."""
        seconds = math.ceil(self.taken * self.seconds_an_image / 2)
        return Refused(503, "the queue is full", retry_after=max(1, min(seconds, LONGEST_WAIT)))

    def learn(self, seconds_an_image: float) -> None:
        """Take note of how long the networks took for an image of the last batch."""
        self.seconds_an_image += 0.2 * (seconds_an_image - self.seconds_an_image)
