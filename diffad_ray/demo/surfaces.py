"""Inspection images made on the spot: a machined plate of brushed metal and a woven cloth, with defects on demand.

Parts differ as parts under one camera do: in lighting, by a few pixels and degrees of placement, in grain and threads.
Pictures are float32 [H,W,3] RGB in grey levels (0 to 255); lengths are pixels of a 160-pixel image times `unit`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
LIGHT = np.array([-0.6, -0.8], dtype=np.float32)  # where the light comes from, (x, y): the upper left
NAVY, SAND = np.array([(72, 94, 130), (190, 172, 140)], dtype=np.float32)
STAINS = np.array([(0.58, 0.46, 0.32), (0.76, 0.52, 0.40), (0.42, 0.46, 0.60)], dtype=np.float32)  # oil, rust, ink
GAP = np.float32(-2)  # height where there is no thread


class Sample(NamedTuple):
    image: Array  # [H,W,3] uint8, RGB
    mask: Array  # [H,W] bool, where a defect is visible; all False on a normal part
    defect: str  # "good", or the kind of defect


def normal(product: str, rng: np.random.Generator, size: int = 160) -> Sample:
    """A part without defects."""
    picture = PRODUCTS[product](rng, size).picture
    return Sample(np.rint(picture).clip(0, 255).astype(np.uint8), np.zeros((size, size), dtype=bool), "good")


def defective(product: str, kind: str, rng: np.random.Generator, size: int = 160) -> Sample:
    """A part with a defect of a kind listed in `DEFECTS[product]`; but for the defect, the normal part of that seed."""
    if kind not in DEFECTS[product]:
        raise ValueError(f"{product} has no defect {kind!r}; choose from {', '.join(DEFECTS[product])}")
    part = PRODUCTS[product](rng, size)
    picture = getattr(part, kind)()
    return Sample(np.rint(picture).clip(0, 255).astype(np.uint8), visible(part.picture, picture), kind)


def visible(before: Array, after: Array) -> Array:
    """[H,W] bool, where two pictures visibly differ; narrow gaps are closed and outlines filled, as people do."""
    change = np.abs(after.clip(0, 255) - before.clip(0, 255)).max(axis=2)
    above = (cv2.blur(change, (3, 3)) > 8).astype(np.uint8)
    closed = cv2.morphologyEx(above, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8), iterations=max(1, len(before) // 80))
    outlines, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(closed, outlines, -1, 1, cv2.FILLED).astype(bool)


def slope(height: Array) -> Array:
    """How much a surface rises per pixel towards the light; where it is positive, the surface is in shade."""
    return LIGHT[0] * cv2.Sobel(height, cv2.CV_32F, 1, 0) / 8 + LIGHT[1] * cv2.Sobel(height, cv2.CV_32F, 0, 1) / 8


class Part:
    """One part under the camera; the methods named after defects return its picture with that defect."""

    picture: Array
    face: Array  # [H,W], 1 on the surface under inspection, 0 on hole, chamfer and table

    def __init__(self, rng: np.random.Generator, size: int, shift: float, degrees: float) -> None:
        self.rng, self.size, self.unit = rng, size, size / 160
        placement: Array = cv2.getRotationMatrix2D((size / 2, size / 2), rng.uniform(-degrees, degrees), 1.0)
        placement[:, 2] += rng.uniform(-shift, shift, 2) * self.unit
        self.grid: Array = np.indices((size, size), dtype=np.float32)[::-1].transpose(1, 2, 0)  # [H,W,2], x and y
        self.x, self.y = cv2.transform(self.grid, placement.astype(np.float32)).transpose(2, 0, 1)  # on the part

    def noise(self, *shape: int) -> Array:
        return self.rng.standard_normal(shape or (self.size, self.size), dtype=np.float32)

    def smooth_noise(self, cells: int) -> Array:
        """[H,W] normal noise on `cells` x `cells` knots, smooth in between."""
        return cv2.resize(self.noise(cells, cells), (self.size, self.size), interpolation=cv2.INTER_CUBIC)

    def spot(self) -> Array:
        """A place (x, y) in pixels, well on the face."""
        reach = round(0.07 * self.size)
        while True:
            x, y = self.rng.integers(2 * reach, self.size - 2 * reach, 2)
            if self.face[y - reach : y + reach + 1, x - reach : x + reach + 1].min() > 0.5:
                return np.array([x, y])

    def curve(self, middle: Array, heading: float, length: float, bend: float) -> Array:
        """[24,2] points of a line through `middle` that turns by about `bend` radians, unevenly."""
        headings = heading + bend / 24 * np.cumsum(self.rng.normal(self.rng.choice([-1, 1]), 1.2, 24))
        points = np.cumsum(np.stack([np.cos(headings), np.sin(headings)], axis=1), axis=0) * length / 24
        return points - points.mean(axis=0) + middle

    def strokes(self, lines: list[Array], widths: Array, offset: float = 0) -> Array:
        """[H,W,1] coverage of the face by lines moved `offset` away from the light; drawn fourfold, then shrunk."""
        canvas = np.zeros((4 * self.size, 4 * self.size), dtype=np.uint8)
        for line in lines:
            corners = np.rint(4 * (line - offset * LIGHT) + 2).astype(int).tolist()
            for start, stop, width in zip(corners[:-1], corners[1:], widths[1:], strict=True):
                cv2.line(canvas, start, stop, 255, max(1, round(4 * float(width))))
        return (self.face * cv2.resize(canvas, self.face.shape, interpolation=cv2.INTER_AREA) / 255)[..., None]

    def blob(self, centre: Array, radius: float, roughness: float) -> Array:
        """[H,W] depth in pixels inside the ragged outline of an ellipse, negative outside."""
        angle, stretch = self.rng.uniform(0, np.pi), self.rng.uniform(1.0, 1.4)
        axes = np.array([[np.cos(angle) / stretch, np.sin(angle) / stretch], [-np.sin(angle), np.cos(angle)]])
        along, across = cv2.transform(self.grid, np.c_[axes, -axes @ centre].astype(np.float32)).transpose(2, 0, 1)
        ragged = 1 + roughness * self.smooth_noise(max(6, round(1.2 * self.size / radius)))
        return radius * ragged - np.hypot(along, across * stretch)

    def stain(self) -> Array:
        """A dried drop: soft edge, uneven inside, darker along its rim."""
        radius = self.rng.uniform(10, 19) * self.unit
        depth = self.blob(self.spot(), radius, 0.16) / radius
        wet = 0.38 + 0.15 * np.exp(-((7 * depth - 1) ** 2)) + 0.06 * self.smooth_noise(16)
        amount = self.face * (wet * (1 + np.tanh(5 * depth)) * self.rng.uniform(0.7, 0.95)).clip(0, 1)
        return self.picture * (1 - amount[..., None] * (1 - self.rng.choice(STAINS)))


class Plate(Part):
    """A brushed plate with a countersunk hole and a chamfered lower edge, on a dark table."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        super().__init__(rng, size, shift=2.5, degrees=1.2)
        # Streaks of several lengths: noise averaged along the grain, scaled back to unit variance.
        grain: Array = 0.9 * self.noise(size, 1) + 0.5 * self.noise()
        for length, weight in ((9 * self.unit, 0.8), (41 * self.unit, 1.4), (121 * self.unit, 1.5)):
            grain += weight * length**0.5 * cv2.blur(self.noise(), (max(3, round(length)), 1))
        grain = cv2.remap(grain, self.x, self.y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        # Brushing smears the lamp's reflection across the grain: a broad upright band, somewhere near the middle.
        x, y, unit = self.x / size, self.y / size, self.unit
        across = (x - rng.uniform(0.3, 0.6) + rng.uniform(-0.25, 0.25) * (y - 0.5)) / rng.uniform(0.22, 0.32)
        tone = rng.uniform(104, 122) + rng.uniform(44, 66) * np.exp(-(across**2)) + rng.uniform(-9, 9) * (y - 0.5)
        level, far = tone * (1 + 0.03 * grain), size * np.hypot(x - 0.73, y - 0.30)
        rings = np.interp(far / unit, np.linspace(0, 24, 24), self.noise(24))  # the turning marks of the countersink
        for layer, depth in (  # from the bottom up: how bright each is, and how far inside it a pixel lies
            (tone * (0.86 - 0.42 * slope(far) + 0.05 * rings), 18 * unit - far),
            (20 + 16 * -slope(far).clip(-1, 0) * (far / (11 * unit)) ** 3, 11 * unit - far),
            (tone * rng.uniform(1.28, 1.36) + 2 * grain, (y - 0.90) * size),
            (24 + 130 * (y - 0.945), (y - 0.945) * size),
        ):
            level = level + (depth + 0.5).clip(0, 1) * (layer - level)
        tint = np.array([0.985, 1.0, 1.02]) + 0.008 * self.noise(3)
        self.picture = ((level + 1.6 * self.noise())[..., None] * tint).astype(np.float32)  # noise of the camera
        self.face = (np.minimum(far - 18 * unit, (0.90 - y) * size) + 0.5).clip(0, 1).astype(np.float32)

    def scratch(self) -> Array:
        """A groove across the grain, where it shows: dark inside, with a bright burr along its far side."""
        line = self.curve(self.spot(), *self.rng.uniform((0.3, 35 * self.unit, 0), (2.8, 95 * self.unit, 0.4)))
        widths = self.rng.uniform(1.5, 2.3) * self.unit * np.sin(np.linspace(0.15, 3.06, 24)) ** 0.5
        groove, burr = self.strokes([line], widths), self.strokes([line], 0.8 * widths, 1.1 * self.unit)
        dark = self.picture * (1 - self.rng.uniform(0.55, 0.7) * groove)
        return dark + self.rng.uniform(0.5, 0.75) * burr * (1 - 0.6 * groove) * (235 - dark).clip(0)

    def dent(self) -> Array:
        """A shallow hollow: the slope near the light is in shade, the far one shines."""
        hollow = -self.blob(self.spot(), self.rng.uniform(9, 15) * self.unit, 0.05).clip(0, 7 * self.unit)
        hollow = cv2.GaussianBlur(hollow, (0, 0), 2.2 * self.unit)
        lit = 0.012 * hollow / self.unit - self.rng.uniform(0.45, 0.75) * slope(hollow)
        return self.picture * (1 + (self.face * lit.clip(-0.7, 0.6))[..., None])

    def pit(self) -> Array:
        """One to four corrosion pits: dark and ragged, with a rim that shines on its far side."""
        centre, picture = self.spot(), self.picture
        for place in centre + self.unit * self.rng.uniform(-9, 9, (self.rng.integers(1, 5), 2)):
            depth = self.blob(place, self.rng.uniform(2.5, 5.0) * self.unit, 0.13)
            rim = np.exp(-((depth / self.unit + 0.6) ** 2)) * (0.15 + 0.4 * slope(depth)).clip(-0.2, 0.5)
            change = self.face * (rim - (0.8 * depth + 0.5).clip(0, 1) * self.rng.uniform(0.65, 0.85))
            picture = picture * (1 + change[..., None]).clip(0.1, 2)
        return picture


class Threads(NamedTuple):  # the warp or the weft of a cloth
    height: Array  # [H,W] above the middle of the cloth, in thread widths
    number: Array  # [H,W] int, which thread
    along: Array  # [H,W] place along the thread, in thread widths
    colour: Array  # [H,W,3]


def shaded(warp: Threads, weft: Threads) -> Array:
    """The picture of a cloth: threads are round, light comes from one side, and it is dark deep down."""
    height = np.maximum(warp.height, weft.height)
    colour = np.where((warp.height > weft.height)[..., None], warp.colour, weft.colour)
    light = (0.72 + 0.28 * height).clip(0.12, 1) * (1 - 0.9 * slope(cv2.GaussianBlur(height, (3, 3), 0))).clip(0.5, 1.4)
    return cv2.GaussianBlur(colour * light[..., None], (3, 3), 0.6)


class Cloth(Part):
    """A twill cloth of navy warp (upright) and sand weft (level), seen close up: a thread is 8 pixels wide."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        super().__init__(rng, size, shift=4, degrees=1.5)
        # Four threads of margin keep thread numbers positive; broad waves pull the cloth out of square.
        column, row = (axis / (size / 20) + 4 + 0.15 * self.smooth_noise(5) for axis in (self.x, self.y))
        light = rng.uniform(0.92, 1.06) + 0.035 * self.smooth_noise(3)
        self.layers = self.threads(column, row, light, NAVY, 1), self.threads(row, column, light, SAND, -1)
        self.picture, self.face = shaded(*self.layers), np.ones((size, size), np.float32)

    def threads(self, across: Array, along: Array, light: Array, colour: Array, side: int) -> Threads:
        """Threads side by side, at coordinates in thread widths; `side` is 1 for warp and -1 for weft."""
        number, count = across.astype(int), int(across.max()) + 1
        wander = 0.24 * cv2.blur(self.noise(count, 4 * int(along.max()) + 4), (9, 1))
        offset = across - number.astype(np.float32) - 0.5 + wander[number, (4 * along).astype(int)]
        top = 1 - (offset / (0.46 + 0.02 * self.noise(count))[number]) ** 2
        # A 2/2 twill: each thread goes over two and under two, and the next one does the same a thread later.
        rise = side * np.cos(np.float32(np.pi / 2) * (along + number.astype(np.float32) - 1))
        height = np.where(top > 0, 0.5 * np.sqrt(top.clip(0)) + 0.5 * (1.4 * rise).clip(-1, 1), GAP)
        ply = np.cos(8 * along + 7 * offset + 3 * self.noise(count)[number])  # the twist of the yarn
        fibre = 3 * cv2.blur(self.noise(), (2, 7) if side > 0 else (7, 2))
        tone = light * (1 + 0.05 * self.noise(count))[number] * (1 + 0.06 * ply + 0.05 * fibre)
        return Threads(height, number, along, tone[..., None] * colour)

    def frayed(self, picture: Array, roots: list[Array], colour: Array) -> Array:
        """The picture with a fine curly fibre lying about each root."""
        fibres = [self.curve(root, self.rng.uniform(0, 6.3), 7 * self.unit, self.rng.uniform(0, 1.5)) for root in roots]
        return picture + 0.8 * self.strokes(fibres, np.full(24, 0.6 * self.unit)) * (1.05 * colour - picture)

    def broken_thread(self) -> Array:
        """A length of one thread is gone: what it lay on shows, sunken and in shade, between two frayed ends."""
        (x, y), which, reach = self.spot(), int(self.rng.integers(2)), self.rng.uniform(2.5, 5.5)
        cut, other = self.layers[which], self.layers[1 - which]
        gone = (cut.number == cut.number[y, x]) & (np.abs(cut.along - cut.along[y, x]) < reach + 0.3 * self.noise())
        rest = cut._replace(height=np.where(gone, GAP, cut.height))
        picture = shaded(*((other, rest) if which else (rest, other)))
        picture *= 1 - np.float32(0.45) * (gone & (cut.height > other.height))[..., None]
        ends = [np.array([x, y]) + end * reach * 8 * self.unit * np.array([which, 1 - which]) for end in (-1, 1)]
        return self.frayed(picture, 3 * ends, (NAVY, SAND)[which])

    def hole(self) -> Array:
        """Both sets of threads are torn, each thread at its own place; fibres reach into the dark."""
        centre, radius = self.spot(), self.rng.uniform(9, 16) * self.unit
        depth, torn = self.blob(centre, radius, 0.08) + self.unit * self.noise(), []
        for layer in self.layers:
            slack = 2.5 * self.unit * self.noise(int(layer.number.max()) + 1)
            torn.append(layer._replace(height=np.where(depth + slack[layer.number] > 0, GAP, layer.height)))
        angles = self.rng.uniform(0, 6.3, self.rng.integers(5, 11))
        roots = centre + 0.85 * radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return self.frayed(shaded(*torn), list(roots), SAND)

    def loose_thread(self) -> Array:
        """A pulled thread lies in a curve on top of the cloth and casts a shadow."""
        line = self.curve(self.spot(), *self.rng.uniform((0, 45 * self.unit, 0.6), (3.1, 110 * self.unit, 1.6)))
        widths = np.full(24, self.rng.uniform(2.1, 3.3) * self.unit)
        picture = self.picture * (1 - 0.5 * cv2.blur(self.strokes([line], widths, 2.2 * self.unit), (3, 3))[..., None])
        for share, offset, shade in ((1.0, 0, 0.8), (0.7, -0.2, 1.05), (0.35, -0.5, 1.25)):
            picture = picture + self.strokes([line], share * widths, offset * self.unit) * (shade * SAND - picture)
        return picture


PRODUCTS: dict[str, type[Plate] | type[Cloth]] = {"brushed_metal": Plate, "weave": Cloth}
DEFECTS: dict[str, tuple[str, ...]] = {
    "brushed_metal": ("scratch", "dent", "pit", "stain"),
    "weave": ("broken_thread", "hole", "loose_thread", "stain"),
}
