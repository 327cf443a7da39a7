"""Models of anomalib with our parts, where only plain names can be given."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from anomalib.models import get_model
from anomalib.models.components import AnomalibModule


def assemble(
    model: str,
    post_processor: str | None = None,
    evaluator: str | None = "UnifiedEvaluator",
    trainer_arguments: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> AnomalibModule:
    """Build any anomalib model with parts of this package that are given by their names.

    For anomalib's ``benchmark`` pipeline (2.7.0), which reads plain values only: it can neither build a post-processor
    or evaluator, nor limit the training of a model that does not limit itself, and it wants the same metrics from
    every model. There ``class_path: anomalib_unias.assemble`` stands for the model.

    Args:
        model (str): Name of the model, e.g. ``"Patchcore"``.
        post_processor (str | None): ``"CadaPostProcessor"`` or ``"OrderPreservingPostProcessor"``. Defaults to
            ``None``: that of the model.
        evaluator (str | None): ``"UnifiedEvaluator"``, or ``None`` for that of the model. Defaults to
            ``"UnifiedEvaluator"``.
        trainer_arguments (Mapping[str, Any] | None): What is asked of the trainer where the model itself asks nothing,
            e.g. ``{"max_epochs": 20}``. Defaults to ``None``.
        **arguments (Any): Constructor arguments of the model.

    Returns:
        AnomalibModule: The model.

    Raises:
        ValueError: If a part is unknown.

    Example:
        >>> model = assemble("Padim", post_processor="CadaPostProcessor", backbone="resnet18", pre_trained=False)
        >>> type(model).__name__, type(model.post_processor).__name__
        ('Padim', 'CadaPostProcessor')
    """
    for kind, name in (("post_processor", post_processor), ("evaluator", evaluator)):
        if name is not None:
            arguments[kind] = _part(kind, name)()
    built = get_model(model, **arguments)
    if trainer_arguments is not None:
        stock, given = type(built), dict(trainer_arguments)

        class Limited(stock):  # type: ignore[misc, valid-type]
            @property
            def trainer_arguments(self) -> dict[str, Any]:
                return {**given, **super().trainer_arguments}

        Limited.__name__, Limited.__qualname__, Limited.__module__ = (
            stock.__name__,
            stock.__qualname__,
            stock.__module__,
        )
        built.__class__ = Limited
    return built


_PARTS = {
    "post_processor": ("CadaPostProcessor", "OrderPreservingPostProcessor"),
    "evaluator": ("UnifiedEvaluator",),
}


def _part(kind: str, name: str) -> Any:
    if name not in _PARTS[kind]:
        msg = f"{kind} must be one of {', '.join(_PARTS[kind])}, got {name!r}."
        raise ValueError(msg)
    return getattr(import_module("anomalib_unias"), name)
