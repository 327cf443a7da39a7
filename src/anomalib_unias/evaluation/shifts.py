"""Image changes that a line sees over time, at three strengths: light, blur, noise, JPEG, rotation, displacement."""

from collections.abc import Callable
from typing import NamedTuple
from zlib import crc32

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F  # noqa: N812

ImageAndMask = tuple[Tensor, Tensor | None]


class Shift(NamedTuple):
    """A change of images.

    Args:
        name (str): Name of the change.
        unit (str): Unit of the amount.
        amounts (tuple[float, float, float]): Amounts of the three strengths.
        apply (Callable[[Tensor, Tensor | None, float, torch.Generator], ImageAndMask]): Changes an image
            ``(3, H, W)`` in ``[0, 1]`` and its mask ``(H, W)``.
    """

    name: str
    unit: str
    amounts: tuple[float, float, float]
    apply: Callable[[Tensor, Tensor | None, float, torch.Generator], ImageAndMask]


def apply_shift(shift: Shift, amount: float, image: Tensor, mask: Tensor | None, name: str, seed: int) -> ImageAndMask:
    """Change an image; random choices depend only on its name and the seed.

    Args:
        shift (Shift): Change.
        amount (float): Amount, in the unit of the change.
        image (Tensor): Image ``(3, H, W)`` in ``[0, 1]``.
        mask (Tensor | None): Ground truth ``(H, W)``, moved along with the image.
        name (str): Name of the image.
        seed (int): Seed.

    Returns:
        ImageAndMask: Changed image and mask, of the same shapes, range and type.
    """
    generator = torch.Generator().manual_seed(crc32(name.encode(), seed))
    changed, changed_mask = shift.apply(image, mask, amount, generator)
    return changed.clamp(0, 1).to(image), changed_mask


def _light(image: Tensor, mask: Tensor | None, amount: float, generator: torch.Generator) -> ImageAndMask:
    return image * (1 + _sign(generator) * amount), mask


def _blur(image: Tensor, mask: Tensor | None, amount: float, generator: torch.Generator) -> ImageAndMask:
    del generator
    size = 2 * min(round(3 * amount), (min(image.shape[-2:]) - 1) // 2) + 1
    return F.gaussian_blur(image, [size, size], [amount, amount]), mask


def _noise(image: Tensor, mask: Tensor | None, amount: float, generator: torch.Generator) -> ImageAndMask:
    return image + amount * torch.randn(image.shape, generator=generator).to(image), mask


def _jpeg(image: Tensor, mask: Tensor | None, amount: float, generator: torch.Generator) -> ImageAndMask:
    del generator
    return F.jpeg((255 * image).round().to(torch.uint8).cpu(), quality=int(amount)).to(image) / 255, mask


def _rotation(image: Tensor, mask: Tensor | None, amount: float, generator: torch.Generator) -> ImageAndMask:
    return _move(image, mask, angle=_sign(generator) * amount, translate=(0, 0))


def _displacement(image: Tensor, mask: Tensor | None, amount: float, generator: torch.Generator) -> ImageAndMask:
    height, width = image.shape[-2:]
    across, down = (_sign(generator) * round(amount * size) for size in (width, height))
    return _move(image, mask, angle=0, translate=(across, down))


def _move(image: Tensor, mask: Tensor | None, angle: float, translate: tuple[int, int]) -> ImageAndMask:
    """Rotate and displace; the area beyond the border is filled with the mirrored image."""
    height, width = image.shape[-2:]
    border = min(height, width) // 4

    def moved(pixels: Tensor, interpolation: InterpolationMode) -> Tensor:
        padded = F.pad(pixels, [border] * 4, padding_mode="reflect")
        turned = F.affine(padded, angle, list(translate), 1.0, [0.0, 0.0], interpolation)
        return F.center_crop(turned, [height, width])

    if mask is None:
        return moved(image, InterpolationMode.BILINEAR), None
    moved_mask = moved(mask[None].float(), InterpolationMode.NEAREST)[0]
    return moved(image, InterpolationMode.BILINEAR), moved_mask.to(mask.dtype)


def _sign(generator: torch.Generator) -> int:
    return 2 * int(torch.randint(2, (), generator=generator)) - 1


SHIFTS = (
    Shift("light", "brighter or darker by this share", (0.1, 0.2, 0.4), _light),
    Shift("blur", "standard deviation in pixels", (0.5, 1.0, 2.0), _blur),
    Shift("noise", "standard deviation as share of the range", (0.01, 0.03, 0.06), _noise),
    Shift("jpeg", "quality", (80, 50, 20), _jpeg),
    Shift("rotation", "degrees", (1, 3, 6), _rotation),
    Shift("displacement", "share of width and height", (0.01, 0.02, 0.05), _displacement),
)
