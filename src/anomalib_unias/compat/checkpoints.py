"""Content of checkpoints, and files that are not checkpoints."""

from pathlib import Path
from typing import Any

from anomalib.engine.plugins import AnomalibCheckpointIO
from anomalib.pre_processing.utils._transform_registry import TRANSFORM_REGISTRY
from lightning.pytorch import LightningModule
from torch import nn
from torchvision.transforms.v2 import Transform

# Lightning builds a model from a checkpoint with this function if the hyper-parameters name it.
_INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"


class CheckpointFileError(ValueError):
    """A file is not a checkpoint that Lightning can read: it is damaged or something else."""


class CheckedCheckpointIO(AnomalibCheckpointIO):
    """Reads checkpoints as anomalib does, and names a file that is not a checkpoint.

    For such a file Lightning 2.6 raises a ``KeyError`` or a similar error, which does not name the file.
    """

    def load_checkpoint(  # type: ignore[override]  # as anomalib's
        self, path: str | Path, map_location: Any = None, weights_only: bool = True
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Args:
            path (str | Path): File.
            map_location (Any): See ``torch.load``. Defaults to ``None``.
            weights_only (bool): Whether only plain data is unpickled. Defaults to ``True``.

        Returns:
            dict[str, Any]: The checkpoint that Lightning saved.

        Raises:
            CheckpointFileError: If the file is damaged, or not a checkpoint of Lightning.
            OSError: If the file cannot be opened.
        """
        try:
            checkpoint = super().load_checkpoint(path, map_location, weights_only)
        except OSError:
            raise
        except Exception as error:  # unpickling a damaged file can raise nearly anything
            # Besides the reason, torch explains how to read the file unsafely: leave that out.
            reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
            raise _no_checkpoint(path, f"{type(error).__name__}: {reason}") from error
        if not isinstance(checkpoint, dict):
            raise _no_checkpoint(path, f"it holds a {type(checkpoint).__name__}")
        if missing := {"state_dict", "pytorch-lightning_version"} - checkpoint.keys():
            raise _no_checkpoint(path, f"it has no {' and no '.join(sorted(missing))}")
        return checkpoint


def _no_checkpoint(path: str | Path, reason: str) -> CheckpointFileError:
    return CheckpointFileError(
        f"{path} cannot be read as a checkpoint: {reason}. Give a file *.ckpt that training has written; one that is "
        "damaged has to be copied again."
    )


def keep_transform(transform: type[Transform], path: str) -> None:
    """Let checkpoints store a transform of the pre-processor.

    anomalib 2.7.0 saves a transform only if its class is in a private list.

    Args:
        transform (type[Transform]): Class of the transform.
        path (str): Import path of the class, as it is written into checkpoints.
    """
    TRANSFORM_REGISTRY.register(transform, path)


def keep_post_processor(model: LightningModule, post_processor: nn.Module) -> None:
    """Let ``load_from_checkpoint`` build a model with a post-processor of the same class.

    The ``load_from_checkpoint`` of anomalib 2.7.0 builds a plain ``PostProcessor``, whatever was saved. With these
    hyper-parameters Lightning builds the right one; its arguments come from ``checkpoint_config``.

    Args:
        model (LightningModule): Model; its hyper-parameters are changed.
        post_processor (nn.Module): Post-processor; its class can be imported and needs no arguments.
    """
    kind = type(post_processor)
    model.hparams["_instantiator"] = _INSTANTIATOR
    model.hparams["post_processor"] = {"class_path": f"{kind.__module__}.{kind.__qualname__}"}
