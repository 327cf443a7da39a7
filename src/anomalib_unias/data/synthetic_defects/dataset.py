"""Pairs of a normal image and the same image with a synthetic defect."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from anomalib.data import AnomalibDataset
from anomalib.data.utils import LabelName
from numpy.typing import NDArray
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import resize

from .fills import FILLS, Scene, moved
from .shapes import SHAPES, Shape, log_uniform

# A pixel belongs to the defect if its colours change by this much, on average.
_VISIBLE = 0.02
_FAINTEST = 0.12
_FEWEST_PIXELS = 12
_LARGEST = 0.7
_TRIES = 20


@dataclass(frozen=True)
class SyntheticDefect:
    """A normal image, without and with a defect.

    Attributes:
        normal (torch.Tensor): The image without the defect ``(3, H, W)``, in [0, 1].
        image (torch.Tensor): The image with the defect ``(3, H, W)``, in [0, 1].
        mask (torch.Tensor): Mask of the defect ``(H, W)``, boolean.
        category (str): Category of the image; empty if the data set has none.
    """

    normal: torch.Tensor
    image: torch.Tensor
    mask: torch.Tensor
    category: str


class SyntheticDefects(Dataset[SyntheticDefect]):
    """Makes defects on normal images: strokes, spots, patches, pieces and large areas.

    A defect is filled with part of another normal image, with the image itself moved or painted over, or with another
    brightness, colour or noise. It is blended in with an opacity of 12 to 100 %, uniform on a log scale, because most
    real defects are faint; it may have any size. The normal image is varied first (rotated by up to 3 degrees, shifted,
    scaled and changed in brightness a little), so that a model trained on it has not seen the result. No other data are
    used. Related methods: DRAEM, CutPaste, RealNet, OneNIP.

    The categories alternate. The same seed and index give the same pair.

    Args:
        images (AnomalibDataset): Data set; only its normal images are used.
        size (tuple[int, int]): Height and width of the pairs.
        count (int): Number of pairs.
        seed (int): Seed of all random choices. Defaults to ``0``.

    Raises:
        ValueError: If there is no normal image, or ``count`` is not positive.
    """

    def __init__(self, images: AnomalibDataset, size: tuple[int, int], count: int, seed: int = 0) -> None:
        samples = images.samples
        rows = np.flatnonzero(samples.label_index == LabelName.NORMAL)
        if not len(rows) or count < 1:
            msg = f"Synthetic defects are made on normal images: got {len(rows)} of them, and count={count}."
            raise ValueError(msg)
        categories = samples["category"].to_numpy() if "category" in samples else np.full(len(samples), "")
        self._images = images
        self._size = size
        self._count = count
        self._seed = seed
        self._rows = {name: rows[categories[rows] == name] for name in sorted(set(categories[rows]))}

    def __len__(self) -> int:
        """Number of pairs."""
        return self._count

    def __getitem__(self, index: int) -> SyntheticDefect:
        """Make a pair.

        Args:
            index (int): Number of the pair, from 0, below ``len(self)``.

        Returns:
            SyntheticDefect: The pair, always the same one for an index.

        Raises:
            IndexError: If there is no such pair.
        """
        if not 0 <= index < self._count:
            raise IndexError(index)
        rng = np.random.default_rng((self._seed, index))
        names = list(self._rows)
        category = names[index % len(names)]
        normal = varied(self._draw(category, rng), rng)
        same, other = self._draw(category, rng), self._draw(names[rng.integers(len(names))], rng)
        image, mask = with_defect(normal, same, other, rng)
        return SyntheticDefect(_as_tensor(normal), _as_tensor(image), torch.from_numpy(mask), category)

    def _draw(self, category: str, rng: np.random.Generator) -> NDArray:
        image: Any = self._images[int(rng.choice(self._rows[category]))].image
        return resize(image, list(self._size), antialias=True).movedim(0, -1).numpy()


def varied(image: NDArray, rng: np.random.Generator) -> NDArray:
    """Vary a normal image as much as normal images may differ from each other.

    Args:
        image (NDArray): ``(H, W, 3)``, in [0, 1].
        rng (np.random.Generator): Random numbers.

    Returns:
        NDArray: ``(H, W, 3)``, in [0, 1].
    """
    moved_image = moved(image, rng, angle=3, scale=0.05, shift=0.04)
    return np.clip(moved_image * (1 + rng.uniform(-0.1, 0.1)), 0, 1).astype(np.float32)


def with_defect(
    normal: NDArray, same: NDArray, other: NDArray, rng: np.random.Generator, shapes: Mapping[Shape, float] = SHAPES
) -> tuple[NDArray, NDArray]:
    """Blend a defect into a normal image.

    Args:
        normal (NDArray): ``(H, W, 3)``, in [0, 1].
        same (NDArray): Another normal image of the same category, ``(H, W, 3)``.
        other (NDArray): A normal image of any category, ``(H, W, 3)``.
        rng (np.random.Generator): Random numbers.
        shapes (Mapping[Shape, float]): Shapes of defects and their probabilities. Defaults to ``SHAPES``.

    Returns:
        tuple[NDArray, NDArray]: The image ``(H, W, 3)``, in [0, 1], and its mask ``(H, W)``, boolean. The mask is empty
        if no defect was visible after 20 trials, for example on an image of one colour.
    """
    for _ in range(_TRIES):
        mask = _draw_mask(normal.shape[:2], shapes, rng)
        fill = _choose(FILLS, rng)(Scene(normal, mask, same, other, rng))
        opacity = log_uniform(_FAINTEST, 1, rng)
        image = np.clip(normal + opacity * mask[..., None] * (fill - normal), 0, 1).astype(np.float32)
        inside = mask > 0.3 * mask.max()
        visible = inside & (cv2.GaussianBlur(np.abs(image - normal).mean(axis=2), (0, 0), 1) > _VISIBLE)
        if visible.sum() >= max(_FEWEST_PIXELS, 0.3 * inside.sum()) and visible.mean() <= _LARGEST:
            # Close holes where the fill happens to look like the image.
            kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
            closed = cv2.morphologyEx(visible.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
            return image, inside & (closed > 0)
    return normal, np.zeros(normal.shape[:2], bool)


def _draw_mask(size: tuple[int, ...], shapes: Mapping[Shape, float], rng: np.random.Generator) -> NDArray:
    """One to three shapes of one kind, with a soft edge in 70 % of cases."""
    shape = _choose(shapes, rng)
    masks = [shape(*size, rng) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    mask = np.max(masks, axis=0)
    return cv2.GaussianBlur(mask, (0, 0), log_uniform(0.5, 2.5, rng)) if rng.random() < 0.7 else mask


def _choose(weighted: Mapping[Any, float], rng: np.random.Generator) -> Any:
    return list(weighted)[rng.choice(len(weighted), p=list(weighted.values()))]


def _as_tensor(image: NDArray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).movedim(-1, 0).contiguous()
