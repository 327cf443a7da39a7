import math

import pandas as pd
import pytest
import torch
from anomalib.post_processing import PostProcessor

from anomalib_unias.report.threshold import deployed_threshold


def frame(scores: list[float], predicted: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"score": scores, "predicted": predicted})


@pytest.fixture
def post_processor() -> PostProcessor:
    given = PostProcessor()
    given._image_threshold.fill_(5)
    return given


def test_is_the_one_of_the_post_processor(post_processor: PostProcessor) -> None:
    assert deployed_threshold(frame([1, 9], [0, 1]), post_processor) == 5
    assert deployed_threshold(frame([6, 9], [1, 1]), post_processor) == 5
    assert deployed_threshold(frame([1, 2], [0, 0]), post_processor) == 5


def test_follows_the_labels_when_the_sensitivity_moves_it(post_processor: PostProcessor) -> None:
    post_processor.image_min.fill_(0)
    post_processor.image_max.fill_(10)
    post_processor.image_sensitivity = 0.3
    scores = [1.0, 5.5, 6.5, 7.5, 9.0]
    normalized = post_processor._normalize(
        torch.tensor(scores), torch.tensor(0.0), torch.tensor(10.0), torch.tensor(5.0)
    )
    predicted = (normalized > post_processor.normalized_image_threshold).double().tolist()
    threshold = deployed_threshold(frame(scores, predicted), post_processor)
    assert [float(score > threshold) for score in scores] == predicted
    assert predicted == [0, 0, 0, 1, 1]


def test_is_inferred_from_labels_without_a_post_processor() -> None:
    assert deployed_threshold(frame([1, 2, 7], [0, 0, 1]), None) == 4.5
    assert math.isnan(deployed_threshold(frame([1, 2], [0, 0]), None))


def test_is_unknown(post_processor: PostProcessor) -> None:
    assert math.isnan(deployed_threshold(frame([1, 9], [math.nan, math.nan]), post_processor))
    assert math.isnan(deployed_threshold(frame([1, 9], [1, 0]), post_processor))
