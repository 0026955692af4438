"""The hours of the demo's scenes: their colours, and the sky with sun, moon, stars and clouds.

Coordinates here and in `backdrops.py`: x from 0 to `PANORAMA_WIDTH`, y from 0 (top) to 1,
in picture heights.
"""

import random
from dataclasses import dataclass

from PIL import Image

from captioning.scenes.pen import Colour, Pen, Point, glow, gradient, mix

PANORAMA_WIDTH = 1.3

WHITE: Colour = (255, 255, 255)


@dataclass(frozen=True)
class Hour:
    """The colours of one time of day."""

    sky: tuple[Colour, ...]
    """From the top to the horizon."""
    orb: Colour
    """Sun or moon."""
    orb_radius: float
    halo: Colour
    halo_radius: float
    glitter: int
    """Strokes of light in the path of the sun or the moon on water."""
    cloud: Colour
    cloud_strength: float
    is_night: bool
    haze: Colour
    """What far things fade into."""
    light: tuple[float, float, float]
    """The shares of red, green and blue that reach near things."""
    sea: tuple[Colour, ...]
    """From the horizon to the viewer."""


HOURS = {
    "day": Hour(
        sky=((72, 160, 236), (132, 198, 246), (214, 238, 250)),
        orb=(255, 240, 168),
        orb_radius=0.062,
        halo=(255, 250, 214),
        halo_radius=0.34,
        glitter=14,
        cloud=(255, 255, 255),
        cloud_strength=0.92,
        is_night=False,
        haze=(190, 222, 240),
        light=(1.0, 1.0, 1.0),
        sea=((128, 206, 222), (58, 166, 204), (24, 118, 176)),
    ),
    "sunset": Hour(
        sky=((84, 62, 138), (196, 88, 142), (250, 140, 112), (255, 214, 140)),
        orb=(255, 236, 176),
        orb_radius=0.085,
        halo=(255, 214, 130),
        halo_radius=0.75,
        glitter=46,
        cloud=(255, 178, 158),
        cloud_strength=0.62,
        is_night=False,
        haze=(240, 150, 128),
        light=(0.98, 0.73, 0.66),
        sea=((255, 186, 132), (208, 112, 126), (92, 62, 122)),
    ),
    "night": Hour(
        sky=((10, 14, 48), (26, 36, 92), (66, 84, 148)),
        orb=(252, 248, 222),
        orb_radius=0.056,
        halo=(170, 186, 236),
        halo_radius=0.3,
        glitter=34,
        cloud=(92, 106, 168),
        cloud_strength=0.42,
        is_night=True,
        haze=(58, 74, 136),
        light=(0.34, 0.4, 0.62),
        sea=((70, 92, 152), (34, 54, 112), (12, 22, 66)),
    ),
}


@dataclass(frozen=True)
class Canvas:
    """A panorama that is being drawn."""

    image: Image.Image
    pen: Pen
    unit: float
    """Pixels of a picture height."""
    hour: Hour
    orb: Point
    """Where the sun or the moon stands."""
    rng: random.Random

    def tint(self, colour: Colour) -> Colour:
        """A daylight colour as it looks at this hour."""
        red, green, blue = (round(a * b) for a, b in zip(colour, self.hour.light, strict=True))
        return red, green, blue

    def glow(self, centre: Point, radii: Point, colour: Colour, strength: float) -> None:
        """Blend light into the panorama, in its own coordinates."""
        (x, y), (rx, ry), unit = centre, radii, self.unit
        glow(self.image, (x * unit, y * unit), (rx * unit, ry * unit), colour, strength)

    def fill(self, ridge: list[Point], stops: tuple[Colour, ...]) -> None:
        """Fill all below `ridge` with a gradient that begins at its highest point."""
        width, height = self.image.size
        top = max(0, int(min(y for _, y in ridge) * self.unit))
        mask = Image.new("1", (width, height - top))
        below = [*ridge, (ridge[-1][0], 1.1), (0.0, 1.1)]
        shifted = [(x, y - top / self.unit) for x, y in below]
        Pen(mask, self.unit).polygon(shifted, WHITE)
        self.image.paste(gradient(stops, width, height - top), (0, top), mask)


def draw_sky(canvas: Canvas) -> None:
    """Stars, the sun or the moon, and clouds, over a sky that is already a gradient."""
    rng, (x, y) = canvas.rng, canvas.orb
    if canvas.hour.is_night:
        for _ in range(90):
            star, radius = (rng.uniform(0, PANORAMA_WIDTH), rng.uniform(0, 0.56)), rng.random() ** 3
            canvas.pen.ellipse(star, (0.0016 + 0.0034 * radius,) * 2, WHITE, 0.35 + 0.6 * radius)
    wide = canvas.hour.halo_radius
    canvas.glow((x, y), (wide, wide * 0.8), canvas.hour.halo, 0.85)
    radius = canvas.hour.orb_radius
    canvas.pen.ellipse((x, y), (radius, radius), canvas.hour.orb)
    if canvas.hour.is_night:
        for dx, dy, crater in ((-0.3, -0.2, 0.24), (0.3, 0.25, 0.3), (0.2, -0.45, 0.15)):
            spot = (x + dx * radius, y + dy * radius)
            canvas.pen.ellipse(spot, (crater * radius,) * 2, (226, 220, 196))
    highest = 0.3 if canvas.hour.is_night else 0.06
    for _ in range(rng.randint(3, 4)):
        _cloud(canvas, (rng.uniform(0, PANORAMA_WIDTH), rng.uniform(highest, 0.44)))


def _cloud(canvas: Canvas, centre: Point) -> None:
    rng, (x, y) = canvas.rng, centre
    width = rng.uniform(0.1, 0.17)
    layer = Image.new("L", canvas.image.size)
    pen = Pen(layer, canvas.unit)
    pen.rectangle((x - width, y - 0.018), (x + width, y + 0.018), WHITE, 0.018)
    for puff in range(5):
        across = -0.66 + 0.33 * puff
        radius = width * (0.46 - 0.3 * abs(across)) * rng.uniform(0.85, 1.15)
        pen.half_disc((x + across * width, y), (radius * 1.15, radius * 1.3), WHITE, upper=True)
    box = layer.getbbox()
    if box is None:
        return
    strength = canvas.hour.cloud_strength
    mask = layer.crop(box).point(lambda value: round(value * strength))
    low = mix(canvas.hour.cloud, canvas.hour.sky[1], 0.35)
    fill = gradient((canvas.hour.cloud, canvas.hour.cloud, low), *mask.size)
    canvas.image.paste(fill, box[:2], mask)
