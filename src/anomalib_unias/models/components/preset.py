"""Presets: classes that differ from a model in the default values of its arguments."""

import re
from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from types import FunctionType
from typing import Any, TypeVar, cast

from anomalib_unias.post_processing import CadaPostProcessor

F = TypeVar("F", bound=Callable[..., None])


def with_defaults(function: F, defaults: Mapping[str, Any]) -> F:
    """Copy a function with other default values for some of its arguments.

    The copy has a real signature, so that the command line, checkpoints and help see the new defaults.

    Args:
        function (F): A plain function; it may call ``super()``.
        defaults (Mapping[str, Any]): New default values for arguments that already have one.

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


def without_defaults(documentation: str | None) -> str:
    """Remove the default values from a description of arguments: the command line shows those of a preset itself.

    Args:
        documentation (str | None): Google-style docstring.

    Returns:
        str: The same without ``Defaults to ...``.
    """
    return re.sub(r"\s+Defaults to\s+``[^`]*``\.", "", documentation or "")


class CalibratedPreset:
    """A preset with one threshold for all products, taken from normal images only.

    A base class to list before ``AnomalibModule`` or any model of anomalib.
    """

    def configure_post_processor(self) -> CadaPostProcessor:
        """Calibrate scores and take the threshold from normal images.

        Returns:
            CadaPostProcessor: With its defaults.
        """
        return CadaPostProcessor()
