"""Drawing for the demo's scenes: smooth shapes, gradients and glows with Pillow.

Shapes are drawn on a canvas `SUPERSAMPLING` times too large and averaged down, which makes their
edges smooth. Nothing here knows what a scene is.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLING = 4

Colour = tuple[int, int, int]
Point = tuple[float, float]


class Pen:
    """Draws on `image` in units of one's own: a point (x, y) lies at pixel (x, y) * `scale`.

    On a mask (mode "1" or "L") every shape is drawn in full. `light` turns the colour of a thing
    into what it looks like at this hour; what is drawn with `shines=True` keeps its own.
    """

    def __init__(
        self, image: Image.Image, scale: float, light: Callable[[Colour], Colour] = lambda c: c
    ) -> None:
        self._draw = ImageDraw.Draw(image, "RGBA" if image.mode.startswith("RGB") else image.mode)
        self._scale = scale
        self._light = light
        self._is_mask = not image.mode.startswith("RGB")

    def polygon(self, points: Sequence[Point], colour: Colour, alpha: float = 1.0) -> None:
        """A filled polygon."""
        self._draw.polygon(self._pixels(points), fill=self._fill(colour, alpha))

    def ellipse(
        self, centre: Point, radii: Point, colour: Colour, alpha: float = 1.0, shines: bool = False
    ) -> None:
        """A filled ellipse with its axes along x and y."""
        (x, y), (rx, ry) = centre, radii
        corners = self._pixels([(x - rx, y - ry), (x + rx, y + ry)])
        self._draw.ellipse(corners, fill=self._fill(colour, alpha, shines))

    def half_disc(self, centre: Point, radii: Point, colour: Colour, *, upper: bool) -> None:
        """The upper or lower half of an ellipse."""
        (x, y), (rx, ry) = centre, radii
        corners = self._pixels([(x - rx, y - ry), (x + rx, y + ry)])
        start = 180 if upper else 0
        self._draw.pieslice(corners, start, start + 180, fill=self._fill(colour, 1.0))

    def rectangle(
        self,
        corner: Point,
        opposite: Point,
        colour: Colour,
        radius: float = 0.0,
        shines: bool = False,
    ) -> None:
        """A filled rectangle, its corners rounded by `radius`."""
        corners = self._pixels([corner, opposite])
        fill = self._fill(colour, 1.0, shines)
        self._draw.rounded_rectangle(corners, radius * self._scale, fill=fill)

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """A line through `points` with round ends and joints."""
        fill, pixels = self._fill(colour, 1.0), self._pixels(points)
        self._draw.line(pixels, fill=fill, width=max(1, round(width * self._scale)), joint="curve")
        for end in (points[0], points[-1]):
            self.ellipse(end, (width / 2, width / 2), colour)

    def _pixels(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self._scale, y * self._scale) for x, y in points]

    def _fill(
        self, colour: Colour, alpha: float, shines: bool = False
    ) -> int | tuple[int, int, int, int]:
        if self._is_mask:
            return 255
        return (*(colour if shines else self._light(colour)), round(255 * alpha))


def mix(colour: Colour, other: Colour, share: float) -> Colour:
    """`colour` with a `share` (0 to 1) of `other` in it."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue


def gradient(stops: Sequence[Colour], width: int, height: int) -> Image.Image:
    """An RGB picture that runs through `stops`, evenly spaced from top to bottom."""
    where = np.linspace(0, len(stops) - 1, height)
    channels = np.array(stops, dtype=float).T
    column = np.stack([np.interp(where, range(len(stops)), channel) for channel in channels], -1)
    strip = Image.fromarray(np.rint(column).astype(np.uint8)[:, None])
    return strip.resize((width, height), Image.Resampling.NEAREST)


def glow(
    image: Image.Image, centre: Point, radii: Point, colour: Colour, strength: float = 1.0
) -> None:
    """Blend `colour` into an RGB picture, most at `centre`, fading to nothing at `radii` (pixels).

    A dark `colour` makes a soft shadow.
    """
    width, height = max(1, round(2 * radii[0])), max(1, round(2 * radii[1]))
    mask = _radial_mask(round(255 * strength)).resize((width, height), Image.Resampling.BILINEAR)
    image.paste(colour, (round(centre[0] - radii[0]), round(centre[1] - radii[1])), mask)


@functools.cache
def _radial_mask(peak: int) -> Image.Image:
    axis = np.linspace(-1, 1, 64)
    distance = np.hypot(axis[:, None], axis[None, :])
    fade = np.clip(1 - distance, 0, 1)
    return Image.fromarray(np.rint(peak * fade * fade * (3 - 2 * fade)).astype(np.uint8))
