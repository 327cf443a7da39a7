"""Split the batches of a trainer into images that can be evaluated one by one."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from anomalib.data import Batch, ImageBatch
from torch import Tensor
from torch.utils.data import DistributedSampler

from anomalib_unias.compat.scores import has_threshold


class Scores(NamedTuple):
    """Scores of a batch: of the images ``(B,)``, and maps ``(B, H, W)`` if the model gives any."""

    image: Tensor
    pixel: Tensor | None

    @classmethod
    def of(cls, batch: Batch) -> "Scores":
        """Scores of a batch; a missing image score is the maximum of the map, as in anomalib's post-processor.

        Raises:
            ValueError: If the batch has neither image scores nor maps.
        """
        if batch.pred_score is not None:
            return cls(batch.pred_score.reshape(-1), batch.anomaly_map)
        if batch.anomaly_map is not None:
            return cls(batch.anomaly_map.amax(dim=(-2, -1)).reshape(-1), batch.anomaly_map)
        msg = "A batch needs pred_score or anomaly_map to be evaluated, got neither. The model must give one of them."
        raise ValueError(msg)


class ScoredImage(NamedTuple):
    """An image with all data that are evaluated.

    Args:
        category (str): Category of the image.
        image_path (str): Path of the image.
        label (int): 1 for defective, 0 for good.
        score (float): Raw image score of the model.
        normalized_score (float): Image score after the post-processor.
        predicted (float): Label predicted by the post-processor, NaN if there is none.
        anomaly_map (Tensor | None): Raw anomaly map of the model ``(H, W)``.
        mask (Tensor | None): Ground truth ``(H, W)``, defective where ``> 0``; ``None`` if it is not known.
        predicted_mask (Tensor | None): Mask predicted by the post-processor ``(H, W)``.
    """

    category: str
    image_path: str
    label: int
    score: float
    normalized_score: float
    predicted: float
    anomaly_map: Tensor | None
    mask: Tensor | None
    predicted_mask: Tensor | None


def split_batch(batch: ImageBatch, scores: Scores, data_name: str, post_processor: Any = None) -> Iterator[ScoredImage]:
    """Split a batch into images.

    Args:
        batch (ImageBatch): Batch with labels, post-processed or not. Its optional fields ``category`` (list of names)
            and ``mask_valid`` (whether the mask of an image is known, ``(B,)``) are used.
        scores (Scores): Raw scores of the model.
        data_name (str): Category of the images of a batch without categories.
        post_processor (Any): Post-processor that predicted labels and masks. If it has no threshold, they are left
            out, see :func:`~anomalib_unias.compat.scores.has_threshold`. Defaults to ``None``.

    Yields:
        ScoredImage: One per image.

    Raises:
        ValueError: If the batch has no labels.
    """
    if batch.gt_label is None:
        msg = "A batch needs gt_label to be evaluated, got None. Use a data module whose images are labelled."
        raise ValueError(msg)
    labels = batch.pred_label if has_threshold(post_processor, "image_threshold") else None
    predicted_masks = batch.pred_mask if has_threshold(post_processor, "pixel_threshold") else None
    size = len(scores.image)
    valid = getattr(batch, "mask_valid", None)
    columns: dict[str, Any] = {
        "category": getattr(batch, "category", None) or [data_name] * size,
        "image_path": batch.image_path or [""] * size,
        "label": (batch.gt_label > 0).int().tolist(),
        "score": scores.image.double().tolist(),
        "normalized_score": Scores.of(batch).image.double().tolist(),
        "predicted": [float("nan")] * size if labels is None else labels.double().tolist(),
        "anomaly_map": _per_image(scores.pixel, size),
        "mask": [
            mask if valid is None or valid[index] else None
            for index, mask in enumerate(_per_image(batch.gt_mask, size))
        ],
        "predicted_mask": _per_image(predicted_masks, size),
    }
    for values in zip(*columns.values(), strict=True):
        yield ScoredImage(**dict(zip(columns, values, strict=True)))


def count_unrepeated(loader: Any, batch_idx: int, size: int) -> int:
    """Number of images at the start of a batch that no process has seen before.

    Lightning distributes a data set over processes by a ``DistributedSampler``, which repeats the first images so that
    all processes have equally many.

    Args:
        loader (Any): Data loader of the batch.
        batch_idx (int): Number of the batch in this process.
        size (int): Number of images of the batch.

    Returns:
        int: ``size``, or less in the last batch of a process.
    """
    sampler = getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler):
        return size
    first = batch_idx * loader.batch_sampler.batch_size
    indices = (first + torch.arange(size)) * sampler.num_replicas + sampler.rank
    return int((indices < len(sampler.dataset)).sum())  # type: ignore[arg-type]


def _per_image(images: Tensor | None, size: int) -> list[Tensor | None]:
    return [None] * size if images is None else [image.reshape(image.shape[-2:]) for image in images]
