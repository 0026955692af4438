"""The things that stand, swim and fly in the demo's scenes, each drawn in one colour.

A sprite is drawn in units: `UNITS[kind]` gives its width and height, and it fills that box.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from captioning.scenes.pen import SUPERSAMPLING, Colour, Pen, mix

WHITE, INK, CREAM = (255, 255, 255), (44, 40, 52), (255, 247, 228)
WOOD, DARK_WOOD, GLASS = (150, 100, 62), (106, 68, 44), (196, 228, 244)
LAMP, BEAK, TONGUE = (255, 222, 120), (246, 152, 44), (240, 140, 150)

COLOURS: dict[str, Colour] = {
    "red": (226, 50, 48),
    "yellow": (253, 205, 44),
    "green": (40, 168, 84),
    "blue": (40, 116, 232),
    "purple": (134, 70, 190),
    "pink": (252, 136, 184),
}

UNITS = {
    "boat": (100, 104),
    "duck": (100, 92),
    "house": (100, 100),
    "car": (100, 54),
    "cat": (84, 100),
    "dog": (100, 88),
    "child": (64, 100),
    "balloon": (78, 104),
    "kite": (74, 108),
}

SKIN_AND_HAIR: tuple[tuple[Colour, Colour], ...] = (
    ((252, 216, 184), (122, 74, 40)),
    ((234, 186, 146), (58, 40, 34)),
    ((176, 120, 84), (46, 32, 30)),
    ((122, 80, 56), (34, 26, 28)),
)


@dataclass(frozen=True)
class Paint:
    """The shades of one colour, and what varies from one thing to the next."""

    base: Colour
    light: Colour
    dark: Colour
    window: Colour
    lamps_lit: bool
    look: int
    """Any whole number; picks the child's skin and hair."""


def draw_sprite(
    kind: str, colour: str, *, time: str, width: int, look: int, faces_left: bool
) -> Image.Image:
    """An RGBA picture, `width` pixels wide, of a `kind` in `colour` at that time of day."""
    base = COLOURS[colour]
    is_dark = time == "night"
    paint = Paint(
        base=base,
        light=mix(base, WHITE, 0.35),
        dark=mix(base, (30, 10, 50), 0.3),
        window=GLASS if time == "day" else LAMP,
        lamps_lit=is_dark,
        look=look,
    )
    units_wide, units_high = UNITS[kind]
    height = max(1, round(width * units_high / units_wide))
    canvas = Image.new("RGBA", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    pen = Pen(canvas, SUPERSAMPLING * width / units_wide, LIGHTS[time])
    DRAWINGS[kind](pen, paint)
    sprite = canvas.reduce(SUPERSAMPLING)
    return sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if faces_left else sprite


LIGHTS: dict[str, Callable[[Colour], Colour]] = {
    "day": lambda colour: colour,
    "sunset": lambda colour: mix(colour, (150, 70, 60), 0.1),
    "night": lambda colour: mix(colour, (40, 40, 90), 0.1),
}


def _boat(pen: Pen, paint: Paint) -> None:
    pen.rectangle((47, 2), (51, 78), DARK_WOOD)
    pen.polygon([(51, 1), (70, 6), (51, 12)], paint.dark)
    pen.polygon([*_curve((54, 10), (92, 40), (95, 70)), (54, 70)], paint.light)
    pen.polygon([*_curve((54, 30), (82, 48), (95, 70)), (54, 70)], paint.base)
    pen.polygon([(44, 16), *_curve((44, 16), (14, 50), (10, 70)), (44, 70)], CREAM)
    pen.polygon([(44, 50), (44, 70), (10, 70), (14, 58)], mix(CREAM, (150, 130, 150), 0.22))
    hull = [(1, 75), (99, 75), *_curve((99, 75), (94, 96), (80, 104)), (22, 104)]
    pen.polygon([*hull, *_curve((22, 104), (8, 98), (1, 75))], paint.base)
    pen.polygon([(8, 92), (93, 92), *_curve((93, 92), (88, 100), (80, 104)), (22, 104)], paint.dark)
    pen.rectangle((1, 74), (99, 80), WHITE, 2)
    for x in (30, 50, 70):
        pen.ellipse((x, 86.5), (3.6, 3.6), paint.window, shines=paint.lamps_lit)


def _duck(pen: Pen, paint: Paint) -> None:
    pen.polygon([(1, 44), (30, 56), (14, 78)], paint.dark)
    pen.ellipse((46, 66), (43, 26), paint.base)
    pen.ellipse((46, 76), (34, 16), paint.dark)
    pen.ellipse((46, 66), (41, 22), paint.base)
    pen.polygon([(82, 24), (99, 32), (82, 40)], BEAK)
    pen.ellipse((66, 27), (23, 26), paint.base)
    pen.ellipse((60, 16), (9, 7), paint.light)
    pen.ellipse((74, 22), (5.5, 6.5), WHITE)
    pen.ellipse((75.5, 23), (3.2, 4), INK)
    pen.ellipse((36, 64), (22, 13), paint.dark)
    pen.ellipse((37, 61), (21, 12), paint.light)


def _house(pen: Pen, paint: Paint) -> None:
    pen.rectangle((70, 8), (83, 42), paint.dark)
    pen.rectangle((68, 5), (85, 12), CREAM, 1)
    pen.rectangle((11, 44), (89, 99), paint.base)
    pen.rectangle((11, 44), (89, 54), paint.dark)
    pen.polygon([(50, 2), (100, 50), (0, 50)], mix(paint.dark, INK, 0.42))
    pen.polygon([(50, 13), (82, 44), (18, 44)], paint.base)
    pen.ellipse((50, 33), (7.5, 7.5), CREAM)
    pen.ellipse((50, 33), (5.5, 5.5), paint.window, shines=True)
    pen.rectangle((42, 66), (60, 99), CREAM, 3)
    pen.rectangle((44, 68), (58, 99), WOOD, 3)
    pen.ellipse((55, 85), (1.6, 1.6), LAMP)
    for x in (18, 66):
        pen.rectangle((x, 60), (x + 18, 80), CREAM, 1)
        pen.rectangle((x + 2, 62), (x + 16, 78), paint.window, shines=True)
        pen.rectangle((x + 8.2, 61), (x + 9.8, 79), CREAM)
        pen.rectangle((x + 1, 69.2), (x + 17, 70.8), CREAM)
    pen.rectangle((9, 96), (91, 100), mix(paint.dark, INK, 0.4))


def _car(pen: Pen, paint: Paint) -> None:
    pen.polygon([(18, 24), (30, 3), (64, 3), (80, 24)], paint.dark)
    pen.rectangle((26, 0.5), (67, 10), paint.light, 4)
    pen.polygon([(24, 23), (33, 6), (46, 6), (46, 23)], paint.window)
    pen.polygon([(50, 23), (50, 6), (62, 6), (74, 23)], paint.window)
    pen.rectangle((1, 21), (99, 45), paint.base, 9)
    pen.rectangle((3, 35), (97, 45), paint.dark, 5)
    pen.rectangle((6, 23), (92, 27), paint.light, 2)
    pen.rectangle((48, 29), (56, 31), paint.dark, 1)
    pen.ellipse((95, 30), (4, 5), LAMP if paint.lamps_lit else CREAM, shines=True)
    pen.rectangle((0, 27), (4, 34), (190, 30, 40), 1)
    for x in (25, 75):
        pen.ellipse((x, 42), (12, 12), INK)
        pen.ellipse((x, 42), (6.5, 6.5), (206, 208, 216))
        pen.ellipse((x, 42), (2.5, 2.5), INK)


def _cat(pen: Pen, paint: Paint) -> None:
    pen.line(_curve((56, 92), (92, 88), (76, 50)), 9, paint.dark)
    pen.ellipse((40, 76), (25, 24), paint.base)
    pen.ellipse((40, 80), (13, 18), paint.light)
    for x in (30, 50):
        pen.ellipse((x, 94), (9, 6), paint.base)
    for side in (-1, 1):
        pen.polygon([(40 + 30 * side, 1), (40 + 31 * side, 32), (40 + 6 * side, 18)], paint.base)
        pen.polygon([(40 + 26 * side, 9), (40 + 26 * side, 26), (40 + 11 * side, 18)], TONGUE)
    pen.ellipse((40, 36), (32, 25), paint.base)
    pen.ellipse((40, 46), (17, 12), paint.light)
    for side in (-1, 1):
        pen.ellipse((40 + 14 * side, 33), (5.5, 7.5), WHITE)
        pen.ellipse((40 + 13.5 * side, 34), (3.4, 6), INK)
        for slope in (-3, 3):
            pen.line([(40 + 14 * side, 45), (40 + 37 * side, 44 + slope)], 1.2, INK)
    pen.polygon([(35, 41), (45, 41), (40, 46)], INK)
    for side in (-1, 1):
        pen.line(_curve((40, 46), (40 + 2 * side, 52), (40 + 8 * side, 49)), 1.6, INK)


def _dog(pen: Pen, paint: Paint) -> None:
    pen.line(_curve((14, 48), (0, 34), (8, 18)), 8, paint.base)
    for x in (22, 58):
        pen.rectangle((x, 56), (x + 11, 86), paint.dark, 5)
    pen.rectangle((8, 38), (76, 70), paint.base, 15)
    pen.ellipse((40, 64), (24, 8), paint.light)
    for x in (12, 64):
        pen.rectangle((x, 56), (x + 12, 88), paint.base, 5)
    pen.ellipse((72, 30), (21, 22), paint.base)
    pen.rectangle((72, 28), (99, 47), paint.light, 9)
    pen.ellipse((95, 32), (5, 4.5), INK)
    pen.line(_curve((82, 42), (88, 46), (94, 41)), 1.8, INK)
    pen.ellipse((58, 32), (9, 20), paint.dark)
    pen.ellipse((78, 22), (4.4, 5.4), WHITE)
    pen.ellipse((79, 23), (2.8, 3.8), INK)
    pen.line([(57, 53), (76, 53)], 5, WHITE)
    pen.ellipse((68, 57), (3.4, 3.4), LAMP)


def _child(pen: Pen, paint: Paint) -> None:
    skin, hair = SKIN_AND_HAIR[paint.look % len(SKIN_AND_HAIR)]
    for x in (22, 34):
        pen.rectangle((x, 74), (x + 9, 96), (64, 74, 112))
        pen.rectangle((x - 2, 91), (x + 10, 100), DARK_WOOD, 4)
    pen.line([(18, 50), (6, 66)], 10, paint.dark)
    pen.line([(46, 50), (58, 34)], 10, paint.dark)
    pen.ellipse((5, 68), (4.6, 4.6), skin)
    pen.ellipse((59, 31), (4.6, 4.6), skin)
    pen.polygon([(19, 44), (45, 44), (55, 82), (9, 82)], paint.base)
    pen.polygon([(36, 44), (45, 44), (55, 82), (42, 82)], paint.dark)
    pen.rectangle((18, 41), (46, 48), paint.light, 3)
    for y in (56, 65, 74):
        pen.ellipse((31, y), (1.9, 1.9), CREAM)
    pen.ellipse((32, 27), (18, 18), hair)
    pen.ellipse((32, 29), (15.5, 14.5), skin)
    pen.half_disc((32, 20), (18, 16), paint.base, upper=True)
    pen.rectangle((13, 17), (51, 22.5), paint.light, 2.5)
    pen.ellipse((32, 4.5), (4.5, 4.5), CREAM)
    for x in (26, 38):
        pen.ellipse((x, 29), (2, 2.8), INK)
        pen.ellipse((x + (x - 32) * 0.5, 34.5), (2.8, 2), TONGUE, 0.7)
    pen.line(_curve((28, 35.5), (32, 39.5), (36, 35.5)), 1.6, INK)


def _balloon(pen: Pen, paint: Paint) -> None:
    for x in (28, 39, 50):
        pen.line([(x, 72), (39 + (x - 39) * 0.6, 90)], 1.3, DARK_WOOD)
    pen.rectangle((30, 88), (48, 104), WOOD, 3)
    pen.rectangle((28.5, 87), (49.5, 92), DARK_WOOD, 2)
    gores = [(39.0, paint.dark), (30.0, paint.base), (19.0, paint.light), (8.0, paint.base)]
    for half_width, shade in gores:
        pen.ellipse((39, 38), (half_width, 38), shade)
        share = half_width / 39
        top, bottom = 55, 78
        edge = 34.5 * share
        pen.polygon(
            [
                (39 - edge, top),
                (39 + edge, top),
                (39 + 10 * share, bottom),
                (39 - 10 * share, bottom),
            ],
            shade,
        )
    pen.rectangle((29, 76), (49, 80), mix(paint.dark, INK, 0.3), 2)
    if paint.lamps_lit:
        pen.ellipse((39, 83), (3.4, 4), LAMP, shines=True)


def _kite(pen: Pen, paint: Paint) -> None:
    top, left, right, bottom, middle = (37, 0), (1, 30), (73, 30), (37, 74), (37, 30)
    tail = [(37 + 9 * math.sin(y / 5.5), 74 + y) for y in range(0, 31, 2)]
    pen.line(tail, 2, CREAM)
    for y in (10, 20, 30):
        x = 37 + 9 * math.sin(y / 5.5)
        pen.polygon([(x, 74 + y), (x - 8, 70 + y), (x - 8, 78 + y)], paint.base)
        pen.polygon([(x, 74 + y), (x + 8, 70 + y), (x + 8, 78 + y)], paint.dark)
    pen.polygon([top, left, middle], paint.light)
    pen.polygon([top, right, middle], paint.base)
    pen.polygon([left, bottom, middle], paint.base)
    pen.polygon([right, bottom, middle], paint.dark)
    pen.line([top, bottom], 1.8, CREAM)
    pen.line([left, right], 1.8, CREAM)


DRAWINGS: dict[str, Callable[[Pen, Paint], None]] = {
    "boat": _boat,
    "duck": _duck,
    "house": _house,
    "car": _car,
    "cat": _cat,
    "dog": _dog,
    "child": _child,
    "balloon": _balloon,
    "kite": _kite,
}


def _curve(
    start: tuple[float, float], control: tuple[float, float], end: tuple[float, float]
) -> list[tuple[float, float]]:
    """Points of a quadratic Bezier curve."""
    steps = [step / 10 for step in range(11)]
    return [
        (
            (1 - t) ** 2 * start[0] + 2 * t * (1 - t) * control[0] + t * t * end[0],
            (1 - t) ** 2 * start[1] + 2 * t * (1 - t) * control[1] + t * t * end[1],
        )
        for t in steps
    ]
