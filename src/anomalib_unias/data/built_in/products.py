"""Normal images of four products: two photographs that scikit-image ships, and two simple parts that are drawn."""

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

SIZE = 256
"""Height and width of an image in pixels."""

# Everything is drawn at twice the size of the image.
_CANVAS = 2 * SIZE
_MIDDLE = _CANVAS / 2
_ROWS, _COLUMNS = np.mgrid[:_CANVAS, :_CANVAS].astype(np.float32)

Product = Callable[[np.random.Generator], NDArray]


def brick(rng: np.random.Generator) -> NDArray:
    """Part of a wall."""
    return _photographed(_photograph("brick") * np.array([1.0, 0.72, 0.58]), rng, angle=4, shift=110, zoom=1.1)


def gravel(rng: np.random.Generator) -> NDArray:
    """Part of a path, in any orientation."""
    return _photographed(_photograph("gravel") * np.array([0.95, 0.9, 0.82]), rng, angle=180, shift=70, zoom=1.3)


def flange(rng: np.random.Generator) -> NDArray:
    """A turned steel ring with six holes on a dark mat, in any orientation."""
    x, y = _COLUMNS - _MIDDLE, _ROWS - _MIDDLE
    radius, direction = np.hypot(x, y), np.arctan2(y, x)
    marks = rng.standard_normal(_CANVAS)[radius.astype(int)]
    reflection = 0.08 * np.cos(2 * (direction - rng.uniform(0, np.pi)))
    steel = 0.6 + reflection + 0.025 * marks - 0.1 * (np.abs(radius - 110) < 3)
    holes = np.full_like(radius, np.inf)
    for bolt in range(6):
        angle = bolt * np.pi / 3
        holes = np.minimum(holes, np.hypot(x - 152 * np.cos(angle), y - 152 * np.sin(angle)) - 16)
    cover = np.clip(0.5 - np.maximum.reduce([radius - 196, 58 - radius, -holes]), 0, 1)
    mat = 0.14 + 0.02 * rng.standard_normal(radius.shape)
    grey = mat + cover * (steel - mat)
    return _photographed(grey[..., None] * np.array([0.98, 1.0, 1.04]), rng, angle=180, shift=10, zoom=0.5)


def circuit_board(rng: np.random.Generator) -> NDArray:
    """A board with tracks, chips and resistors, nearly straight; the positions of the parts vary a little."""
    board = np.full((_CANVAS, _CANVAS, 3), (0.3, 0.31, 0.33), np.float32)
    _box(board, (_MIDDLE, _MIDDLE), (400, 330), (0.05, 0.32, 0.17))
    for track in range(7):
        row, column = 130 + 42 * track, 120 + 35 * track
        corners = np.array([[80, row], [column, row], [column + 60, 400 - 30 * track], [430, 400 - 30 * track]])
        cv2.polylines(board, [corners], False, (0.1, 0.45, 0.24), 5, cv2.LINE_AA)
    for position, size in {(180, 190): (110, 80), (350, 320): (90, 90), (345, 160): (70, 50)}.items():
        middle = np.array(position) + rng.normal(0, 1.5, 2)
        for pin in np.linspace(-0.4, 0.4, 6):
            _box(board, middle + np.array([pin * size[0], 0]), (7, size[1] + 26), (0.72, 0.72, 0.7))
        _box(board, middle, size, np.full(3, rng.uniform(0.07, 0.11)))
        cv2.circle(board, tuple(np.round(middle - np.array(size) * 0.36).astype(int).tolist()), 5, (0.3,) * 3, -1)
    for column in range(100, 420, 45):
        middle = np.array([column, 385]) + rng.normal(0, 1.5, 2)
        _box(board, middle, (18, 36), (0.75, 0.74, 0.7))
        _box(board, middle, (18, 20), (0.12, 0.12, 0.14))
    return _photographed(board, rng, angle=3, shift=6, zoom=0.5)


PRODUCTS: dict[str, Product] = {"brick": brick, "circuit_board": circuit_board, "flange": flange, "gravel": gravel}


def _photographed(canvas: NDArray, rng: np.random.Generator, angle: float, shift: float, zoom: float) -> NDArray:
    """View a canvas from a random position, in random light and focus, with noise.

    Args:
        canvas (NDArray): ``(512, 512, 3)``, in [0, 1].
        rng (np.random.Generator): Random numbers.
        angle (float): Largest rotation in degrees.
        shift (float): Largest shift in pixels of the image.
        zoom (float): Pixels of the image per pixel of the canvas; varied by up to 3 %.

    Returns:
        NDArray: ``(256, 256, 3)``, float32 in [0, 1].
    """
    # OpenCV 5.0 makes the border of double precision black.
    sharp = cv2.GaussianBlur(canvas.astype(np.float32), (0, 0), 0.5 / zoom)
    matrix: NDArray = cv2.getRotationMatrix2D(
        (_MIDDLE, _MIDDLE), rng.uniform(-angle, angle), zoom * (1 + rng.uniform(-0.03, 0.03))
    )
    matrix[:, 2] += rng.uniform(-shift, shift, 2) + SIZE / 2 - _MIDDLE
    view = cv2.warpAffine(sharp, matrix, (SIZE, SIZE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    across = np.linspace(-1, 1, SIZE)
    sideways, downwards, overall = rng.uniform(-0.07, 0.07, 3)
    brightness = 1 + overall + sideways * across + downwards * across[:, None]
    focused = cv2.GaussianBlur(view * brightness[..., None], (0, 0), rng.uniform(0.4, 0.9))
    return np.clip(focused + 0.012 * rng.standard_normal(focused.shape), 0, 1).astype(np.float32)


def _box(canvas: NDArray, middle: NDArray | tuple[float, float], size: tuple[float, float], colour: object) -> None:
    half = np.array(size) / 2
    first, last = (tuple(np.round(corner).astype(int).tolist()) for corner in (middle - half, middle + half))
    cv2.rectangle(canvas, first, last, np.asarray(colour, float).tolist(), -1)


@cache
def _photograph(name: str) -> NDArray:
    """A grey photograph, ``(512, 512, 1)`` in [0, 1]; ``name`` is a function of ``skimage.data``."""
    try:
        from skimage import data
    except ImportError as error:
        msg = (
            "The built-in data set has photographs of scikit-image, which is not installed. "
            'Run: pip install "anomalib-unias[synthetic]"'
        )
        raise ImportError(msg) from error
    return (getattr(data, name)() / np.float32(255))[..., None]
