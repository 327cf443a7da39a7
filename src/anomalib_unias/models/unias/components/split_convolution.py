"""The convolution of a sum, split: each summand is convolved while it has few channels or few pixels."""

import torch
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d, interpolate, pad

# Filter of bilinear enlargement by a factor of two, along each side.
_DOUBLING = (0.25, 0.75, 0.75, 0.25)


def convolve_doubled(image: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Convolve a bilinearly doubled image with zero padding, at a quarter of the multiplications.

    Enlarging is the same as inserting zeros between the pixels and filtering. The filter is the same for all channels
    and can be applied after the convolution. The convolution then runs mostly over zeros: it is a transposed
    convolution of the small image.

    Args:
        image (torch.Tensor): ``(B, D, h, w)``.
        kernel (torch.Tensor): ``(C, D, 3, 3)``.

    Returns:
        torch.Tensor: ``(B, C, 2 h, 2 w)``.
    """
    padded_image = pad(image, (1, 1, 1, 1), mode="replicate")
    sparse = conv_transpose2d(padded_image, kernel.transpose(0, 1).flip(2, 3), stride=2, padding=1)
    taps = torch.tensor(_DOUBLING, dtype=image.dtype, device=image.device)
    unbounded = conv2d(sparse, torch.outer(taps, taps).expand(len(kernel), 1, 4, 4), groups=len(kernel))
    return unbounded - _from_outside(image, kernel)


def _from_outside(image: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Contribution to the convolution of the line of pixels around the enlarged image, which repeats its border."""
    height, width = (2 * side for side in image.shape[-2:])
    # Lines above and below, with their corners, then to the left and to the right.
    rows = pad(interpolate(image[:, :, (0, -1)], size=(2, width), mode="bilinear"), (1, 1, 0, 0), mode="replicate")
    columns = interpolate(image[..., (0, -1)], size=(height, 2), mode="bilinear")
    above, below = conv2d(rows[:, :, :1], kernel[:, :, :1]), conv2d(rows[:, :, 1:], kernel[:, :, 2:])
    left = conv2d(columns[..., :1], kernel[..., :1], padding=(1, 0))
    right = conv2d(columns[..., 1:], kernel[..., 2:], padding=(1, 0))
    # One product per channel puts all four at their positions.
    ends = torch.zeros(height + width, 2, dtype=image.dtype, device=image.device)
    ends[0, 0] = ends[height - 1, 1] = ends[height, 0] = ends[-1, 1] = 1
    shape = above.shape[:2]
    down = torch.cat((ends[:height].expand(*shape, -1, -1), left, right), dim=3)
    along = torch.cat((above, below, ends[height:].mT.expand(*shape, -1, -1)), dim=2)
    return down @ along


def convolve_normalized(
    image: torch.Tensor, projection: torch.Tensor, norm: nn.GroupNorm, kernel: torch.Tensor
) -> torch.Tensor:
    """Project an image to more channels, normalise it and convolve it with zero padding, in one step.

    Projection, normalisation and convolution become one kernel for each image. The statistics of the normalisation are
    computed from the mean and the covariance of the image's own channels.

    Args:
        image (torch.Tensor): ``(B, I, H, W)``.
        projection (torch.Tensor): Kernel ``(D, I, 1, 1)``.
        norm (nn.GroupNorm): Normalisation of D channels.
        kernel (torch.Tensor): ``(C, D, 3, 3)``.

    Returns:
        torch.Tensor: ``(B, C, H, W)``.
    """
    height, width = image.shape[-2:]
    mean = image.mean(dim=(2, 3), keepdim=True)
    deviations = image - mean
    linear = _projection_of_deviations(deviations.flatten(2), mean.flatten(1), projection.flatten(1), norm)
    # A channel of ones carries the constant that is added to every pixel; it is zero outside of the image.
    padded = pad(torch.cat((deviations, torch.ones_like(image[:, :1])), dim=1), (1, 1, 1, 1))
    neighbours = [padded[:, :, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    pixels = torch.cat(neighbours, dim=1).flatten(2).mT
    kernels = kernel.permute(0, 2, 3, 1).flatten(0, 2) @ linear
    convolved = (pixels @ kernels.unflatten(1, (len(kernel), -1)).flatten(2).mT).mT.unflatten(2, (height, width))
    # The backward pass of a transposed convolution takes twice the time in other memory layouts.
    return convolved.contiguous() if convolved.requires_grad else convolved


def _projection_of_deviations(
    deviations: torch.Tensor, mean: torch.Tensor, projection: torch.Tensor, norm: nn.GroupNorm
) -> torch.Tensor:
    """Projection and normalisation as one matrix for each image.

    Args:
        deviations (torch.Tensor): Pixels minus their mean ``(B, I, N)``.
        mean (torch.Tensor): ``(B, I)``.
        projection (torch.Tensor): ``(D, I)``.
        norm (nn.GroupNorm): Normalisation of D channels.

    Returns:
        torch.Tensor: ``(B, D, I + 1)``; the last column is a constant to add.
    """
    covariance = deviations @ deviations.mT / deviations.shape[2]
    # Mean and variance of every projected channel, by groups.
    groups = (norm.num_groups, -1)
    means = (mean @ projection.T).unflatten(1, groups)
    variances = ((projection @ covariance) * projection).sum(dim=2).unflatten(1, groups)
    centred = means - means.mean(dim=2, keepdim=True)
    variance = (variances + centred.square()).mean(dim=2, keepdim=True)
    scale = norm.weight.unflatten(0, groups) * (variance + norm.eps).rsqrt()
    shift = centred * scale + norm.bias.unflatten(0, groups)
    return torch.cat((scale.flatten(1)[..., None] * projection, shift.flatten(1)[..., None]), dim=2)
