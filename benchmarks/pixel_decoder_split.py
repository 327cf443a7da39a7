"""Does it pay to split the pixel decoder? Fewer multiplications, but more time.

    python -m benchmarks.pixel_decoder_split

A level of the pixel decoder convolves the sum of a normalised lateral map and a resized deeper map, 256 channels wide.
Convolution is linear, so both can be convolved apart: the lateral projection, its normalisation and the convolution
become one kernel for each image, which starts from the few channels of the backbone (the statistics of the
normalisation follow from the second moments of these channels); the taps are applied to the deeper map before it is
resized. This script computes the two largest levels of UniAS-B4 in both forms, in turns, and adds rows to
benchmarks/results/speed.csv. They are why the model does not use the split.
"""

import argparse
from functools import partial

import numpy as np
import openvino as ov
import torch
from benchmarks.speed import gmac, in_turns, record
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from anomalib_unias.models.unias.components.composition import bilinear_matrix, convolve_resized, spread_border
from anomalib_unias.models.unias.components.pixel_decoder import _FusionLevel

# Channels of the backbone and side of the level.
LEVELS = {"112x112": (48, 112), "56x56": (64, 56)}
WIDTH = 256


class SplitLevel(nn.Module):
    """The same as a level of the pixel decoder, with its parameters.

    Args:
        level (nn.Module): Level of the pixel decoder.
    """

    def __init__(self, level: nn.Module) -> None:
        super().__init__()
        self.level = level

    def forward(self, shallow: Tensor, deeper: Tensor) -> Tensor:
        """Merge both maps: ``(B, C, H, W)`` and ``(B, D, H / 2, W / 2)`` to ``(B, D, H, W)``."""
        kernel = self.level.output.weight
        sizes = zip(deeper.shape[-2:], shallow.shape[-2:], strict=True)
        matrices = [bilinear_matrix(small, large, shallow, align_corners=False) for small, large in sizes]
        merged = self.convolved_lateral(shallow, kernel) + convolve_resized(deeper, kernel, matrices)
        return self.level.output_norm(merged).relu()

    def convolved_lateral(self, shallow: Tensor, kernel: Tensor) -> Tensor:
        """Project, normalise and convolve by one kernel for each image."""
        norm, projection = self.level.lateral_norm, self.level.lateral.weight.flatten(1)
        pixels = shallow.flatten(2)
        mean = pixels.mean(dim=2) @ projection.T
        square = ((projection @ (pixels @ pixels.mT / pixels.shape[2])) * projection).sum(dim=2)
        mean, square = (value.unflatten(1, (norm.num_groups, -1)).mean(dim=2) for value in (mean, square))
        size = len(projection) // norm.num_groups
        scale = (square - mean**2 + norm.eps).rsqrt().repeat_interleave(size, dim=1) * norm.weight
        shift = norm.bias - mean.repeat_interleave(size, dim=1) * scale
        taps = (kernel.permute(2, 3, 0, 1).reshape(1, -1, len(projection)) * scale[:, None]) @ projection
        tapped = pad((taps @ pixels).unflatten(2, shallow.shape[-2:]), (1, 1, 1, 1)).unflatten(1, (3, 3, -1))
        height, width = shallow.shape[-2:]
        moved = [tapped[:, y, x, :, y : y + height, x : x + width] for y in range(3) for x in range(3)]
        constant = conv2d(shift[:, :, None, None].expand(-1, -1, 3, 3), kernel, padding=1)
        return torch.stack(moved).sum(dim=0) + spread_border(constant, shallow)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": options.threads}
    for name, (channels, side) in LEVELS.items():
        plain = _FusionLevel(channels, WIDTH).eval().requires_grad_(False)
        forms = [plain, SplitLevel(plain).eval()]
        inputs = torch.randn(1, channels, side, side), torch.randn(1, WIDTH, side // 2, side // 2)
        torch.testing.assert_close(forms[1](*inputs), forms[0](*inputs), atol=1e-4, rtol=1e-4)
        record(f"pixel decoder split, {name}, cost", *(np.array(gmac(form, *inputs)) for form in forms), "GMAC")
        graphs = [ov.convert_model(torch.export.export(form, inputs)) for form in forms]
        requests = [ov.Core().compile_model(graph, "CPU", hints).create_infer_request() for graph in graphs]
        arrays = [value.numpy() for value in inputs]
        runners = {
            "torch": [partial(form, *inputs) for form in forms],
            "openvino": [partial(request.infer, arrays) for request in requests],
        }
        for runtime, functions in runners.items():
            times = 1e3 * in_turns(functions, options.runs)
            record(f"pixel decoder split, {name}, {runtime}", *times.T, "ms")


if __name__ == "__main__":
    main()
