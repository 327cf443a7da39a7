"""Post-processors of anomalib."""

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from anomalib.metrics import AnomalibMetric
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import MEBinPostProcessor, PostProcessor
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

_Part = TypeVar("_Part", bound=nn.Module)

SCORE_BUFFERS = ("_image_threshold", "_pixel_threshold", "image_min", "image_max", "pixel_min", "pixel_max")
"""Entries in the state dict of a post-processor of anomalib 2.7.0 that depend on the scores of a model."""


def has_threshold(post_processor: Any, name: str) -> bool:
    """Whether the labels that a post-processor predicts are based on a threshold.

    Without a threshold, exports of anomalib 2.7.0 compare raw scores with 0.5, the threshold of normalised scores;
    elsewhere anomalib takes the scores themselves for labels.

    Args:
        post_processor (Any): Post-processor, or ``None``.
        name (str): Attribute with the threshold, ``image_threshold`` or ``pixel_threshold``; its value is NaN if
            validation found none.

    Returns:
        bool: ``True`` also for a post-processor that has no such attribute, or finds a threshold for each image.

    Example:
        >>> has_threshold(PostProcessor(), "image_threshold")
        False
    """
    if name == "pixel_threshold" and isinstance(post_processor, MEBinPostProcessor):
        return True
    threshold = getattr(post_processor, name, None)
    return threshold is None or not bool(torch.isnan(torch.as_tensor(threshold)).all())


def set_thresholds(post_processor: PostProcessor, image: Tensor, pixel: Tensor) -> None:
    """Set the thresholds of raw scores.

    In anomalib 2.7.0 they can only be read, and come from a validation.

    Args:
        post_processor (PostProcessor): Any post-processor of anomalib.
        image (Tensor): Threshold of image scores, shape ``()``.
        pixel (Tensor): Threshold of the anomaly map, shape ``()``.
    """
    post_processor._image_threshold.copy_(image)
    post_processor._pixel_threshold.copy_(pixel)


def set_threshold_metrics(post_processor: PostProcessor, image: AnomalibMetric, pixel: AnomalibMetric) -> None:
    """Let the thresholds come from other metrics than the best F1 score.

    anomalib 2.7.0 takes no argument for them.

    Args:
        post_processor (PostProcessor): Any post-processor of anomalib.
        image (AnomalibMetric): Metric that gives the threshold of image scores.
        pixel (AnomalibMetric): Metric that gives the threshold of the anomaly map.
    """
    post_processor._image_threshold_metric = image  # type: ignore[assignment]
    post_processor._pixel_threshold_metric = pixel  # type: ignore[assignment]


def watch_for_owner(part: _Part, callback: Callable[[_Part, AnomalibModule], None]) -> None:
    """Call a function when a part, such as a post-processor, is assigned to its model.

    In anomalib 2.7.0 a part gets to know its model only in ``setup``, which a trainer calls. After
    ``load_from_checkpoint`` and ``export`` only its ``load_checkpoint_config`` and ``forward`` are called, without the
    model or a reference to it, and torch does not tell a module its parent. So a global hook of torch watches every
    assignment of a module to another one in this process, until the part has got its model.

    Args:
        part (nn.Module): The part. It may be deleted without ever getting a model.
        callback (Callable[[nn.Module, AnomalibModule], None]): Called once with the part and its model. It must hold no
            reference to ``part``.
    """
    reference = weakref.ref(part)

    def hook(owner: nn.Module, name: str, submodule: Any) -> None:
        del name
        pending = reference()
        if pending is None:
            handle.remove()
        elif submodule is pending and isinstance(owner, AnomalibModule):
            handle.remove()
            callback(pending, owner)

    handle = register_module_module_registration_hook(hook)


def is_hooked(hooks: str, module: nn.Module, hook: Callable[..., Any]) -> bool:
    """Tell whether a module, or the module that it was copied from, has been given a hook.

    torch copies hooks with a module, and has no public way to list them.

    Args:
        hooks (str): ``"forward"`` or ``"forward_pre"``.
        module (nn.Module): Any module.
        hook (Callable[..., Any]): The hook.

    Returns:
        bool: Whether the module calls the hook.
    """
    return hook in getattr(module, f"_{hooks}_hooks").values()
