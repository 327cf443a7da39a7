"""OpenVINO's Model API on our exports, as its users use it: a file that OpenCV reads, and no setting at all."""

import runpy
from functools import cache
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import openvino as ov
import pytest
import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.deploy import CompressionType
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from torch import nn

from anomalib_unias import ExportableResize, OrderPreservingPostProcessor
from anomalib_unias.deploy import adapt_export, describe_export
from anomalib_unias.deploy.openvino_core import openvino_core
from anomalib_unias.models.components.export import QuantizableExport

models = pytest.importorskip("model_api.models", reason="openvino-model-api is not installed")

TOY = Path(__file__).parents[1] / "unit" / "deploy" / "exported_toy.py"
write_toy_model = runpy.run_path(str(TOY))["write_toy_model"]
# Height and width of all images; the network takes another size.
SIZE = (90, 120)
BLUE = torch.tensor([-0.6, 0.1, 1.0])
SIZES = {"any_size": None, "one_size": SIZE}
PRECISIONS = {"fp32": None, "fp16": CompressionType.FP16, "int8": CompressionType.INT8}
EXPORTS = [f"{size}_{precision}" for size in SIZES for precision in PRECISIONS]


def recolour(path) -> None:
    """Make the colours of an image matter: red good images, and a bluish defect."""
    image = cv2.resize(cv2.imread(str(path)), SIZE[::-1]).astype(np.float32)
    image *= (0.5, 0.8, 1.2)
    if "square" in path.parts:
        image[20:40, 30:60] = (250, 60, 20)
    cv2.imwrite(str(path), image.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def root(tmp_path_factory, write_category):
    folder = write_category(tmp_path_factory.mktemp("data"))
    for path in folder.glob("plate/t*/**/*.png"):
        recolour(path)
    return folder


@pytest.fixture(scope="module")
def files(root):
    return sorted(root.glob("plate/test/*/*.png"))


class BlueNetwork(nn.Module):
    """Looks for blue. Few operations: exports take their time per operation."""

    def __init__(self) -> None:
        super().__init__()
        self.colour, self.fine = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 1, 1)
        with torch.no_grad():
            self.colour.weight.copy_(0.05 * torch.rand_like(self.colour.weight) + BLUE.view(1, 3, 1, 1) / 9)
            self.fine.weight.fill_(1 / 8)

    def forward(self, images) -> InferenceBatch:
        anomaly_map = self.fine(self.colour(images).relu()).relu()
        return InferenceBatch(pred_score=anomaly_map.amax(dim=(1, 2, 3)), anomaly_map=anomaly_map)


class BlueDetector(QuantizableExport, AnomalibModule):
    """Resizes and exports as UniAS does."""

    trainer_arguments: ClassVar = {}
    learning_type = LearningType.ONE_CLASS

    def __init__(self) -> None:
        pre_processor = PreProcessor(transform=ExportableResize((64, 96)))
        super().__init__(pre_processor, OrderPreservingPostProcessor(), evaluator=False, visualizer=False)
        self.model = BlueNetwork()


def read(file) -> torch.Tensor:
    """Image ``(1, 3, H, W)``, RGB in [0, 1]."""
    return torch.from_numpy(cv2.imread(str(file))[..., ::-1].copy()).permute(2, 0, 1)[None] / 255


@pytest.fixture(scope="module")
@torch.no_grad()
def model(files):
    """With the threshold between good and defective images."""
    torch.manual_seed(0)
    detector = BlueDetector()
    scores = {file: detector.model(detector.pre_processor(read(file))).pred_score for file in files}
    good = max(score for file, score in scores.items() if "good" in file.parts)
    defective = min(score for file, score in scores.items() if "square" in file.parts)
    assert good < defective
    for kind in ("image", "pixel"):
        getattr(detector.post_processor, f"_{kind}_threshold").fill_(((good + defective) / 2).item())
        getattr(detector.post_processor, f"{kind}_min").fill_(0)
        getattr(detector.post_processor, f"{kind}_max").fill_(max(scores.values()).item())
    return detector.eval()


@pytest.fixture(scope="module")
def exports(model, tmp_path_factory):
    """The precisions of a size share the slow step."""
    folder = tmp_path_factory.mktemp("exports")
    paths = {}
    for name, size in SIZES.items():
        onnx_file = model.to_onnx(folder, name, size)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(BlueDetector, "to_onnx", lambda *_args, file=onnx_file, **_options: file)
            for precision, compression in PRECISIONS.items():
                paths[f"{name}_{precision}"] = model.to_openvino(
                    folder, f"{name}_{precision}", input_size=size, compression_type=compression
                )
    return paths


@cache
def compiled_model(path) -> ov.CompiledModel:
    return openvino_core().compile_model(path, "CPU")


def by_openvino(path, image) -> dict[str, np.ndarray]:
    """An image ``(H, W, 3)``, RGB in [0, 1]."""
    found = compiled_model(path)(image.astype(np.float32).transpose(2, 0, 1)[None])
    return {name: found[name] for name in ("pred_score", "pred_label", "anomaly_map", "pred_mask")}


def for_model_api(name, path, folder):
    """A model for images of any size has to be adapted."""
    return adapt_export(path, folder / f"{name}.xml", "model_api") if name.startswith("any") else path


def resized(picture) -> np.ndarray:
    return cv2.resize(picture.squeeze().astype(np.uint8), SIZE[::-1])


@pytest.mark.parametrize("name", EXPORTS)
def test_the_same_answer_from_a_file(name, model, exports, files, tmp_path):
    wrapper = models.Model.create_model(str(for_model_api(name, exports[name], tmp_path)), device="CPU")
    labels, off_colour = set(), []
    for file in files:
        bgr = cv2.imread(str(file))
        rgb = bgr[..., ::-1] / 255
        found, expected = wrapper(bgr), by_openvino(exports[name], rgb)
        assert found.pred_score == pytest.approx(expected["pred_score"].item(), abs=1e-5)
        assert found.pred_label == str(expected["pred_label"].item())
        np.testing.assert_array_equal(found.pred_mask, resized(expected["pred_mask"]))
        assert abs(found.anomaly_map.astype(int) - resized(np.round(255 * expected["anomaly_map"]))).max() <= 1

        with torch.no_grad():
            trained = model(read(file))
        assert found.pred_label == str(trained.pred_label.item())
        assert found.pred_score == pytest.approx(trained.pred_score.item(), abs=1e-4 if "fp32" in name else 0.02)
        labels.add(found.pred_label)
        off_colour.append(abs(by_openvino(exports[name], bgr / 255)["pred_score"].item() - found.pred_score))
    assert labels == {"True", "False"}
    assert min(off_colour) > 1e-3, "colours in the wrong order must be seen"


def test_model_api_does_not_swap_the_colours_of_models_for_any_size(exports, files):
    """Fails once it does: then nothing has to be adapted for it."""
    wrapper = models.Model.create_model(str(exports["any_size_fp32"]), device="CPU")
    bgr = cv2.imread(str(files[0]))
    assert wrapper(bgr).pred_score == pytest.approx(
        by_openvino(exports["any_size_fp32"], bgr / 255)["pred_score"].item(), abs=1e-5
    )


@pytest.mark.parametrize("name", EXPORTS)
def test_every_export_is_described(name, exports):
    info = ov.Core().read_model(exports[name]).get_rt_info(["model_info"]).astype(dict)
    assert info["model_type"].astype(str) == "AnomalyDetection"
    assert info["model_name"].astype(str) == "BlueDetector"
    assert info["image_threshold"].astype(float) == 0.5


def test_any_export_by_one_function(files, tmp_path):
    path = write_toy_model(tmp_path / "model.xml", (1, 3, *SIZE))
    bgr = cv2.imread(str(files[-1]))
    assert models.Model.create_model(str(path), device="CPU")(bgr).pred_score > 1
    describe_export(path)
    assert models.Model.create_model(str(path), device="CPU")(bgr).pred_score == pytest.approx(bgr[..., 2].max() / 255)
