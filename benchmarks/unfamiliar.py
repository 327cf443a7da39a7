"""Measures whether CADA notices images that are unlike those of the training.

    python -m benchmarks.unfamiliar --group a=DIR:pcb,cookie --group b=DIR:screw,steel

Every product of a group is left out in turn: clusters are fitted to the training images of the others (a tenth of them
held out, as in CADA), with the frozen features of the preset. Columns of ``unfamiliar.csv``:
``group,left_out,images,number,flagged``; ``flagged`` is the share of the images that are called unfamiliar. ``images``
are

- ``left_out``: the test images of the product that was left out,
- ``normal``, ``defective``: the test images of the others,
- ``white``, ``black``, ``noise``: artificial images; ``blurred``: normal test images of the others, blurred with
  sigma 8.
"""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anomalib.data import AnomalibDataset
from benchmarks.groups import Group
from benchmarks.harness import log
from benchmarks.models import SIZE
from benchmarks.preset import BACKBONE
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur, normalize, resize

from anomalib_unias.backbones import FeaturePyramid
from anomalib_unias.data.held_out import HeldOutOrder
from anomalib_unias.post_processing.calibration import Calibration
from anomalib_unias.post_processing.clusters import ImageClusters, image_descriptors

_NOISE_IMAGES = 20


class Describer:
    """Computes descriptors of images with the frozen network of the preset."""

    def __init__(self) -> None:
        self._network = FeaturePyramid(BACKBONE, None, pre_trained=True).eval()

    @torch.no_grad()
    def __call__(self, images: Iterable[Tensor]) -> Tensor:
        """Compute the descriptors ``(N, D)`` of images ``(3, H, W)`` in [0, 1]."""
        sized = (normalize(resize(image, list(SIZE), antialias=True), [0.5] * 3, [0.5] * 3) for image in images)
        return torch.cat([image_descriptors(self._network(image[None])) for image in sized])


def synthetic_images() -> dict[str, list[Tensor]]:
    """Make white, black and noise images."""
    generator = torch.Generator().manual_seed(0)
    return {
        "white": [torch.ones(3, *SIZE)],
        "black": [torch.zeros(3, *SIZE)],
        "noise": [torch.rand(3, *SIZE, generator=generator) for _ in range(_NOISE_IMAGES)],
    }


def images_of(dataset: AnomalibDataset) -> Iterator[Tensor]:
    """Yield all images of a data set."""
    return (dataset[index].image for index in range(len(dataset)))


def measure(group: Group, describer: Describer) -> pd.DataFrame:
    """Leave every product of a group out in turn, and measure the shares of unfamiliar images."""
    datamodule = group.datamodule(seed=0)
    datamodule.prepare_data()
    datamodule.setup()
    train, test = datamodule.train_data, datamodule.test_data
    held_out = HeldOutOrder(train, seed=0).first(0.1)
    unseen = torch.tensor([row in held_out for row in range(len(train))])
    training, tested = describer(images_of(train)), describer(images_of(test))
    blurred = describer(gaussian_blur(image, [49, 49], [8.0, 8.0]) for image in images_of(test))
    synthetic = {name: describer(images) for name, images in synthetic_images().items()}

    of_train, of_test = (data.samples["category"].to_numpy() for data in (train, test))
    defective = test.samples["label_index"].to_numpy().astype(bool)
    rows = []
    for left_out in sorted(set(of_train)):
        included = torch.from_numpy(of_train != left_out)
        clusters = ImageClusters.fit(training[included], unseen[included])
        others = of_test != left_out
        sets = {
            "left_out": tested[torch.from_numpy(~others)],
            "normal": tested[torch.from_numpy(others & ~defective)],
            "defective": tested[torch.from_numpy(others & defective)],
            "blurred": blurred[torch.from_numpy(others & ~defective)],
        } | synthetic
        for name, descriptors in sets.items():
            flagged = float(Calibration.unfamiliar(clusters.assign(descriptors).distance).float().mean())
            rows.append((group.name, left_out, name, len(descriptors), flagged))
        shown = {name: f"{np.round(row[4], 3):g}" for name, row in zip(sets, rows[-len(sets) :], strict=True)}
        log(f"{group.name} without {left_out}, {len(clusters)} kinds: {shown}")
    return pd.DataFrame(rows, columns=["group", "left_out", "images", "number", "flagged"])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", type=Group.parse, action="append", required=True, help="NAME=DIR[:category,...]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder of the results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    describer = Describer()
    table = pd.concat([measure(group, describer) for group in options.group])
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "unfamiliar.csv"
    table.to_csv(path, index=False, float_format="%.4f")
    log(f"Results: {path}")


if __name__ == "__main__":
    main()
