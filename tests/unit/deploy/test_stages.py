"""The effect of each stage of an exported graph, with a runtime that is wrong in one of them."""

import numpy as np
import pytest
import torch
from anomalib.pre_processing import PreProcessor
from PIL import Image
from tests.integration.cada_detector import Detector
from torchvision.transforms.v2 import Compose, Resize

from anomalib_unias import OrderPreservingPostProcessor
from anomalib_unias.compat.scores import set_thresholds
from anomalib_unias.deploy.stages import STAGES, StagedModel, stagewise_predictions


@pytest.fixture
def source():
    post_processor = OrderPreservingPostProcessor()
    for name, value in {"image_min": 0, "image_max": 1, "pixel_min": 0, "pixel_max": 1}.items():
        getattr(post_processor, name).fill_(value)
    set_thresholds(post_processor, torch.tensor(0.5), torch.tensor(0.5))
    # Without anti-aliasing, which exports of anomalib leave out.
    return Detector(PreProcessor(Compose([Resize((8, 8), antialias=False)])), post_processor).eval()


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def runtime(source, wrong=None):
    """The staged model in torch, with an error of one stage that later stages pass on."""

    def run(pixels):
        images = source.pre_processor(torch.from_numpy(pixels)) * (1.1 if wrong == STAGES[0] else 1)
        raw = source.model(images)
        raw = raw._replace(pred_score=raw.pred_score + (0.02 if wrong == STAGES[1] else 0))
        final = source.post_processor(raw)
        final = final._replace(pred_score=final.pred_score + (0.03 if wrong == STAGES[2] else 0))
        names = {"processed": images, "raw_score": raw.pred_score, "raw_map": raw.anomaly_map}
        names |= {name: getattr(final, name) for name in ("pred_score", "pred_label", "anomaly_map")}
        return {name: value.numpy() for name, value in names.items()}

    return run


@pytest.mark.parametrize("wrong", [None, *STAGES])
def test_only_the_stage_that_is_wrong_has_an_effect(source, image, wrong):
    predictions = stagewise_predictions(source, runtime(source, wrong), image)
    scores = [one.score for one in predictions]
    effects = {
        stage: abs(after - before) > 1e-6 for stage, before, after in zip(STAGES, scores, scores[1:], strict=False)
    }
    assert effects == {stage: stage == wrong for stage in STAGES}


def test_staged_model_returns_what_the_model_returns(source):
    images = torch.rand(2, 3, 20, 30)
    staged = StagedModel(source)(images)
    torch.testing.assert_close(staged.processed, source.pre_processor(images))
    torch.testing.assert_close(staged.raw_map, source.model(staged.processed).anomaly_map)
    final = source.forward(images)
    torch.testing.assert_close((staged.pred_score, staged.anomaly_map), (final.pred_score, final.anomaly_map))
    assert staged.pred_label.equal(final.pred_label)
