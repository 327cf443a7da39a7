"""The components of the circuit board and how they are drawn."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from typing_extensions import Self

from .drawing import SUPERSAMPLING, Point, box, disc, log_uniform, pixel_grid, stroke, text
from .surface import Colour, Surface

TIN: Colour = (0.3, 0.3, 0.31)
GOLD: Colour = (0.5, 0.33, 0.1)
EPOXY: Colour = (0.02, 0.02, 0.022)
PRINT: Colour = (0.4, 0.4, 0.39)

PIN_PITCH = 8.5
"""Distance between neighbouring pins of an integrated circuit in image pixels."""

CONNECTOR_PINS = 10
CONNECTOR_PITCH = 10.0

Kind = Literal["connector", "circuit", "can", "crystal", "resistor", "capacitor", "diode"]


@dataclass(frozen=True)
class Part:
    """A component and where it sits, for the board in the middle of the image and not turned.

    Args:
        kind: What it is.
        name: What is printed beside it.
        place: Middle of its pads.
        label: Middle of its printed name.
        angle: Turn of its pads in radians.
        pins: Number of pins of an integrated circuit.
        offset: How far the body is off the middle of its pads.
        twist: How far the body is turned against its pads in radians.
        fitted: Whether there is a body at all.
    """

    kind: Kind
    name: str
    place: Point
    label: Point
    angle: float = 0.0
    pins: int = 0
    offset: Point = (0.0, 0.0)
    twist: float = 0.0
    fitted: bool = True

    @property
    def direction(self) -> float:
        """Turn of the body in radians."""
        return self.angle + self.twist

    def on_pads(self, x: float, y: float) -> Point:
        """Return the position of a point given relative to the pads."""
        return _turned(self.place, self.angle, x, y)

    def on_body(self, x: float, y: float) -> Point:
        """Return the position of a point given relative to the body."""
        middle = (self.place[0] + self.offset[0], self.place[1] + self.offset[1])
        return _turned(middle, self.direction, x, y)

    def displaced(self, x: float, y: float, twist: float) -> Self:
        """Return the part with its body moved and turned."""
        return replace(self, offset=(self.offset[0] + x, self.offset[1] + y), twist=self.twist + twist)


UPRIGHT = math.pi / 2

PARTS = (
    Part("connector", "J1", (98, 46), (156, 42)),
    Part("circuit", "U1", (104, 120), (58, 112), pins=16),
    Part("circuit", "U2", (194, 146), (194, 120), UPRIGHT, pins=8),
    Part("can", "C1", (204, 68), (174, 72)),
    Part("crystal", "Y1", (50, 158), (50, 173)),
    Part("capacitor", "C2", (40, 96), (53, 92), UPRIGHT),
    Part("capacitor", "C3", (40, 124), (53, 128), UPRIGHT),
    Part("capacitor", "C4", (160, 118), (173, 108), UPRIGHT),
    Part("resistor", "R1", (152, 76), (152, 90), UPRIGHT),
    Part("resistor", "R2", (40, 200), (40, 189)),
    Part("resistor", "R3", (66, 200), (60, 211)),
    Part("resistor", "R4", (92, 200), (92, 211)),
    Part("resistor", "R5", (118, 200), (118, 211)),
    Part("capacitor", "C5", (146, 200), (138, 211)),
    Part("capacitor", "C6", (172, 200), (160, 188)),
    Part("diode", "D1", (206, 196), (206, 206)),
)


def pads_of(part: Part) -> list[tuple[Point, Point]]:
    """Return the middle and the size of each pad, relative to the part."""
    match part.kind:
        case "circuit":
            row = part.pins // 2
            foot = _depth(part) / 2 + 3.5
            places = [PIN_PITCH * (pin - (row - 1) / 2) for pin in range(row)]
            return [((x, side * foot), (4.4, 10.0)) for side in (1, -1) for x in places]
        case "connector":
            return []
        case "can":
            return [((side * 17.0, 0.0), (10.0, 8.0)) for side in (-1, 1)]
        case "crystal":
            return [((side * 18.0, 0.0), (8.0, 8.0)) for side in (-1, 1)]
        case _:
            return [((side * 6.3, 0.0), (6.0, 9.0)) for side in (-1, 1)]


def draw_pads(surface: Surface, part: Part, rng: np.random.Generator) -> None:
    """Draw the soldered pads; the amount of solder varies."""
    for middle, size in pads_of(part):
        pad = box(part.on_pads(*middle), size, part.angle, corner=1.2)
        surface.paint(pad, TIN, gloss=rng.uniform(0.4, 0.55))
        surface.lift(pad, amount=rng.uniform(0.5, 1.1), bevel=2.2)


def draw_body(surface: Surface, part: Part, lot: str) -> None:
    """Draw the body of a component that is fitted.

    Args:
        surface: Board to draw on.
        part: The component.
        lot: Second line of the print on large integrated circuits.
    """
    if not part.fitted:
        return
    match part.kind:
        case "circuit":
            _draw_circuit(surface, part, lot)
        case "connector":
            _draw_connector(surface, part)
        case "can":
            _draw_can(surface, part)
        case "crystal":
            _block(surface, part, (36, 14), TIN, gloss=0.6, height=6, bevel=3, corner=6.5)
            _print(surface, part, "16.000", (0, 0), height=7, colour=EPOXY)
        case "resistor":
            _block(surface, part, (14, 7.5), TIN, gloss=0.5, height=2.5)
            _block(surface, part, (8.5, 7.5), EPOXY, gloss=0.1, height=0.3)
            surface.paint(box(part.on_body(0, 0), (5, 2.6), part.direction), PRINT, opacity=0.55, softness=1.5)
        case "capacitor":
            _block(surface, part, (14, 8), TIN, gloss=0.5, height=4)
            _block(surface, part, (8.5, 8), (0.34, 0.22, 0.11), gloss=0.08, height=0.2)
        case "diode":
            _block(surface, part, (14, 8), TIN, gloss=0.5, height=3)
            _block(surface, part, (10, 8), (0.72, 0.7, 0.62), gloss=0.1, height=0.3)
            surface.paint(box(part.on_body(-3, 0), (2, 8), part.direction), (0.05, 0.3, 0.12))


@dataclass(frozen=True)
class Bridge:
    """Solder where none should be.

    Args:
        ends: The two points that it connects.
        width: Width in image pixels.
        height: Height in image pixels.
    """

    ends: tuple[Point, Point]
    width: float
    height: float

    @classmethod
    def sample(cls, part: Part, rng: np.random.Generator) -> Self:
        """Draw a bridge between two neighbouring pins of an integrated circuit."""
        row = part.pins // 2
        first = int(rng.integers(2)) * row + int(rng.integers(row - 1))
        along = rng.uniform(-1, 3)
        ends = [part.on_pads(x, y + math.copysign(1, y) * along) for (x, y), _ in pads_of(part)[first : first + 2]]
        return cls((ends[0], ends[1]), width=log_uniform(rng, 2.5, 6), height=rng.uniform(0.8, 1.6))

    def draw(self, surface: Surface) -> None:
        """Draw the solder."""
        shape = stroke([np.array(self.ends)], self.width)
        surface.paint(shape, TIN, gloss=0.5)
        surface.lift(shape, self.height, bevel=self.width / 2)


def _draw_circuit(surface: Surface, part: Part, lot: str) -> None:
    size = (part.pins / 2 * PIN_PITCH + 3, _depth(part))
    for (x, y), _ in pads_of(part):
        pin = box(part.on_body(x, y - math.copysign(1, y) * 1.5), (3.2, 7.5), part.direction, corner=0.6)
        surface.paint(pin, TIN, gloss=0.6)
        surface.lift(pin, amount=1.6, bevel=1.2)
    _block(surface, part, size, EPOXY, gloss=0.12, height=6, bevel=1.8)
    dimple = disc(part.on_body(-size[0] / 2 + 5, size[1] / 2 - 5), 2.2)
    surface.lift(dimple, amount=-0.8, bevel=1)
    if part.pins > 8:
        for line, y in (("UAS 3120", -5.0), (lot, 6.0)):
            _print(surface, part, line, (3, y), height=10, colour=PRINT)


def _draw_connector(surface: Surface, part: Part) -> None:
    length = CONNECTOR_PINS * CONNECTOR_PITCH + 4
    _block(surface, part, (length, 15), (0.55, 0.52, 0.42), gloss=0.1, height=7, bevel=1.2)
    for pin in range(CONNECTOR_PINS):
        middle = part.on_body((pin - (CONNECTOR_PINS - 1) / 2) * CONNECTOR_PITCH, 0)
        surface.lift(box(middle, (7, 9), part.direction), amount=-2, bevel=1)
        surface.paint(box(middle, (3, 3), part.direction), GOLD, gloss=0.7)
        surface.lift(box(middle, (3, 3), part.direction), amount=5, bevel=0.8)


def _draw_can(surface: Surface, part: Part) -> None:
    _block(surface, part, (37, 37), EPOXY, gloss=0.1, height=3, corner=5)
    can = disc(part.on_body(0, 0), 16.5)
    surface.paint(can, (0.38, 0.38, 0.39), gloss=0.45)
    surface.lift(can, amount=11, bevel=2.2)
    x, y = (axis[can.window] for axis in pixel_grid())
    left, top = part.on_body(-9, 0)
    beyond = math.cos(part.direction) * (left - x) + math.sin(part.direction) * (top - y)
    stripe = np.clip(0.5 + beyond * SUPERSAMPLING, 0, 1)  # marks the negative pole
    surface.albedo[can.window] *= 1 - 0.9 * (stripe * can.coverage())[..., None]


def _block(
    surface: Surface,
    part: Part,
    size: Point,
    colour: Colour,
    gloss: float,
    height: float,
    bevel: float = 1.0,
    corner: float = 0.8,
) -> None:
    """Draw a box in the middle of a body."""
    block = box(part.on_body(0, 0), size, part.direction, corner)
    surface.paint(block, colour, gloss)
    surface.lift(block, height, bevel)


def _print(surface: Surface, part: Part, line: str, middle: Point, height: float, colour: Colour) -> None:
    """Print a line of text on a body."""
    surface.paint(text(line, part.on_body(*middle), height, part.direction), colour, gloss=0.1, opacity=0.8)


def _depth(part: Part) -> float:
    """Return the depth of the body of an integrated circuit in image pixels."""
    return 34.0 if part.pins > 8 else 24.0


def _turned(middle: Point, angle: float, x: float, y: float) -> Point:
    cos, sin = math.cos(angle), math.sin(angle)
    return middle[0] + cos * x - sin * y, middle[1] + sin * x + cos * y
