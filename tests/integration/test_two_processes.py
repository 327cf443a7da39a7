"""Two gloo processes, as of two machines, give the results of one: training, calibration and evaluation."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch, ImageItem
from lightning.pytorch import Callback, Trainer
from tests.conftest import TINY
from tests.integration.cada_detector import make_data, make_detector, make_engine, write_images
from tests.two_processes import run_in_two_processes
from tests.unit.metrics.given_model import GivenModel, make_images, make_trainer
from torch.utils.data import DataLoader, DistributedSampler

from anomalib_unias import UniAS
from anomalib_unias.metrics import PixelMetrics, UnifiedEvaluator
from anomalib_unias.models.unias.components import NormalPrototypes, PrototypeSelection
from anomalib_unias.post_processing import OrderPreservingPostProcessor

IMAGES = make_images(count=7, size=48, categories=("a", "b"))  # the second process sees one image less than the first
BATCH = 4
STEPS = 6


def several(machines: int) -> dict[str, object]:
    return {"devices": 1, "num_nodes": machines, "strategy": "ddp" if machines > 1 else "auto"}


class Losses(Callback):
    """The loss of every step."""

    def __init__(self) -> None:
        self.values: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: UniAS, outputs: dict, *_: object) -> None:
        del pl_module
        self.values.append(trainer.strategy.reduce(outputs["loss"].detach(), reduce_op="mean"))


def train(machines: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    # No jitter and no dropout: random numbers differ between processes.
    model = UniAS(**TINY["UniAS"], jitter_probability=0.0, dropout=0.0, learning_rate=1e-3, visualizer=False)
    losses, generator = Losses(), torch.Generator().manual_seed(0)
    trainer = make_trainer(
        max_epochs=1, use_distributed_sampler=False, enable_model_summary=False, callbacks=[losses], **several(machines)
    )
    size = TINY["UniAS"]["image_size"]
    data = [ImageItem(image=torch.rand(3, *size, generator=generator)) for _ in range(BATCH * STEPS)]
    # Each process takes every second image, so that a step sees those that one process sees.
    sampler = DistributedSampler(data, machines, rank=int(os.environ.get("NODE_RANK", "0")), shuffle=False)
    trainer.fit(model, DataLoader(data, BATCH // machines, sampler=sampler, collate_fn=ImageBatch.collate))
    return {"losses": torch.stack(losses.values), **model.model.decoder.state_dict()}


def calibrate(machines: int, root: Path, folder: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = make_detector(map_power=None)  # chosen by both
    make_engine(folder, **several(machines)).fit(model, datamodule=make_data(root))
    return model.post_processor.state_dict()


def evaluate(machines: int) -> tuple[dict[str, float], UnifiedEvaluator, GivenModel]:
    evaluator = UnifiedEvaluator(max_rows=600, print_table=False)
    model = GivenModel(evaluator=evaluator, post_processor=OrderPreservingPostProcessor())
    trainer = make_trainer(**several(machines))
    validated = trainer.validate(model, IMAGES.loader(2), verbose=False)[0]
    return validated | trainer.test(model, IMAGES.loader(2), verbose=False)[0], evaluator, model


def pixels(images: slice) -> PixelMetrics:
    metric = PixelMetrics(max_rows=600)
    for anomaly_map, mask in zip(IMAGES.maps[images], IMAGES.masks[images], strict=True):
        metric.update(torch.from_numpy(anomaly_map)[None], torch.from_numpy(mask)[None])
    return metric


def evaluation_of_two() -> dict[str, object]:
    values, evaluator, model = evaluate(machines=2)
    rank = torch.distributed.get_rank()
    uneven, none_at_all = pixels([slice(0, 6), slice(6, 7)][rank]), pixels([slice(0, 0), slice(0, 7)][rank])
    return {
        "values": values,
        "images": evaluator.images["image_path"].tolist(),
        "categories": evaluator._results.categories,
        "dice": evaluator.images["dice"].tolist(),
        "regions": evaluator.regions["peak"].tolist(),
        "thresholds": [model.post_processor.image_threshold, model.post_processor.pixel_threshold],
        "uneven": uneven.compute(),
        "none_at_all": none_at_all.compute(),
    }


def choose_prototypes(images: slice) -> dict[str, torch.Tensor]:
    """Choose from images of two products, which alternate."""
    torch.manual_seed(0)
    features = [torch.randn(48, 6, side, side) for side in (16, 8)]
    for feature in features:
        feature[1::2] += 5
    prototypes = NormalPrototypes((6, 6), (4, 8), count=60)
    selection = PrototypeSelection(prototypes, batches=2)
    part = [feature[images] for feature in features]
    selection.first_pass(part)
    selection.end_first_pass()
    selection.second_pass(part, torch.arange(48)[images])
    selection.end_second_pass()
    return prototypes.state_dict()


def one_of_two_processes(folder: Path) -> None:
    """Everything in one pair of processes: the imports of a process take longer than all that it does."""
    found = {"evaluation": evaluation_of_two()}
    found["prototypes"] = choose_prototypes([slice(0, 20), slice(20, 48)][torch.distributed.get_rank()])
    found |= {"training": train(machines=2), "calibration": calibrate(2, folder / "products", folder / "two")}
    torch.save(found, folder / f"{torch.distributed.get_rank()}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each of the processes found, and the images that they calibrated with."""
    folder = tmp_path_factory.mktemp("processes")
    write_images(folder / "products")
    run_in_two_processes(__file__, folder)
    return folder


def both(folder: Path, part: str) -> list[dict]:
    return [torch.load(folder / f"{rank}.pt", weights_only=False)[part] for rank in (0, 1)]


def test_training_has_the_same_losses_and_weights(folder: Path) -> None:
    first, second = both(folder, "training")
    expected = train(machines=1)
    assert len(expected["losses"]) == STEPS
    assert abs(expected["losses"][-1] / expected["losses"][0] - 1) > 1e-3, "nothing was learnt"
    torch.testing.assert_close(first["losses"], expected["losses"], rtol=1e-4, atol=0)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=0)
    different = [n for n, v in first.items() if not torch.allclose(v, expected[n], rtol=1e-2, atol=2e-4)]
    assert not different


def test_calibration_is_the_same(folder: Path) -> None:
    one = calibrate(1, folder / "products", folder / "one")
    for two in both(folder, "calibration"):
        assert one.keys() == two.keys()
        # The processes share 9 + 9 - 2 training images unevenly and average their gradients: the weight differs a
        # little.
        for key in one:
            if "calibration" in key:
                torch.testing.assert_close(one[key], two[key], rtol=0.05, atol=0.05)


def test_prototypes_are_chosen_from_the_images_of_both(folder: Path) -> None:
    expected = choose_prototypes(slice(None))
    assert len(expected["kinds.centers"]) == 2
    for found in both(folder, "prototypes"):
        torch.testing.assert_close(found["kinds.centers"], expected["kinds.centers"], atol=1e-3, rtol=1e-3)
        for name in ("all", "finest", "deepest"):
            axes, expected_axes = (state[f"views.{name}.components"] for state in (found, expected))
            torch.testing.assert_close(axes @ axes.mT, expected_axes @ expected_axes.mT, atol=1e-3, rtol=1e-3)
            # The choice starts from a random patch.
            usual, expected_usual = (state[f"views.{name}.usual"] for state in (found, expected))
            torch.testing.assert_close(usual, expected_usual, atol=0, rtol=0.1)


def test_evaluator_counts_every_image_once(folder: Path) -> None:
    expected, evaluator, _ = evaluate(machines=1)
    for found in both(folder, "evaluation"):
        assert found["values"] == pytest.approx(expected, abs=1e-6, nan_ok=True)
        assert found["images"] == evaluator.images["image_path"].tolist()
        assert found["categories"] == ["a", "b"]
        assert found["dice"] == pytest.approx(evaluator.images["dice"].tolist())
        assert found["regions"] == evaluator.regions["peak"].tolist()


def test_thresholds_are_those_of_all_images(folder: Path) -> None:
    _, _, model = evaluate(machines=1)
    first, second = (found["thresholds"] for found in both(folder, "evaluation"))
    # The sampler of the validation set repeats an image: anomalib's post-processor counts it twice, ours inherits it.
    assert first == second
    assert np.isfinite(first).all()
    assert float(first[0]) == pytest.approx(float(model.post_processor.image_threshold))


@pytest.mark.parametrize("shards", ["uneven", "none_at_all"])
def test_pixel_metrics_of_uneven_shards(folder: Path, shards: str) -> None:
    expected = {name: float(value) for name, value in pixels(slice(0, 7)).compute().items()}
    for found in both(folder, "evaluation"):
        values = {name: float(value) for name, value in found[shards].items()}
        assert values == pytest.approx(expected, abs=1e-12, nan_ok=True)


if __name__ == "__main__":
    one_of_two_processes(Path(sys.argv[1]))
