"""Two gloo processes, as Lightning starts them, give the results of one."""

import sys

import numpy as np
import pytest
import torch
from given_model import GivenModel, make_images, make_trainer

from anomalib_unias.metrics import PixelMetrics, UnifiedEvaluator
from anomalib_unias.post_processing import OrderPreservingPostProcessor
from two_processes import run_in_two_processes

IMAGES = make_images(count=7, size=48, categories=("a", "b"))  # the second process sees one image less than the first


def run(devices: int) -> tuple[dict[str, float], UnifiedEvaluator, GivenModel]:
    evaluator = UnifiedEvaluator(max_rows=600, print_table=False)
    model = GivenModel(evaluator=evaluator, post_processor=OrderPreservingPostProcessor())
    trainer = make_trainer(devices=devices, strategy="ddp" if devices > 1 else "auto")
    validated = trainer.validate(model, IMAGES.loader(2), verbose=False)[0]
    return validated | trainer.test(model, IMAGES.loader(2), verbose=False)[0], evaluator, model


def pixels(images: slice) -> PixelMetrics:
    metric = PixelMetrics(max_rows=600)
    for anomaly_map, mask in zip(IMAGES.maps[images], IMAGES.masks[images], strict=True):
        metric.update(torch.from_numpy(anomaly_map)[None], torch.from_numpy(mask)[None])
    return metric


def one_of_two_processes(folder: str) -> None:
    values, evaluator, model = run(devices=2)
    rank = torch.distributed.get_rank()
    uneven, none_at_all = pixels([slice(0, 6), slice(6, 7)][rank]), pixels([slice(0, 0), slice(0, 7)][rank])
    found = {
        "values": values,
        "images": evaluator.images["image_path"].tolist(),
        "categories": evaluator._results.categories,
        "dice": evaluator.images["dice"].tolist(),
        "regions": evaluator.regions["peak"].tolist(),
        "thresholds": [model.post_processor.image_threshold, model.post_processor.pixel_threshold],
        "uneven": uneven.compute(),
        "none_at_all": none_at_all.compute(),
    }
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("processes")
    run_in_two_processes(__file__, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def test_evaluator_counts_every_image_once(found: list[dict]) -> None:
    expected, evaluator, _ = run(devices=1)
    for rank in (0, 1):
        assert found[rank]["values"] == pytest.approx(expected, abs=1e-6, nan_ok=True)
        assert found[rank]["images"] == evaluator.images["image_path"].tolist()
        assert found[rank]["categories"] == ["a", "b"]
        assert found[rank]["dice"] == pytest.approx(evaluator.images["dice"].tolist())
        assert found[rank]["regions"] == evaluator.regions["peak"].tolist()


def test_thresholds_are_those_of_all_images(found: list[dict]) -> None:
    _, _, model = run(devices=1)
    # The sampler of the validation set repeats an image: anomalib's post-processor counts it twice, ours inherits it.
    assert found[0]["thresholds"] == found[1]["thresholds"]
    assert np.isfinite(found[0]["thresholds"]).all()
    assert float(found[0]["thresholds"][0]) == pytest.approx(float(model.post_processor.image_threshold))


@pytest.mark.parametrize("shards", ["uneven", "none_at_all"])
def test_pixel_metrics_of_uneven_shards(found: list[dict], shards: str) -> None:
    expected = {name: float(value) for name, value in pixels(slice(0, 7)).compute().items()}
    for rank in (0, 1):
        values = {name: float(value) for name, value in found[rank][shards].items()}
        assert values == pytest.approx(expected, abs=1e-12, nan_ok=True)


if __name__ == "__main__":
    one_of_two_processes(sys.argv[1])
