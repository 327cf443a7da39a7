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
"""Names, in a state dict of a post-processor of anomalib 2.7.0, of what belongs to the scores of a model."""


def has_threshold(post_processor: Any, name: str) -> bool:
    """Whether what a post-processor predicts rests on a threshold.

    Without one anomalib 2.7.0 compares raw scores with 0.5, the threshold of normalised ones, in exports, and takes
    the scores themselves for labels elsewhere.

    Args:
        post_processor (Any): Post-processor, or ``None``.
        name (str): Its threshold, ``image_threshold`` or ``pixel_threshold``, NaN if none was found in validation.

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
        post_processor (PostProcessor): Any of anomalib.
        image (Tensor): Of image scores, ``()``.
        pixel (Tensor): Of the anomaly map, ``()``.
    """
    post_processor._image_threshold.copy_(image)
    post_processor._pixel_threshold.copy_(pixel)


def set_threshold_metrics(post_processor: PostProcessor, image: AnomalibMetric, pixel: AnomalibMetric) -> None:
    """Let the thresholds come from other metrics than the best F1 score.

    anomalib 2.7.0 takes no argument for them.

    Args:
        post_processor (PostProcessor): Any of anomalib.
        image (AnomalibMetric): Gives the threshold of image scores.
        pixel (AnomalibMetric): Gives that of the anomaly map.
    """
    post_processor._image_threshold_metric = image  # type: ignore[assignment]
    post_processor._pixel_threshold_metric = pixel  # type: ignore[assignment]


def watch_for_owner(part: _Part, found: Callable[[_Part, AnomalibModule], None]) -> None:
    """Notice the model that a part becomes part of.

    A part of a model of anomalib 2.7.0 is told its model by ``setup`` alone, which a trainer calls. Of
    ``load_from_checkpoint``, followed by ``export``, it sees ``load_checkpoint_config`` and ``forward``, where neither
    the model nor anything that leads to it is passed; nor does torch tell a module of its parent. So a hook of torch
    listens to all modules of the process that get a part, until this one has got its model.

    Args:
        part (nn.Module): Say, a post-processor. It may be thrown away without a model.
        found (Callable[[nn.Module, AnomalibModule], None]): Is called with both, once. Holds no reference to ``part``.
    """
    reference = weakref.ref(part)

    def notice(owner: nn.Module, name: str, submodule: Any) -> None:
        del name
        waiting = reference()
        if waiting is None:
            handle.remove()
        elif submodule is waiting and isinstance(owner, AnomalibModule):
            handle.remove()
            found(waiting, owner)

    handle = register_module_module_registration_hook(notice)


def is_hooked(hooks: str, module: nn.Module, hook: Callable[..., Any]) -> bool:
    """Tell whether a module, or what it was copied from, has been given a hook.

    torch copies hooks with a module, and has no way to ask for them.

    Args:
        hooks (str): ``"forward"`` or ``"forward_pre"``.
        module (nn.Module): Any.
        hook (Callable[..., Any]): The hook.

    Returns:
        bool: Whether it is called.
    """
    return hook in getattr(module, f"_{hooks}_hooks").values()
