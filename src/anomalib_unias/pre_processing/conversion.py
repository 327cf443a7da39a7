"""Make the pre-processor of an existing model exportable."""

from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Compose, InterpolationMode, Resize, Transform

from anomalib_unias.pre_processing.resize import ExportableResize


def make_exportable(model: AnomalibModule) -> bool:
    """Let a trained model give the same predictions after export, by replacing the ``Resize`` of its pre-processor.

    Args:
        model (AnomalibModule): Any model of anomalib, changed in place.

    Returns:
        bool: Whether there was something to replace: an anti-aliased, bilinear ``Resize`` to a fixed size.

    Example:
        >>> from anomalib.models import Padim
        >>> model = Padim(backbone="resnet18", pre_trained=False)
        >>> make_exportable(model), make_exportable(model)
        (True, False)
    """
    pre_processor = model.pre_processor
    if not isinstance(pre_processor, PreProcessor) or pre_processor.transform is None:
        return False
    transform = exportable_transform(pre_processor.transform)
    if transform is pre_processor.transform:
        return False
    model.pre_processor = PreProcessor(transform=transform)
    return True


def exportable_transform(transform: Transform) -> Transform:
    """Replace every anti-aliased, bilinear ``Resize`` to a fixed size.

    Args:
        transform (Transform): A transform, or a ``Compose`` of transforms.

    Returns:
        Transform: The same object if there is nothing to replace.
    """
    if isinstance(transform, Compose):
        steps = [exportable_transform(step) for step in transform.transforms]
        changed = any(new is not old for new, old in zip(steps, transform.transforms, strict=True))
        return Compose(steps) if changed else transform
    if _is_replaceable(transform):
        return ExportableResize(transform.size)
    return transform


def _is_replaceable(transform: Transform) -> bool:
    return (
        isinstance(transform, Resize)
        and not isinstance(transform, ExportableResize)
        and transform.antialias is True
        and InterpolationMode(transform.interpolation) is InterpolationMode.BILINEAR
        and transform.size is not None
        and len(transform.size) == 2
    )
