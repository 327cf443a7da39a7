"""Anti-aliased resizing that gives the same result in training and in exported models."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import Resize

from anomalib_unias.compat.checkpoints import keep_transform


class ExportableResize(Resize):
    """Bilinear, anti-aliased resizing with the same result in training and in exported models.

    anomalib 2.7.0 switches off the anti-aliasing of a ``Resize`` in exported models, and OpenVINO ignores it: an image
    larger than the network input gets another score than in training. This class uses torchvision's resizing in
    training. In an exported graph it is two matrix products, which every runtime supports; their coefficients are
    computed from the size of the image inside the graph.

    Use it in place of torchvision's ``Resize`` in the ``PreProcessor`` of any anomalib model.

    Args:
        size (Sequence[int]): Height and width of the result.

    Raises:
        ValueError: If ``size`` is not a height and a width.

    Example:
        >>> from anomalib.pre_processing import PreProcessor
        >>> pre_processor = PreProcessor(transform=ExportableResize((224, 224)))
        >>> pre_processor(torch.rand(1, 3, 500, 700)).shape
        torch.Size([1, 3, 224, 224])
    """

    def __init__(self, size: Sequence[int]) -> None:
        if isinstance(size, int) or len(size) != 2 or min(size) < 1:
            msg = f"size must be a height and a width of at least 1, got {size!r}. A square of 224 is (224, 224)."
            raise ValueError(msg)
        super().__init__(size=[int(side) for side in size])

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize an image, mask or box of torchvision.

        Args:
            inpt (Any): Image ``(..., H, W)``, or another input of torchvision's transforms.
            params (dict[str, Any]): Not used.

        Returns:
            Any: The same kind, resized.
        """
        if torch.compiler.is_exporting():
            return resize_by_matrices(inpt, (self.size[0], self.size[1]))
        # anomalib's export has set this to False, and its inferencer for torch goes through here.
        self.antialias = True
        return super().transform(inpt, params)


def resize_by_matrices(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize bilinearly with anti-aliasing, with operators that give the same result in every runtime.

    Args:
        image (Tensor): ``(..., H, W)``, any floating-point range.
        size (tuple[int, int]): Height and width of the result.

    Returns:
        Tensor: ``(..., *size)``, equal to ``interpolate(..., mode="bilinear", antialias=True)`` up to rounding.
    """
    rows = interpolation_matrix(image.shape[-2], size[0]).to(image)
    columns = interpolation_matrix(image.shape[-1], size[1]).to(image)
    # The last product has one batch axis. With an axis of channels besides, OpenVINO 2026.4 would merge the following
    # normalisation, with its factor per channel, into the product, and fail to compile it for a batch of any size.
    lines = (rows @ image).reshape(-1, size[0], image.shape[-1])
    return (lines @ columns.T).reshape(*image.shape[:-2], *size)


def interpolation_matrix(length: int, new_length: int) -> Tensor:
    """Coefficients of one-dimensional, bilinear, anti-aliased resizing.

    The weight of pixel ``j`` in the new pixel ``i`` is a triangle function around the centre of ``i``, which extends to
    either side by the larger of the two pixel spacings.

    Args:
        length (int): Number of pixels, at most 2 ** 29 / ``new_length``.
        new_length (int): Number of pixels of the result.

    Returns:
        Tensor: ``(new_length, length)``, every row sums to 1.
    """
    # Positions are in units of 1 / (2 * length * new_length): integers, which are exact also where a runtime computes
    # floating-point numbers in bfloat16, as OpenVINO does on some CPUs unless told otherwise.
    centers = (2 * torch.arange(new_length, dtype=torch.int32) + 1) * length
    positions = (2 * torch.arange(length, dtype=torch.int32) + 1) * new_length
    # Sizes are symbolic while a graph is exported, and max() would fix which of the two is larger.
    reach = 2 * torch.sym_max(length, new_length)
    weights = torch.clamp((positions[None] - centers[:, None]).abs().neg() + reach, min=0).float()
    return weights / weights.sum(dim=1, keepdim=True)


keep_transform(ExportableResize, "anomalib_unias.pre_processing.ExportableResize")
