"""Files that are no checkpoints are named."""

from pathlib import Path

import pytest
import torch

from anomalib_unias import UniAS
from anomalib_unias.models.unias.checkpoint import CheckpointFileError

CONTENTS = {
    "list": [None],
    "table": {"state_dict": 3},
    "tensor": torch.ones(2),
    "other": {"state_dict": {}, "hyper_parameters": {}},
}


@pytest.mark.parametrize("kind", ["bytes", "empty", *CONTENTS])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.ckpt"
    if kind in CONTENTS:
        torch.save(CONTENTS[kind], path)
    else:
        path.write_bytes(b"nonsense" if kind == "bytes" else b"")
    with pytest.raises(CheckpointFileError, match=r"model\.ckpt cannot be read as a checkpoint of UniAS .*\*\.ckpt"):
        UniAS.load_from_checkpoint(path)


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        UniAS.load_from_checkpoint(tmp_path / "missing.ckpt")
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.0", "hyper_parameters": {}}, tmp_path / "a.ckpt")
    with pytest.raises(TypeError, match="not iterable"):
        UniAS.load_from_checkpoint(tmp_path / "a.ckpt", backbone="resnet18", levels=3)
