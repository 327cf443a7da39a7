"""The choice of prototypes from training images."""

from collections.abc import Sequence

import torch

from anomalib_unias.metrics.collection import of_all_processes
from anomalib_unias.post_processing.clusters import image_descriptors

from .prototypes import NormalPrototypes, Patches

# Patches that prototypes are chosen from: at most so many of one kind of image, and of all together.
_MOST_OF_ONE_KIND = 60_000
_MOST = 240_000


class PrototypeSelection:
    """Chooses prototypes in two passes over the training images, in bounded memory.

    The first pass finds the kinds of images and the principal components of their patches. The second collects random
    patches, equally many of each kind; the prototypes are chosen from them.

    Args:
        prototypes (NormalPrototypes): Changed in place by :meth:`end_first_pass` and :meth:`end_second_pass`.
        batches (int): Number of batches of training images, of all processes together.
    """

    def __init__(self, prototypes: NormalPrototypes, batches: int) -> None:
        self._prototypes = prototypes
        self._batches = batches
        self._descriptors: list[torch.Tensor] = []
        self._samples: list[list[torch.Tensor]] = []
        self._patches: list[list[Patches]] = []
        self._counts = torch.zeros(0)

    def first_pass(self, features: Sequence[torch.Tensor]) -> None:
        """Look at some images.

        Args:
            features (Sequence[torch.Tensor]): ``(B, C_l, H_l, W_l)`` for each level, shallow to deep.
        """
        images = self._batches * len(features[0])
        self._descriptors.append(image_descriptors(features).cpu())
        self._samples.append([view.cpu() for view in self._prototypes.sample(features, images)])

    def end_first_pass(self) -> None:
        """Find the kinds of images and the principal components."""
        device = self._prototypes.kinds.centers.device
        descriptors = torch.cat(of_all_processes(torch.cat(self._descriptors))).to(device)
        self._prototypes.fit_kinds(descriptors)
        for view, sample in zip(self._prototypes.list_views(), zip(*self._samples, strict=True), strict=True):
            view.fit_components(torch.cat(of_all_processes(torch.cat(sample))).to(device))
        self._counts = torch.bincount(
            self._prototypes.kinds.assign(descriptors).cluster.cpu(), minlength=len(self._prototypes.kinds)
        )
        self._samples.clear()

    def second_pass(self, features: Sequence[torch.Tensor], images: torch.Tensor) -> None:
        """Collect patches of some images; the order and the batches may differ from the first pass.

        Args:
            features (Sequence[torch.Tensor]): ``(B, C_l, H_l, W_l)`` for each level, shallow to deep.
            images (torch.Tensor): A number for each image ``(B,)``, int64, see :func:`~.prototypes.image_numbers`.
        """
        kinds = self._prototypes.kinds(features).cluster.cpu()
        share = min(_MOST_OF_ONE_KIND, _MOST / int((self._counts > 0).sum())) / self._counts[kinds].clamp(min=1)
        points = (view.project(features).cpu() for view in self._prototypes.list_views())
        self._patches.append([_draw(view, kinds, images, share.ceil().long()) for view in points])

    def end_second_pass(self) -> None:
        """Choose the prototypes."""
        kinds = self._prototypes.kinds
        device = kinds.centers.device
        for view, batches in zip(self._prototypes.list_views(), zip(*self._patches, strict=True), strict=True):
            patches = Patches.join(of_all_processes(Patches.join(batches)))
            patches = Patches(*(field.to(device) for field in patches))
            # No image may be nearest to the centre of a kind: it gets the prototypes of its nearest neighbour.
            view.fit(patches, kinds.nearest_among(patches.kind.unique()).tolist())
        self._patches.clear()


def _draw(points: torch.Tensor, kinds: torch.Tensor, images: torch.Tensor, counts: torch.Tensor) -> Patches:
    """Draw random patches of each image.

    Args:
        points (torch.Tensor): All patches of a batch, ``(B, n, L)``.
        kinds (torch.Tensor): Kind of each image, ``(B,)``.
        images (torch.Tensor): Number of each image, ``(B,)``.
        counts (torch.Tensor): Number of patches of each image, ``(B,)``.

    Returns:
        Patches: The drawn patches.
    """
    drawn = [one[torch.randperm(len(one))[:count]] for one, count in zip(points, counts.tolist(), strict=True)]
    numbers = torch.tensor([len(one) for one in drawn])
    return Patches(torch.cat(drawn), kinds.repeat_interleave(numbers), images.repeat_interleave(numbers))
