"""The images of a report with their regions drawn on them, as cards that link to the original."""

from __future__ import annotations

from collections.abc import Sequence

from diffad_ray.analytics.report.examples import ExampleImage
from diffad_ray.errors import UserError
from diffad_ray.images import for_display
from diffad_ray.reports.originals import read_original
from diffad_ray.reports.overlay import draw_regions
from diffad_ray.reports.pages import Card, data_uri

LONGEST_SIDE = 320


def cards(images: Sequence[ExampleImage], most: int) -> list[Card]:
    """Return so many cards; an image that can't be shown gives its place to the next one, as long as there is one."""
    shown: list[Card] = []
    problems: list[Card] = []
    for image in images:
        if len(shown) == most:
            break
        card = _card(image)
        (problems if card.problem else shown).append(card)
    return shown + problems[: most - len(shown)]


def marked_picture(image: ExampleImage) -> tuple[str | None, str]:
    """Return an image with its regions as a URI, or None and the reason why it can't be shown."""
    try:
        pixels = read_original(image.image_uri, (image.width, image.height))
    except UserError as error:
        return None, str(error)
    return data_uri(for_display(draw_regions(pixels, image.regions), LONGEST_SIDE)), ""


def _card(image: ExampleImage) -> Card:
    title = f"{image.detector}, {image.day}: score {image.score:.3g}, tail probability {image.tail_probability:.2g}"
    try:
        pixels = read_original(image.image_uri, (image.width, image.height))
    except UserError as error:
        return Card(title, image.image_uri, problem=str(error))
    marked = for_display(draw_regions(pixels, image.regions), LONGEST_SIDE)
    pictures = {"image": data_uri(for_display(pixels, LONGEST_SIDE)), "marked": data_uri(marked)}
    return Card(title, image.image_uri, pictures)
