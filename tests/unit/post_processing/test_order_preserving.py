import copy
import pickle

import numpy as np
import openvino
import pytest
import torch
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.models import Padim
from anomalib.post_processing import PostProcessor
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from anomalib_unias.post_processing import OrderPreservingPostProcessor

normalize = OrderPreservingPostProcessor._normalize
numbers = st.floats(-1e6, 1e6, width=32)


def fitted(post_processor: PostProcessor, low: float = 0.0, threshold: float = 0.2, high: float = 2.0) -> PostProcessor:
    for level in ("image", "pixel"):
        getattr(post_processor, f"_{level}_threshold").fill_(threshold)
        getattr(post_processor, f"{level}_min").fill_(low)
        getattr(post_processor, f"{level}_max").fill_(high)
    return post_processor


def validation_batch(scores: np.ndarray, labels: np.ndarray) -> ImageBatch:
    """Constant maps at the height of the score, wholly defective or wholly normal."""
    maps = torch.from_numpy(np.float32(scores))[:, None, None].expand(-1, 4, 4)
    labels = torch.from_numpy(np.asarray(labels, dtype=bool))
    masks = labels[:, None, None].expand(-1, 4, 4)
    return ImageBatch(
        image=torch.zeros(len(scores), 3, 4, 4),
        pred_score=maps.amax((1, 2)),
        anomaly_map=maps,
        gt_label=labels,
        gt_mask=masks,
    )


def validated(post_processor: PostProcessor, batch: ImageBatch) -> PostProcessor:
    post_processor.on_validation_batch_end(None, None, batch)
    post_processor.on_validation_epoch_end(None, None)
    return post_processor


def test_validated_range_is_linear_on_both_sides_of_the_threshold() -> None:
    scores = torch.tensor([0.0, 0.1, 0.2, 1.1, 2.0])
    expected = torch.tensor([0.05, 0.275, 0.5, 0.725, 0.95])
    low, high, threshold = torch.tensor(0.0), torch.tensor(2.0), torch.tensor(0.2)
    torch.testing.assert_close(normalize(scores, low, high, threshold), expected)


@given(numbers, numbers, numbers, st.lists(numbers, min_size=2, max_size=20))
def test_order_is_never_reversed_and_the_range_never_left(
    low: float, high: float, threshold: float, scores: list[float]
) -> None:
    low, high = sorted([low, high])
    values = normalize(torch.tensor(sorted(scores)), torch.tensor(low), torch.tensor(high), torch.tensor(threshold))
    assert (values.diff() >= 0).all()
    assert ((values >= 0) & (values <= 1)).all()


def test_strong_and_very_strong_defects_differ_where_anomalib_clamps() -> None:
    scores = torch.tensor([-50.0, -5.0, -0.5, 0.0, 0.2, 2.0, 4.0, 8.0, 9.0, 100.0, 101.0, 1e4, 2e4])
    arguments = (scores, torch.tensor(0.0), torch.tensor(2.0), torch.tensor(0.2))
    assert (normalize(*arguments).diff() > 0).all()
    assert normalize(*arguments).diff()[4:7].min() > 1e-3  # visible in print


def test_no_kink_where_the_validated_range_ends() -> None:
    scores = torch.linspace(1.9, 2.1, 201, dtype=torch.float64)
    slopes = normalize(scores, *torch.tensor([0.0, 2.0, 0.2], dtype=torch.float64)).diff() / 0.001
    assert slopes[99].item() == pytest.approx(slopes[101].item(), rel=0.05)


def test_nothing_above_the_threshold_or_no_range_at_all() -> None:
    """As after a validation set of normal images only, or of one constant map."""
    scores = torch.tensor([0.5, 1.0, 1.5, 3.0])
    one = torch.tensor(1.0)
    for low in (torch.tensor(0.0), one):
        values = normalize(scores, low, one, one)
        assert (values.diff() > 0).all()
        assert values[1] == 0.5
    nan = torch.tensor(torch.nan)
    assert torch.equal(normalize(scores, nan, nan, nan), scores)
    assert normalize(None, nan, nan, nan) is None
    middle = normalize(torch.tensor(1.0), torch.tensor(0.0), torch.tensor(2.0), nan)
    assert middle == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_labels_are_those_of_anomalib_but_for_the_lowest_defect(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.random(60) < 0.4
    scores = rng.random(60) + labels * 0.3
    stock, ours = (
        validated(kind(), validation_batch(scores, labels)) for kind in (PostProcessor, OrderPreservingPostProcessor)
    )
    batches = [validation_batch(scores, labels) for _ in range(2)]
    for post_processor, batch in zip((stock, ours), batches, strict=True):
        post_processor.on_test_batch_end(None, None, batch)
    at_threshold = np.float32(scores) == float(stock.image_threshold)
    assert at_threshold.sum() == 1
    assert batches[1].pred_label[at_threshold].all()
    assert not batches[0].pred_label[at_threshold].any()
    assert torch.equal(batches[0].pred_label[~at_threshold], batches[1].pred_label[~at_threshold])
    assert torch.equal(batches[1].pred_mask.amax((1, 2)), batches[1].pred_label)


def test_sensitivity_moves_the_labels_as_in_anomalib() -> None:
    batch = InferenceBatch(pred_score=torch.linspace(0, 3, 31), anomaly_map=torch.rand(31, 1, 4, 4))
    counts = []
    for sensitivity in (0.0, 0.3, 0.5, 0.9, 1.0):
        post_processor = fitted(OrderPreservingPostProcessor(image_sensitivity=sensitivity))
        counts.append(int(post_processor(batch).pred_label.sum()))
    assert counts == sorted(counts)
    assert len(set(counts)) == 5
    assert (counts[0], counts[-1]) == (0, 31)


def test_threshold_from_normal_images_alone() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(200)
    post_processor = OrderPreservingPostProcessor(
        threshold="false_alarm_rate", false_alarm_rate=0.1, pixel_false_alarm_rate=0.25
    )
    validated(post_processor, validation_batch(scores, np.zeros(200)))
    assert (np.float32(scores) > float(post_processor.image_threshold)).sum() == 20 - 1
    assert (np.float32(scores) > float(post_processor.pixel_threshold)).sum() == 50 - 1
    batch = validation_batch(scores, np.zeros(200))
    post_processor.on_test_batch_end(None, None, batch)
    assert batch.pred_label.sum() == 19


def test_defective_images_do_not_move_the_threshold_of_normal_ones() -> None:
    normal, defective = np.linspace(0, 1, 100), np.full(50, 9.0)
    thresholds = [
        validated(
            OrderPreservingPostProcessor(threshold="false_alarm_rate"), validation_batch(scores, scores > 5)
        ).image_threshold
        for scores in (normal, np.concatenate([defective, normal]))
    ]
    assert thresholds[0] == thresholds[1]


def test_validation_memory_is_bounded() -> None:
    post_processor = OrderPreservingPostProcessor()
    for _ in range(10):
        maps = torch.rand(8, 128, 128)
        batch = ImageBatch(image=torch.zeros(8, 3, 4, 4), anomaly_map=maps, gt_mask=maps > 0.99)
        post_processor.on_validation_batch_end(None, None, batch)
    rows = sum(map(len, post_processor._pixel_threshold_metric.rows))
    assert rows <= 2 * 2**17 + 128 * 128


def test_configuration_round_trip() -> None:
    saved = fitted(
        OrderPreservingPostProcessor(
            threshold="false_alarm_rate", false_alarm_rate=0.2, pixel_false_alarm_rate=0.3, image_sensitivity=0.7
        )
    )
    loaded = OrderPreservingPostProcessor()
    loaded.load_checkpoint_config(saved.checkpoint_config())
    loaded.load_state_dict(saved.state_dict())
    assert loaded.checkpoint_config() == saved.checkpoint_config()
    arguments = {"threshold": "false_alarm_rate", "false_alarm_rate": 0.2, "pixel_false_alarm_rate": 0.3}
    assert saved.checkpoint_config() | arguments == saved.checkpoint_config()
    batch = InferenceBatch(pred_score=torch.rand(4), anomaly_map=torch.rand(4, 1, 8, 8))
    for other in (loaded, copy.deepcopy(saved), pickle.loads(pickle.dumps(saved))):
        torch.testing.assert_close(tuple(other(batch)), tuple(saved(batch)))
    scores = np.linspace(0, 1, 50)
    validated(loaded, validation_batch(scores, np.zeros(50)))
    assert (np.float32(scores) > float(loaded.image_threshold)).sum() == 9
    stock = PostProcessor()
    stock.load_state_dict(saved.state_dict())  # a checkpoint opened without the package keeps its statistics


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="'f1' or 'false_alarm_rate', got 'quantile'"):
        OrderPreservingPostProcessor(threshold="quantile")
    with pytest.raises(ValueError, match=r"in \[0, 1\), got 5"):
        OrderPreservingPostProcessor(threshold="false_alarm_rate", false_alarm_rate=5)
    with pytest.raises(ValueError, match=r"in \[0, 1\), got -1"):
        OrderPreservingPostProcessor(threshold="false_alarm_rate", pixel_false_alarm_rate=-1)


class Exported(nn.Module):
    """What an export of a model ends with."""

    def __init__(self) -> None:
        super().__init__()
        self.post_processor = fitted(OrderPreservingPostProcessor(image_sensitivity=0.4))

    def forward(self, maps: torch.Tensor) -> InferenceBatch:
        return self.post_processor(InferenceBatch(pred_score=maps.amax((1, 2, 3)), anomaly_map=maps))


def test_exported_it_gives_the_same(tmp_path) -> None:
    model = Exported().eval()
    maps = torch.randn(3, 1, 8, 8).exp() * torch.tensor([0.1, 1.0, 100.0]).view(3, 1, 1, 1) - 0.1
    expected = model(maps)
    exported = torch.export.export(model, (maps,), strict=False)
    torch.testing.assert_close(tuple(exported.module()(maps)), tuple(expected))
    torch.onnx.export(model, (maps,), tmp_path / "model.onnx", dynamo=True, verbose=False)
    results = openvino.compile_model(tmp_path / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(maps.numpy())
    for given_value, value in zip(results.values(), expected, strict=True):
        np.testing.assert_allclose(given_value, value.numpy(), atol=1e-6)


def test_without_thresholds_nothing_is_called_good_or_defective(tmp_path, caplog) -> None:
    model = Exported()
    model.post_processor = OrderPreservingPostProcessor()
    maps = torch.rand(3, 1, 8, 8)
    answer = model.eval()(maps)
    assert (answer.pred_label, answer.pred_mask) == (None, None)
    torch.testing.assert_close(answer.pred_score, maps.amax((1, 2, 3)))
    torch.onnx.export(model, (maps,), tmp_path / "model.onnx", dynamo=True, verbose=False)
    assert len(openvino.Core().read_model(tmp_path / "model.onnx").outputs) == 2
    batch = validation_batch(np.linspace(0, 1, 6), np.arange(6) > 2)
    model.post_processor.on_test_start(None, None)
    model.post_processor.on_test_batch_end(None, None, batch)
    assert (batch.pred_label, batch.pred_mask) == (None, None)
    assert "There is no threshold" in caplog.text


def test_anomalib_models_take_it() -> None:
    post_processor = OrderPreservingPostProcessor()
    assert Padim(pre_trained=False, post_processor=post_processor).post_processor is post_processor
