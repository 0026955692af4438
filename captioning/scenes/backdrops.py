"""What lies behind the things in the demo's scenes: a place at a time of day.

A backdrop is a panorama a little wider than a picture, so that a picture can look at a different
stretch of it. Coordinates are those of `skies.py`.
"""

import functools
import math
import random
from collections.abc import Callable

from PIL import Image

from captioning.scenes.pen import SUPERSAMPLING, Pen, Point, gradient, mix
from captioning.scenes.skies import HOURS, PANORAMA_WIDTH, WHITE, Canvas, draw_sky


@functools.lru_cache(maxsize=128)
def draw_backdrop(place: str, time: str, variant: int, size: int) -> Image.Image:
    """An RGB panorama, `size` pixels high and `PANORAMA_WIDTH` times as wide."""
    rng = random.Random(f"{place} {time} {variant}")
    width, height = round(size * PANORAMA_WIDTH) * SUPERSAMPLING, size * SUPERSAMPLING
    hour = HOURS[time]
    image = gradient(hour.sky, width, round(HORIZONS[place] * height)).crop((0, 0, width, height))
    high = 0.13 + 0.08 * rng.random()
    canvas = Canvas(
        image=image,
        pen=Pen(image, height),
        unit=height,
        hour=hour,
        orb=(rng.uniform(0.4, 0.9), HORIZONS[place] - 0.1 if time == "sunset" else high),
        rng=rng,
    )
    draw_sky(canvas)
    PLACES[place](canvas)
    return image.reduce(SUPERSAMPLING)


def _sea(canvas: Canvas) -> None:
    horizon = HORIZONS["sea"]
    island = _ridge(canvas, horizon - 0.012, 0.03, 0.42)
    canvas.fill([(x, min(y, horizon)) for x, y in island], (canvas.hour.haze,) * 2)
    canvas.fill(_level(horizon), canvas.hour.sea)
    _waves(canvas, horizon, 1.0, 120)


def _waves(canvas: Canvas, top: float, bottom: float, count: int) -> None:
    """Strokes of light and dark on water, and the path of the sun or the moon."""
    rng, hour = canvas.rng, canvas.hour
    for _ in range(count):
        near = rng.random() ** 0.8
        point = (rng.uniform(0, PANORAMA_WIDTH), top + 0.012 + near * (bottom - top))
        radii = ((0.014 + 0.06 * near) * rng.uniform(0.6, 1.3), 0.0014 + 0.0042 * near)
        colour, alpha = rng.choice([(mix(hour.sea[0], WHITE, 0.3), 0.42), (hour.sea[-1], 0.24)])
        canvas.pen.ellipse(point, radii, colour, alpha)
    for _ in range(hour.glitter):
        near = rng.random()
        point = (canvas.orb[0] + rng.gauss(0, 0.022 + 0.05 * near), top + near * (bottom - top))
        radii = ((0.012 + 0.035 * near) * rng.uniform(0.5, 1.2), 0.0016 + 0.0036 * near)
        canvas.pen.ellipse(point, radii, hour.orb, 0.6)


def _meadow(canvas: Canvas) -> None:
    rng, hour = canvas.rng, canvas.hour
    layers = (
        (0.5, 0.05, 0.55, ((126, 182, 150), (140, 192, 130)), 0.42),
        (0.56, 0.045, 0.7, ((136, 194, 96), (150, 206, 100)), 0.16),
        (0.64, 0.03, 0.9, ((170, 214, 92), (112, 178, 66)), 0.0),
    )
    for base, height, length, stops, far in layers:
        ridge = _ridge(canvas, base, height, length)
        colours = [mix(canvas.tint(stop), hour.haze, far) for stop in stops]
        canvas.fill(ridge, tuple(colours))
        if 0 < far < 0.3:
            for x, y in rng.sample(ridge, 7):
                _round_tree(canvas, (x, y + 0.012), 0.024 * rng.uniform(0.7, 1.2))
    for _ in range(150):
        near = rng.random()
        x, y = rng.uniform(0, PANORAMA_WIDTH), 0.7 + 0.3 * near
        tall = 0.008 + 0.016 * near
        blade = [(x - 0.003, y), (x + 0.003, y), (x + rng.uniform(-0.008, 0.008), y - tall)]
        canvas.pen.polygon(blade, canvas.tint(rng.choice([(92, 158, 58), (196, 226, 112)])), 0.75)
    for _ in range(34):
        near = rng.random()
        _flower(canvas, (rng.uniform(0, PANORAMA_WIDTH), 0.71 + 0.28 * near), 0.004 + 0.005 * near)


def _round_tree(canvas: Canvas, foot: Point, radius: float) -> None:
    (x, y), green = foot, canvas.tint((86, 150, 92))
    trunk = canvas.tint((112, 84, 66))
    canvas.pen.rectangle((x - radius / 7, y - radius), (x + radius / 7, y), trunk)
    canvas.pen.ellipse((x, y - 1.9 * radius), (radius, radius * 1.2), green)
    canvas.pen.ellipse(
        (x - 0.25 * radius, y - 2.2 * radius), (radius * 0.6, radius * 0.7), mix(green, WHITE, 0.14)
    )


def _flower(canvas: Canvas, centre: Point, radius: float) -> None:
    (x, y), petal = centre, canvas.tint((255, 252, 244))
    for turn in range(5):
        angle = turn * 2 * math.pi / 5
        spot = (x + radius * math.cos(angle), y + radius * math.sin(angle))
        canvas.pen.ellipse(spot, (radius * 0.66,) * 2, petal)
    canvas.pen.ellipse(centre, (radius * 0.55,) * 2, canvas.tint((252, 204, 74)))


def _beach(canvas: Canvas) -> None:
    rng, hour, horizon = canvas.rng, canvas.hour, HORIZONS["beach"]
    canvas.fill(_level(horizon), (*hour.sea, hour.sea[-1], hour.sea[-1]))
    _headland(canvas, horizon)
    _waves(canvas, horizon, 0.64, 44)
    shore = _ridge(canvas, 0.66, 0.022, 0.62)
    for down, colour, alpha in ((-0.014, WHITE, 0.45), (0.0, WHITE, 0.95)):
        foam = [(x, y + down) for x, y in shore]
        strip = [*foam, *reversed([(x, y + 0.02) for x, y in shore])]
        canvas.pen.polygon(strip, canvas.tint(colour), alpha)
    wet, dry = canvas.tint((214, 184, 140)), canvas.tint((255, 234, 194))
    canvas.fill([(x, y + 0.012) for x, y in shore], (wet, wet))
    canvas.fill([(x, y + 0.036) for x, y in shore], (dry, canvas.tint((246, 210, 150))))
    for _ in range(46):
        near = rng.random()
        point = (rng.uniform(0, PANORAMA_WIDTH), 0.74 + 0.25 * near)
        radii = ((0.012 + 0.03 * near) * rng.uniform(0.5, 1.3), 0.0012 + 0.0022 * near)
        canvas.pen.ellipse(point, radii, canvas.tint((206, 164, 106)), 0.5)
    for _ in range(4):
        _starfish(canvas, (rng.uniform(0, PANORAMA_WIDTH), rng.uniform(0.9, 0.98)))


def _headland(canvas: Canvas, horizon: float) -> None:
    """A little island with palms, far out."""
    middle = canvas.rng.uniform(0.25, 1.05)
    rock = mix(canvas.tint((112, 150, 108)), canvas.hour.haze, 0.3)
    canvas.pen.half_disc((middle, horizon), (0.11, 0.026), rock, upper=True)
    leaf = mix(canvas.tint((60, 128, 82)), canvas.hour.haze, 0.15)
    trunk = mix(canvas.tint((126, 94, 68)), canvas.hour.haze, 0.15)
    for foot, lean in ((middle - 0.022, -0.024), (middle + 0.02, 0.022)):
        crown = (foot + lean, horizon - 0.1 + abs(lean))
        canvas.pen.line([(foot, horizon - 0.018), crown], 0.006, trunk)
        x, y = crown
        for degrees in range(-10, 220, 38):
            turn = math.radians(degrees)
            tip = (x + 0.042 * math.cos(turn), y - 0.026 * math.sin(turn) + 0.01)
            canvas.pen.polygon([(x, y - 0.006), tip, (x, y + 0.004)], leaf)


def _starfish(canvas: Canvas, centre: Point) -> None:
    turn = canvas.rng.random() * math.pi
    points = []
    for step in range(10):
        angle, radius = turn + step * math.pi / 5, (0.013, 0.005)[step % 2]
        across, down = radius * math.cos(angle), 0.7 * radius * math.sin(angle)
        points.append((centre[0] + across, centre[1] + down))
    canvas.pen.polygon(points, canvas.tint((238, 150, 104)))


def _snow(canvas: Canvas) -> None:
    rng, hour = canvas.rng, canvas.hour
    if hour.is_night:
        for x, y in _ridge(canvas, 0.36, 0.05, 0.9):
            canvas.glow((x, y), (0.035, 0.17), (70, 226, 170), 0.2)
    for far, base, count in ((0.5, 0.6, 4), (0.2, 0.62, 3)):
        for peak in range(count):
            x = (peak + rng.uniform(0.2, 0.8)) * PANORAMA_WIDTH / count
            _mountain(canvas, (x, base), rng.uniform(0.16, 0.25), far)
    snow = canvas.tint((246, 250, 255))
    shadow = mix(snow, canvas.tint((150, 186, 226)), 0.5)
    canvas.fill(_ridge(canvas, 0.6, 0.016, 0.7), (mix(snow, hour.haze, 0.3), snow))
    for _ in range(13):
        x, far = rng.uniform(0, PANORAMA_WIDTH), rng.random()
        _fir(canvas, (x, 0.612 + 0.025 * far), 0.07 + 0.045 * far)
    canvas.fill(_ridge(canvas, 0.65, 0.018, 0.8), (snow, mix(snow, shadow, 0.5)))
    canvas.fill(_ridge(canvas, 0.82, 0.024, 0.95), (snow, shadow))
    for _ in range(70):
        flake, radius = (rng.uniform(0, PANORAMA_WIDTH), rng.random()), rng.uniform(0.002, 0.0052)
        canvas.pen.ellipse(flake, (radius, radius), WHITE, 0.85)


def _mountain(canvas: Canvas, foot: Point, height: float, far: float) -> None:
    (x, y), half = foot, height * 1.15
    rock = mix(canvas.tint((116, 140, 178)), canvas.hour.haze, far)
    cap = mix(canvas.tint(WHITE), canvas.hour.haze, far * 0.7)
    canvas.pen.polygon([(x - half, y), (x, y - height), (x + half, y)], rock)
    dark = mix(rock, canvas.hour.sky[0], 0.25)
    canvas.pen.polygon([(x, y - height), (x + half, y), (x + half * 0.15, y)], dark)
    zigzag = [(-0.4, 0.6), (-0.2, 0.72), (-0.06, 0.58), (0.1, 0.74), (0.24, 0.6), (0.4, 0.6)]
    edge = [(x + dx * half, y - across * height) for dx, across in zigzag]
    canvas.pen.polygon([(x, y - height), *reversed(edge)], cap)


def _fir(canvas: Canvas, foot: Point, height: float) -> None:
    (x, y), green = foot, canvas.tint((72, 122, 112))
    canvas.pen.rectangle((x - 0.005, y - 0.02), (x + 0.005, y), canvas.tint((104, 82, 72)))
    for tier in range(3):
        low = y - 0.012 - tier * height * 0.27
        half, high = height * (0.3 - 0.065 * tier), height * 0.42
        canvas.pen.polygon([(x - half, low), (x, low - high), (x + half, low)], green)
        cap, edge = 0.42 * half, low - 0.58 * high
        snow = [(x - cap, edge), (x, low - high), (x + cap, edge)]
        canvas.pen.polygon(snow, canvas.tint((240, 248, 255)))


def _level(y: float) -> list[Point]:
    return [(0.0, y), (1.1 * PANORAMA_WIDTH, y)]


def _ridge(canvas: Canvas, base: float, height: float, length: float) -> list[Point]:
    """A rolling line around y = `base`, its hills about `length` apart."""
    first, second = canvas.rng.uniform(0, 6.3), canvas.rng.uniform(0, 6.3)
    points = []
    for step in range(106):
        x = PANORAMA_WIDTH * step / 100
        turn = 2 * math.pi * x / length
        roll = 0.7 * math.sin(turn + first) + 0.3 * math.sin(2.3 * turn + second)
        points.append((x, base - height * roll))
    return points


HORIZONS = {"sea": 0.54, "meadow": 0.58, "beach": 0.5, "snow": 0.6}

PLACES: dict[str, Callable[[Canvas], None]] = {
    "sea": _sea,
    "meadow": _meadow,
    "beach": _beach,
    "snow": _snow,
}
