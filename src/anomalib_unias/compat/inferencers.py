"""Inferencers of anomalib."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from anomalib.deploy import OpenVINOInferencer, TorchInferencer

_CACHE = Path("openvino_cache")


class TrustingTorchInferencer(TorchInferencer):
    """Loads a file that this process has written.

    That of anomalib 2.7.0 loads files only if the environment variable ``TRUST_REMOTE_CODE`` is set, for all files.

    Args:
        path (str | Path): Export ``*.pt``. It is unpickled: use only files that you trust.
        device (str): Defaults to ``"auto"``.
    """

    def _load_checkpoint(self, path: str | Path) -> dict[str, Any]:
        checkpoint: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=False)
        return checkpoint


class UncachedOpenVINOInferencer(OpenVINOInferencer):
    """Leaves no files behind.

    That of anomalib 2.7.0 writes the cache of the model into the working directory.

    Args:
        path (Path): Export ``*.xml`` or ``*.onnx``.
        device (str | None): Device of OpenVINO. Defaults to ``"AUTO"``.
        config (dict[str, Any] | None): Configuration of OpenVINO. Defaults to ``None``.
    """

    def __init__(self, path: Path, device: str | None = "AUTO", config: dict[str, Any] | None = None) -> None:
        existed = _CACHE.exists()
        super().__init__(path, device, {**(config or {}), "CACHE_DIR": ""})
        if not existed:
            with suppress(OSError):  # another process uses it now
                _CACHE.rmdir()
