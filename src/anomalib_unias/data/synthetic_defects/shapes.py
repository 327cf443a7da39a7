"""Shapes of synthetic defects: masks ``(H, W)``, float32 in [0, 1], of sizes drawn uniformly on a log scale."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Shape = Callable[[int, int, np.random.Generator], NDArray]

# OpenCV draws with this many fractional bits in the coordinates.
_DIGITS = 3


def stroke(height: int, width: int, rng: np.random.Generator) -> NDArray:
    """A scratch, crack or fibre: a line with bends, 1 to 7 pixels wide."""
    length = log_uniform(0.06, 0.9, rng) * width
    bend = rng.choice([0.05, 0.3, 0.9])
    parts = int(rng.integers(3, 8))
    angles = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(scale=bend, size=parts))
    steps = length / parts * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = _position(height, width, rng) + np.cumsum(np.vstack([np.zeros(2), steps]), axis=0)
    thickness = round(log_uniform(1, 7, rng))
    mask = np.zeros((height, width), np.float32)
    cv2.polylines(mask, [_fixed_point(points)], False, 1.0, thickness, cv2.LINE_AA, _DIGITS)
    return mask


def spot(height: int, width: int, rng: np.random.Generator) -> NDArray:
    """A stain or hole: an ellipse of 0.03 to 5 % of the image."""
    radius = np.sqrt(log_uniform(3e-4, 0.05, rng) * height * width / np.pi)
    stretch = np.exp(rng.normal(scale=0.35))
    axes = (2 * radius * stretch + 1, 2 * radius / stretch + 1)
    mask = np.zeros((height, width), np.float32)
    centre = tuple(_position(height, width, rng).tolist())
    cv2.ellipse(mask, (centre, axes, float(rng.uniform(0, 360))), 1.0, -1, cv2.LINE_AA)
    return mask


def patch(height: int, width: int, rng: np.random.Generator) -> NDArray:
    """Rust or dirt: smooth noise above a threshold, inside a window of 0.8 to 77 % of a square image."""
    side = int(np.clip(1.6 * np.sqrt(log_uniform(3e-3, 0.3, rng)) * width, 8, min(height, width)))
    top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
    across = np.linspace(-1, 1, side)
    noise = smooth_noise(side, rng) - 1.6 * (across[:, None] ** 2 + across**2)
    mask = np.zeros((height, width), np.float32)
    mask[top : top + side, left : left + side] = noise > np.quantile(noise, rng.uniform(0.45, 0.8))
    return mask


def piece(height: int, width: int, rng: np.random.Generator) -> NDArray:
    """A broken, missing or foreign piece: a polygon of about 0.3 to 30 % of the image."""
    return _polygon(height, width, log_uniform(3e-3, 0.3, rng), rng)


def large(height: int, width: int, rng: np.random.Generator) -> NDArray:
    """A misplaced part or a change of the surface: a polygon of 10 to 60 % of the image, or one side of a line."""
    if rng.random() < 0.5:
        return _polygon(height, width, log_uniform(0.1, 0.6, rng), rng)
    column, row = rng.uniform(0.1, 0.9, 2) * [width, height]
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[:height, :width]
    return ((columns - column) * np.cos(angle) + (rows - row) * np.sin(angle) > 0).astype(np.float32)


SHAPES: dict[Shape, float] = {stroke: 0.3, spot: 0.2, patch: 0.25, piece: 0.12, large: 0.13}


def smooth_noise(side: int, rng: np.random.Generator) -> NDArray:
    """Noise ``(side, side)`` of zero mean with a grain of 1/2 to 1/64 of the side."""
    grains = int(2 ** rng.integers(1, 7))
    coarse = rng.standard_normal((grains + 3, grains + 3)).astype(np.float32)
    length = side + 2 * max(1, side // grains)
    noise = cv2.resize(coarse, (length, length), interpolation=cv2.INTER_CUBIC)
    top, left = rng.integers(0, length - side + 1, 2)
    return noise[top : top + side, left : left + side]


def log_uniform(low: float, high: float, rng: np.random.Generator) -> float:
    """A random number between two others, uniform on a log scale."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _polygon(height: int, width: int, share: float, rng: np.random.Generator) -> NDArray:
    corners = int(rng.integers(3, 8))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = 1.15 * np.sqrt(share / np.pi) * width * rng.uniform(0.5, 1.5, corners)
    points = _position(height, width, rng) + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    mask = np.zeros((height, width), np.float32)
    cv2.fillPoly(mask, [_fixed_point(points)], 1.0, cv2.LINE_AA, _DIGITS)
    return mask


def _position(height: int, width: int, rng: np.random.Generator) -> NDArray:
    return rng.uniform(0, 1, 2) * [width, height]


def _fixed_point(points: NDArray) -> NDArray:
    return np.round(points * 2**_DIGITS).astype(np.int32)
