"""OpenVINO's Model API on our exports, as its users use it: a file that OpenCV reads, and no setting at all."""

import runpy
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import openvino as ov
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.deploy import CompressionType
from anomalib.engine import Engine

from anomalib_unias import UniAS
from anomalib_unias.deploy import adapt_export, describe_export
from anomalib_unias.deploy.openvino_core import openvino_core

models = pytest.importorskip("model_api.models", reason="openvino-model-api is not installed")

write_toy_model = runpy.run_path(str(Path(__file__).parents[1] / "unit" / "deploy" / "exported_toy.py"))[
    "write_toy_model"
]
# Height and width of all images; the network takes another size.
SIZE = (90, 120)
# Few operations: exports take their time per operation.
SMALL = {"levels": [2, 3], "channel_branch": False, "reconstruction_head": "transposed"}
EXPORTS = {
    "any_size_fp32": (None, None),
    "any_size_int8": (None, CompressionType.INT8),
    "one_size_fp16": (SIZE, CompressionType.FP16),
}


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


@pytest.fixture(scope="module")
def model(root, tmp_path_factory):
    torch.manual_seed(0)
    arguments = {"backbone": "resnet18", "pre_trained": False, "image_size": (64, 96), "hidden_dim": 16}
    arguments |= {"num_heads": 2, "feedforward_dim": 32, "encoder_layers": 1, "neighbor_mask_size": 3}
    model = UniAS(**arguments, **SMALL, visualizer=False)
    data = MVTecAD(root=root, category="plate", train_batch_size=2, eval_batch_size=2, num_workers=0)
    folder = tmp_path_factory.mktemp("run")
    Engine(default_root_dir=folder, accelerator="cpu", devices=1, logger=False, max_epochs=1).fit(
        model, datamodule=data
    )
    return model.eval()


@pytest.fixture(scope="module")
def exports(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    return {
        name: model.to_openvino(folder, name, input_size=size, compression_type=compression)
        for name, (size, compression) in EXPORTS.items()
    }


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
            trained = model(torch.from_numpy(rgb.copy()).float().permute(2, 0, 1)[None])
        assert found.pred_label == str(trained.pred_label.item())
        assert found.pred_score == pytest.approx(trained.pred_score.item(), abs=1e-3 if "fp32" in name else 0.02)
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
    assert info["model_name"].astype(str) == "UniAS"
    assert info["image_threshold"].astype(float) == 0.5


def test_any_export_by_one_function(files, tmp_path):
    path = write_toy_model(tmp_path / "model.xml", (1, 3, *SIZE))
    bgr = cv2.imread(str(files[-1]))
    assert models.Model.create_model(str(path), device="CPU")(bgr).pred_score > 1
    describe_export(path)
    assert models.Model.create_model(str(path), device="CPU")(bgr).pred_score == pytest.approx(bgr[..., 2].max() / 255)
