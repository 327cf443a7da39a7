"""A small assembled circuit board on a bench."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import ClassVar

import numpy as np
from typing_extensions import Self

from .circuit_parts import PARTS, TIN, Bridge, Part, draw_body, draw_pads
from .defects import marked_with, scratch, stain, thread
from .drawing import SIZE, Array, Point, box, disc, log_uniform, smooth_noise, stroke, text
from .scene import Defect, Scene
from .surface import Colour, Surface, mat, turn_and_shift

MIDDLE = (SIZE / 2, SIZE / 2)
BOARD_SIZE = (222.0, 196.0)
BOARD_THICKNESS = 4.0
FIXING_HOLES = ((28.0, 41.0), (228.0, 41.0), (28.0, 215.0), (228.0, 215.0))

LACQUER: Colour = (0.02, 0.13, 0.055)
LACQUER_ON_COPPER: Colour = (0.035, 0.2, 0.08)
INK: Colour = (0.7, 0.71, 0.67)

TRACKS: tuple[tuple[Point, ...], ...] = (
    ((53, 52), (53, 76), (74, 92), (74, 100)),
    ((63, 52), (63, 72), (82.5, 90), (82.5, 100)),
    ((73, 52), (73, 68), (91, 86), (91, 100)),
    ((83, 52), (83, 64), (99.5, 82), (99.5, 100)),
    ((93, 52), (93, 62), (108, 78), (108, 100)),
    ((103, 52), (103, 60), (116.5, 74), (116.5, 100)),
    ((113, 52), (113, 58), (125, 70), (125, 100)),
    ((123, 52), (133.5, 64), (133.5, 100)),
    ((133, 52), (146, 64), (146, 70)),
    ((143, 52), (152, 56), (186, 56)),
    ((40, 90), (40, 84), (32, 76), (32, 62)),
    ((40, 130), (40, 140), (48, 150)),
    ((74, 140), (74, 148), (66, 158)),
    ((82.5, 140), (82.5, 164), (60, 184), (46, 194)),
    ((91, 140), (91, 176), (74, 192), (70, 194)),
    ((99.5, 140), (99.5, 182), (94, 194)),
    ((108, 140), (108, 180), (118, 194)),
    ((116.5, 140), (116.5, 168), (142, 194)),
    ((125, 140), (125, 160), (158, 190), (168, 200)),
    ((133.5, 140), (133.5, 150), (150, 162), (172, 162)),
    ((160, 124), (160, 140), (172, 146)),
    ((212, 138), (224, 138), (230, 144), (230, 180), (214, 196)),
    ((212, 154), (220, 160), (220, 176), (204, 192)),
    ((204, 84), (204, 104), (190, 118), (166, 118)),
)
VIAS = ((32, 62), (66, 158), (172, 162), (230, 160), (60, 84), (150, 104), (176, 96), (118, 160), (30, 180), (190, 182))


@dataclass(frozen=True, eq=False)
class CircuitBoard(Scene):
    """A board as it happens to lie under the camera.

    Args:
        parts: The components, each a little off its nominal place.
        pose: ``(2, 3)`` matrix from the board in the middle of the image to where it lies.
        lot: Number printed on the largest component.
        seed: Seed of the lacquer, the solder and the bench.
        bridges: Solder where none should be.
    """

    parts: tuple[Part, ...]
    pose: Array
    lot: str
    seed: int
    bridges: tuple[Bridge, ...] = ()

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        """Draw a board that lies nearly straight."""
        shift_x, shift_y = rng.uniform(-6, 6, size=2)
        scale = rng.uniform(0.97, 1.03)
        return cls(
            parts=tuple(part.displaced(*rng.normal(0, (0.4, 0.4, 0.02)).tolist()) for part in PARTS),
            pose=turn_and_shift(rng.normal(0, 0.05), (shift_x, shift_y), scale=(scale, scale)),
            lot=f"{rng.integers(20, 27)}{rng.integers(1, 53):02d} K{rng.integers(1, 10)}",
            seed=int(rng.integers(2**32)),
        )

    def draw(self) -> Surface:
        """Return the board on the bench."""
        rng = np.random.default_rng(self.seed)
        bench = mat(rng, (0.36, 0.37, 0.38), grain=0.05)
        board = _bare_board().copy()
        lacquer = 1 + 0.06 * smooth_noise(rng, 80, octaves=2) + 0.04 * smooth_noise(rng, 1.5)
        board.albedo *= lacquer[..., None]
        solder_seeds = rng.integers(2**32, size=len(self.parts))
        for part, seed in zip(self.parts, solder_seeds, strict=True):
            draw_pads(board, part, np.random.default_rng(seed))
        for bridge in self.bridges:
            bridge.draw(board)
        for part in self.parts:
            draw_body(board, part, self.lot)
        return board.moved(self.pose, background=bench)

    def point(self, rng: np.random.Generator) -> Point:
        """Draw a place on the board."""
        inset = np.array(BOARD_SIZE) / 2 - 16
        x, y = self.pose @ (*(MIDDLE + rng.uniform(-inset, inset)), 1)
        return float(x), float(y)

    def without_part(self, rng: np.random.Generator) -> Surface:
        """Return the board with the pads of one component empty."""
        return self._with_part(int(rng.integers(1, len(self.parts))), lambda part: replace(part, fitted=False))

    def with_misplaced_part(self, rng: np.random.Generator) -> Surface:
        """Return the board with one component shifted, turned or the wrong way round."""
        which = int(rng.integers(1, len(self.parts)))
        if self.parts[which].kind == "can":
            return self._with_part(which, lambda part: part.displaced(0, 0, math.pi))
        direction, distance = rng.uniform(0, 2 * math.pi), log_uniform(rng, 3.5, 10)
        x, y = distance * math.cos(direction), distance * math.sin(direction)
        twist = math.copysign(log_uniform(rng, 0.05, 0.9), rng.uniform(-1, 1))
        return self._with_part(which, lambda part: part.displaced(x, y, twist))

    def with_solder_bridge(self, rng: np.random.Generator) -> Surface:
        """Return the board with two pins of an integrated circuit connected."""
        circuits = [part for part in self.parts if part.pins]
        bridge = Bridge.sample(circuits[rng.integers(len(circuits))], rng)
        return replace(self, bridges=(bridge,)).draw()

    def _with_part(self, which: int, change: Callable[[Part], Part]) -> Surface:
        parts = list(self.parts)
        parts[which] = change(parts[which])
        return replace(self, parts=tuple(parts)).draw()

    defects: ClassVar[Mapping[str, Defect]] = {
        "misplaced_part": with_misplaced_part,
        "missing_part": without_part,
        "scratch": marked_with(partial(scratch, colour=(0.3, 0.36, 0.25), gloss=0.2)),
        "solder_bridge": with_solder_bridge,
        "stain": marked_with(partial(stain, tint=(1.35, 1.2, 0.8), gloss=0.22)),
        "thread": marked_with(partial(thread, colours=((0.55, 0.55, 0.55), (0.02, 0.02, 0.02), (0.35, 0.1, 0.06)))),
    }


@cache
def _bare_board() -> Surface:
    """Return the board without solder and parts, the same for all boards; not to be changed."""
    board = Surface.plain(LACQUER, gloss=0.07)
    board.height -= 1
    board.lift(box(MIDDLE, BOARD_SIZE, corner=5), BOARD_THICKNESS + 1, bevel=0.8)
    copper = stroke([np.array(track) for track in TRACKS], width=2.4)
    board.paint(copper, LACQUER_ON_COPPER, gloss=0.07)
    board.lift(copper, 0.25, bevel=0.8)
    for via in VIAS:
        board.paint(disc(via, 2.6), LACQUER_ON_COPPER, gloss=0.07)
        board.paint(disc(via, 1.1), (0.01, 0.03, 0.02))
    for hole in FIXING_HOLES:
        board.paint(disc(hole, 7), TIN, gloss=0.5)
        board.lift(disc(hole, 4.2), -2 * BOARD_THICKNESS, bevel=0.8)
    for part in PARTS:
        board.paint(text(part.name, part.label, height=7), INK, gloss=0.05, opacity=0.9)
    board.paint(text("UNIT 7 REV C", (182, 216), height=8), INK, gloss=0.05, opacity=0.9)
    return board
