"""Two gloo processes, as of two machines, learn what one learns from the same global batches."""

import os
import sys
from pathlib import Path

import torch
from anomalib.data import ImageBatch, ImageItem
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader, DistributedSampler

from anomalib_unias.models.unias import UniAS
from conftest import TINY
from two_processes import run_in_two_processes

BATCH = 4
STEPS = 6


class Losses(Callback):
    """The loss of every step."""

    def __init__(self) -> None:
        self.values: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: UniAS, outputs: dict, *_: object) -> None:
        del pl_module
        self.values.append(trainer.strategy.reduce(outputs["loss"].detach(), reduce_op="mean"))


def images() -> list[ImageItem]:
    size, generator = TINY["UniAS"]["image_size"], torch.Generator().manual_seed(0)
    return [ImageItem(image=torch.rand(3, *size, generator=generator)) for _ in range(BATCH * STEPS)]


def run(machines: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    # No jitter and no dropout: random numbers differ between processes.
    model = UniAS(**TINY["UniAS"], jitter_probability=0.0, dropout=0.0, learning_rate=1e-3, visualizer=False)
    losses = Losses()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        num_nodes=machines,
        strategy="ddp" if machines > 1 else "auto",
        max_epochs=1,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[losses],
    )
    data = images()
    # Each process takes every second image, so that a step sees those that one process sees.
    sampler = DistributedSampler(data, machines, rank=int(os.environ.get("NODE_RANK", "0")), shuffle=False)
    trainer.fit(model, DataLoader(data, BATCH // machines, sampler=sampler, collate_fn=ImageBatch.collate))
    return {"losses": torch.stack(losses.values), **model.model.decoder.state_dict()}


def one_of_two_processes(folder: str) -> None:
    found = run(machines=2)
    torch.save(found, f"{folder}/{torch.distributed.get_rank()}.pt")
    torch.distributed.destroy_process_group()


def test_same_losses_and_weights(tmp_path: Path) -> None:
    run_in_two_processes(__file__, tmp_path, machines=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    expected = run(machines=1)
    assert len(expected["losses"]) == STEPS
    assert abs(expected["losses"][-1] / expected["losses"][0] - 1) > 1e-3, "nothing was learnt"
    torch.testing.assert_close(first["losses"], expected["losses"], rtol=1e-4, atol=0)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=0)
    different = [n for n, v in first.items() if not torch.allclose(v, expected[n], rtol=1e-2, atol=2e-4)]
    assert not different


if __name__ == "__main__":
    one_of_two_processes(sys.argv[1])
