"""Files that are no checkpoints are named."""

from pathlib import Path

import pytest
import torch
from anomalib.engine import Engine
from anomalib.engine.plugins import AnomalibCheckpointIO
from PIL import Image

from anomalib_unias import UniAS
from anomalib_unias.compat.checkpoints import CheckpointFileError

CONTENTS = {
    "list": [None],
    "table": {"state_dict": 3},
    "tensor": torch.ones(2),
    "other": {"state_dict": {}, "hyper_parameters": {}},
}


@pytest.mark.parametrize("kind", ["bytes", "empty", "cut", *CONTENTS])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, tiny_arguments: dict, kind: str) -> None:
    """When it is opened, and when the trainer reads it."""
    path, image = tmp_path / "model.ckpt", tmp_path / "image.png"
    if kind in CONTENTS:
        torch.save(CONTENTS[kind], path)
    elif kind == "cut":
        torch.save({}, path)
        path.write_bytes(path.read_bytes()[:-100])
    else:
        path.write_bytes(b"nonsense" if kind == "bytes" else b"")
    Image.new("RGB", (8, 8)).save(image)
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False)
    model = UniAS(**tiny_arguments, visualizer=False)
    for read in (UniAS.load_from_checkpoint, lambda path: engine.predict(model, data_path=image, ckpt_path=path)):
        with pytest.raises(CheckpointFileError, match=r"model\.ckpt cannot be read as a checkpoint: .*\*\.ckpt"):
            read(path)


def test_what_a_user_reads_checkpoints_with_stays(tmp_path: Path, tiny_arguments: dict) -> None:
    class Own(AnomalibCheckpointIO):
        """What somebody has written."""

    image = tmp_path / "image.png"
    Image.new("RGB", (8, 8)).save(image)
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", logger=False, plugins=[Own()])
    engine.predict(UniAS(**tiny_arguments, visualizer=False), data_path=image)
    assert type(engine.trainer.strategy.checkpoint_io) is Own


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        UniAS.load_from_checkpoint(tmp_path / "missing.ckpt")
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.0", "hyper_parameters": {}}, tmp_path / "a.ckpt")
    with pytest.raises(TypeError, match="not iterable"):
        UniAS.load_from_checkpoint(tmp_path / "a.ckpt", backbone="resnet18", levels=3)
