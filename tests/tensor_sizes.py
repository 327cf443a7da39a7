"""Sizes of the tensors that an operation creates."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class TensorSizes(TorchDispatchMode):
    """Records the number of elements of every tensor that is computed within the context.

    Args:
        operation (str): Part of the name of the operations that count. Defaults to ``""``: all.
    """

    def __init__(self, operation: str = "") -> None:
        super().__init__()
        self.operation = operation
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute, and record the result."""
        del types
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and self.operation in str(func):
            self.sizes.append(result.numel())
        return result
