"""One picture of the data set, decided by its seed, category, split, kind and number alone."""

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .brick import Brick
from .camera import Camera, Image, changed_pixels
from .circuit_board import CircuitBoard
from .drawing import Array
from .flange import Flange
from .gravel import Gravel
from .scene import Scene
from .surface import Light, shade

SCENES: dict[str, type[Scene]] = {
    "brick": Brick,
    "circuit_board": CircuitBoard,
    "flange": Flange,
    "gravel": Gravel,
}

SMALLEST_DEFECT = 30
"""A defect that changes fewer pixels is drawn again."""

FAINTEST_DEFECT = 10 / 255
"""A defect that changes its pixels less than this on average, in [0, 1], is drawn again."""


@dataclass(frozen=True)
class Sample:
    """A picture and what is wrong with it.

    Args:
        image: ``(256, 256, 3)`` uint8 RGB.
        mask: ``(256, 256)``, the pixels that the defect changes.
        flawless: ``(256, 256, 3)`` uint8 RGB, the same product in the same light, without the defect.
    """

    image: Image
    mask: npt.NDArray[np.bool_]
    flawless: Image


def render(category: str, folder: str, index: int, seed: int, defect_draws: int = 1) -> Sample:
    """Render one picture.

    Args:
        category: Key of ``SCENES``.
        folder: Split and kind as in the MVTec layout: ``"train/good"``, ``"test/good"``, ``"test/<kind of defect>"``.
        index: Number of the picture in its folder.
        seed: Seed of the data set.
        defect_draws: Defects that are drawn, of which the plainest is taken: the one that changes the picture most.

    Returns:
        The picture; its mask is empty if the kind is ``good``.
    """
    key = zlib.crc32(f"{category}/{folder}".encode())
    scene_rng, photo_rng, defect_rng = (np.random.default_rng([seed, key, index, use]) for use in range(3))
    scene = SCENES[category].sample(scene_rng)
    light, camera = Light.sample(photo_rng), Camera.sample(photo_rng)
    surface = scene.surface
    clean = camera.picture(shade(surface, light))
    flawless = camera.develop(clean)
    kind = folder.rpartition("/")[2]
    if kind == "good":
        return Sample(flawless, np.zeros(flawless.shape[:2], bool), flawless)
    plainest, mask = clean, np.zeros(clean.shape[:2], bool)
    for _ in range(defect_draws):
        defective, changed = _visible_defect(scene, kind, defect_rng, light, camera, clean)
        if np.abs(defective - clean)[changed].sum() > np.abs(plainest - clean)[mask].sum():
            plainest, mask = defective, changed
    return Sample(camera.develop(np.where(mask[..., None], plainest, clean)), mask, flawless)


def _visible_defect(
    scene: Scene, kind: str, rng: np.random.Generator, light: Light, camera: Camera, clean: Array
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Draw a defect until it can be seen: its picture, and the pixels it changes."""
    while True:
        defective = camera.picture(shade(scene.defects[kind](scene, rng), light))
        mask = changed_pixels(clean, defective)
        if mask.sum() >= SMALLEST_DEFECT and np.abs(defective - clean).max(axis=2)[mask].mean() >= FAINTEST_DEFECT:
            return defective, mask
