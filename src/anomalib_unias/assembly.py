"""Build models of anomalib with parts of this package, where only plain names can be given."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from omegaconf import OmegaConf
from torch import nn
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_unias.compat.models import model_class


def assemble(
    model: str,
    post_processor: str | None = None,
    evaluator: str | None = "UnifiedEvaluator",
    pre_processor: Mapping[str, Any] | None = None,
    trainer_arguments: Mapping[str, Any] | None = None,
    arguments_of: Mapping[str, Mapping[str, Any]] | None = None,
    **arguments: Any,
) -> AnomalibModule:
    """Build any anomalib model with parts of this package that are given by their names.

    This is for anomalib's ``benchmark`` pipeline (2.7.0), which reads plain values only. The pipeline cannot build a
    post-processor or evaluator, nor limit the training of a model that sets no limit itself, and it needs the same
    arguments and the same metrics for all models of a run. There, give ``class_path: anomalib_unias.assemble`` instead
    of the model.

    Args:
        model (str): Name of the model, e.g. ``"Patchcore"``.
        post_processor (str | None): ``"CadaPostProcessor"`` or ``"OrderPreservingPostProcessor"``. Defaults to
            ``None``: that of the model.
        evaluator (str | None): ``"UnifiedEvaluator"``, or ``None`` for that of the model. Defaults to
            ``"UnifiedEvaluator"``.
        pre_processor (Mapping[str, Any] | None): ``image_size`` (height, width), ``mean`` and ``std`` of a
            pre-processor that resizes and normalises. Defaults to ``None``: that of the model.
        trainer_arguments (Mapping[str, Any] | None): Trainer arguments that the model itself does not set, e.g.
            ``{"max_epochs": 20}``. Defaults to ``None``.
        arguments_of (Mapping[str, Mapping[str, Any]] | None): Arguments for one model of several, by its name; all
            arguments listed here are allowed. Defaults to ``None``.
        **arguments (Any): Constructor arguments of the model.

    Returns:
        AnomalibModule: The model.

    Raises:
        UnknownModelError: If anomalib knows no such model.
        ValueError: If a part is unknown, or ``pre_processor`` does not have exactly these three entries.

    Example:
        >>> model = assemble("Padim", post_processor="CadaPostProcessor", backbone="resnet18", pre_trained=False)
        >>> type(model).__name__, type(model.post_processor).__name__
        ('Padim', 'CadaPostProcessor')
        >>> assemble("Padim", pre_trained=False, arguments_of={"Padim": {"backbone": "resnet18"}}).hparams["backbone"]
        'resnet18'
    """
    specific = _plain(arguments_of or {}).get(model)
    if specific:
        given = {
            "post_processor": post_processor,
            "evaluator": evaluator,
            "pre_processor": pre_processor,
            "trainer_arguments": trainer_arguments,
        }
        return assemble(model, **{**given, **arguments, **specific})
    if pre_processor is not None:
        arguments["pre_processor"] = _resizing(pre_processor)
    for part, name in (("post_processor", post_processor), ("evaluator", evaluator)):
        if name is not None:
            arguments[part] = _part(part, name)()
    stock = model_class(model)
    build = stock if trainer_arguments is None else _with_trainer_arguments(stock, trainer_arguments)
    return build(**arguments)


def _plain(value: Any) -> Any:
    """Convert the OmegaConf values that anomalib passes to plain dictionaries and lists."""
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _resizing(described: Mapping[str, Any]) -> PreProcessor:
    if set(described) != {"image_size", "mean", "std"}:
        msg = f"pre_processor must have image_size, mean and std, got {', '.join(described) or 'nothing'}."
        raise ValueError(msg)
    size, mean, std = (list(described[name]) for name in ("image_size", "mean", "std"))
    return PreProcessor(Compose([Resize(size, antialias=True), Normalize(mean=mean, std=std)]))


class _WithTrainerArguments(nn.Module):
    """Adds trainer arguments to those of a model. As a base class it must come before the model of anomalib."""

    _stock: ClassVar[type[AnomalibModule]]
    _requested: ClassVar[dict[str, Any]]

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        return {**self._requested, **super().trainer_arguments}  # type: ignore[misc]

    def __reduce__(self) -> tuple[Any, ...]:
        # The class is in no module, so a pickle would not find it.
        return _empty, (self._stock, self._requested), self.__getstate__()


def _with_trainer_arguments(stock: type[AnomalibModule], requested: Mapping[str, Any]) -> type[AnomalibModule]:
    """Derive a model with more trainer arguments. It keeps the name of the stock model, which names the folders."""
    named = {name: getattr(stock, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(
        stock.__name__, (_WithTrainerArguments, stock), {**named, "_stock": stock, "_requested": dict(requested)}
    )


def _empty(stock: type[AnomalibModule], requested: Mapping[str, Any]) -> AnomalibModule:
    model = _with_trainer_arguments(stock, requested)
    return model.__new__(model)


_PARTS = {
    "post_processor": ("CadaPostProcessor", "OrderPreservingPostProcessor"),
    "evaluator": ("UnifiedEvaluator",),
}


def _part(kind: str, name: str) -> Any:
    if name not in _PARTS[kind]:
        msg = f"{kind} must be one of {', '.join(_PARTS[kind])}, got {name!r}."
        raise ValueError(msg)
    return getattr(import_module("anomalib_unias"), name)
