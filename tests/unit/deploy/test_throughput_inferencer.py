"""Order, back-pressure, memory and errors of the throughput inferencer."""

import numpy as np
import openvino as ov
import pytest
import torch
from anomalib.data import NumpyImageBatch
from anomalib.deploy import OpenVINOInferencer
from anomalib.models import Padim
from anomalib.pre_processing import PreProcessor
from exported_toy import write_toy_model
from openvino import opset13 as ops
from PIL import Image
from torchvision.transforms.v2 import Compose, Normalize

from anomalib_unias.deploy import ExportedModelError, ImageSource, ThroughputInferencer, UnreadableImageError
from anomalib_unias.deploy.input_resizing import cut_resizing
from anomalib_unias.pre_processing import ExportableResize


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_toy_model(tmp_path_factory.mktemp("toy") / "model.xml")


@pytest.fixture
def line(path, tmp_path):
    return ThroughputInferencer(path, requests=3, cache_dir=tmp_path)


def picture(red, size=(20, 30)):
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[3, 4, 0] = red
    return pixels


def test_results_come_in_order_whatever_the_sizes(line):
    rng = np.random.default_rng(0)
    pictures = [picture(red, tuple(rng.integers(8, 300, 2))) for red in range(100)]
    results = list(line.stream(pictures))
    np.testing.assert_allclose([result.pred_score.item() for result in results], np.arange(100) / 255, atol=1e-7)
    for result, pixels in zip(results, pictures, strict=True):
        assert isinstance(result, NumpyImageBatch)
        np.testing.assert_allclose(np.squeeze(result.anomaly_map), pixels[..., 0] / 255, atol=1e-7)


def test_requests_are_used_again_by_whoever_comes_after_one_that_stopped_early(line):
    assert line.predict(picture(1)).pred_score.item() == pytest.approx(1 / 255)
    requests = list(line._idle)
    assert len(requests) == 3
    stopped = line.stream(picture(red, (300, 300)) for red in range(10))
    next(stopped)
    stopped.close()
    found = [result.pred_score.item() for result in line.stream(picture(red) for red in range(5))]
    np.testing.assert_allclose(found, np.arange(5) / 255, atol=1e-7)
    assert {id(request) for request in line._idle} == {id(request) for request in requests}


@pytest.mark.parametrize("kind", ["RGB", "L"])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_same_answer_as_the_inferencer_of_anomalib(line, path, tmp_path, monkeypatch, kind, suffix):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / f"image.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (40, 50, 3)[: 3 if kind == "RGB" else 2], np.uint8)
    Image.fromarray(noise).save(file)
    expected = OpenVINOInferencer(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).predict(file)
    found = line.predict(file)
    np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, atol=1e-6)
    np.testing.assert_array_equal(found.pred_mask, expected.pred_mask)
    np.testing.assert_allclose(found.image, expected.image, atol=1e-6)
    assert found.image_path == [str(file)]


def test_other_products_than_resizing_stay_in_the_model(tmp_path):
    rows = np.kron(np.eye(5), [0.25, 0.75]).astype(np.float32)
    path = write_toy_model(tmp_path / "model.xml", (-1, 3, 10, -1), rows=rows)
    assert cut_resizing(one_image(path)) is None
    pixels = np.random.default_rng(0).integers(0, 255, (10, 7, 3), np.uint8)
    found = ThroughputInferencer(path, cache_dir=tmp_path).predict(pixels)
    np.testing.assert_allclose(np.squeeze(found.anomaly_map), rows @ (pixels[..., 0] / 255), atol=1e-6)


def one_image(path):
    model = ov.Core().read_model(path)
    model.reshape([1, *list(model.input(0).partial_shape)[1:]])
    return model


@pytest.fixture(scope="module")
def resizing_model(tmp_path_factory):
    """Padim, whose resizing was made exportable, and its file."""
    model = Padim(
        backbone="resnet18",
        layers=["layer1"],
        n_features=5,
        pre_trained=False,
        pre_processor=PreProcessor(Compose([ExportableResize((32, 48)), Normalize([0.4] * 3, [0.2, 0.3, 0.4])])),
    ).eval()
    model.model.gaussian.fit(torch.rand(4, 5, 8, 12, generator=torch.Generator().manual_seed(0)))
    for buffer in model.post_processor.buffers():
        buffer.fill_(0.5)
    return model, model.to_openvino(tmp_path_factory.mktemp("resizing"))


@pytest.mark.parametrize("size", [(20, 30), (90, 70), (300, 211)])
def test_resizing_is_done_outside_with_the_same_answer(resizing_model, tmp_path, size):
    model, path = resizing_model
    assert cut_resizing(one_image(path))[1] == (32, 48)
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    found = ThroughputInferencer(path, cache_dir=tmp_path).predict(pixels)
    with torch.no_grad():
        expected = model(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
    np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map.numpy(), atol=1e-4)
    np.testing.assert_allclose(found.image[0] * 255, pixels, atol=1e-4)


@pytest.mark.parametrize(("axis", "can_be_cut"), [(0, True), (2, False)], ids=["images", "rows"])
def test_what_depends_on_the_shape_of_the_original_image(resizing_model, axis, can_be_cut):
    """The number of images is 1 after the resizing too; their rows are others."""
    model = one_image(resizing_model[1])
    count = ops.gather(ops.shape_of(model.input(0).get_node()), np.array([axis]), np.array(0))
    score = model.output("pred_score").get_node().input(0)
    expected = ops.multiply(score.get_source_output(), ops.convert(count, "f32"))
    score.replace_source_output(expected.output(0))
    assert (cut_resizing(model) is not None) == can_be_cut


def test_all_kinds_of_images(line, tmp_path):
    Image.fromarray(picture(255)).save(tmp_path / "image.png")
    grey = picture(255)[..., 0]
    images = [str(tmp_path / "image.png"), tmp_path / "image.png", picture(255), grey, grey[..., None]]
    images += [Image.fromarray(grey), ImageSource("name", picture(255))]
    results = list(line.stream(images))
    assert [result.pred_score.item() for result in results] == [1.0] * len(images)
    assert results[-1].image_path == ["name"]


def test_an_endless_stream_is_read_no_further_than_needed(path, tmp_path):
    line = ThroughputInferencer(path, requests=2, readers=3, cache_dir=tmp_path)
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield picture(1)

    results = line.stream(endless())
    for number in range(1, 30):
        next(results)
        assert taken <= number + 2 + 3 + 1
    results.close()


def test_none_gives_out_everything_first(line):
    waiting_for = []

    def images():
        for number in range(7):
            yield picture(number)
        yield None
        waiting_for.append(len(found))
        yield picture(9)

    found = []
    for result in line.inspect(images()):
        found.append(result)
    assert waiting_for == [7]
    assert len(found) == 8


def test_broken_images_are_errors_in_their_place(line, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    (tmp_path / "empty.jpg").touch()
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:2000])
    images = [picture(1), *(tmp_path / name for name in ("broken.png", "empty.jpg", "cut.png", "missing.png"))]
    images += [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), picture(2)]
    results = list(line.inspect(images))
    assert [result.error is None for result in results] == [True, *[False] * 6, True]
    assert "missing.png" in str(results[4].error)
    assert "uint8" in str(results[5].error)
    with pytest.raises(UnreadableImageError, match="broken.png"):
        list(line.stream(images))


def test_a_model_of_fixed_size_says_so(tmp_path):
    fixed = write_toy_model(tmp_path / "model.xml", (1, 3, 20, 30))
    results = list(ThroughputInferencer(fixed, cache_dir=tmp_path).inspect([picture(1), picture(1, (21, 30))]))
    assert results[0].error is None
    assert "exported for 20x30" in str(results[1].error)


def test_wrong_models(tmp_path):
    with pytest.raises(FileNotFoundError, match="exported by anomalib"):
        ThroughputInferencer(tmp_path / "missing.xml")
    batch = write_toy_model(tmp_path / "batch.xml", (4, 3, -1, -1))
    with pytest.raises(ExportedModelError, match="batch size"):
        ThroughputInferencer(batch, cache_dir=tmp_path)
    other = write_toy_model(tmp_path / "other.xml", score="logits")
    with pytest.raises(ExportedModelError, match="pred_score"):
        ThroughputInferencer(other, cache_dir=tmp_path)
    with pytest.raises(ValueError, match="hint"):
        ThroughputInferencer(other, hint="fast")


def test_nothing_is_written_into_the_working_directory(path, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ThroughputInferencer(path).predict(picture(1))
    assert not list((tmp_path / "work").iterdir())
    assert list((tmp_path / "cache").rglob("*.blob")) or list((tmp_path / "cache").rglob("*.cl_cache"))
