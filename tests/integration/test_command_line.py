"""The stock ``anomalib`` command with our model: train, test, predict, export, benchmark."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import openvino as ov
import pytest
import torch
import yaml
from anomalib.cli import AnomalibCLI
from anomalib.deploy import OpenVINOInferencer, TorchInferencer

from anomalib_unias import UniAS

CONFIGS = Path(__file__).parents[2] / "configs"
ANOMALIB = Path(sys.executable).parent / "anomalib"


def run(*arguments: str) -> None:
    """The command in this process: saves the seconds that every start of it takes."""
    AnomalibCLI(args=[str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def project(tmp_path_factory, write_category) -> Path:
    """A folder with data, a model configuration, and one training run by the real command."""
    folder = tmp_path_factory.mktemp("project")
    write_category(folder / "data")
    model = {
        "backbone": "resnet18",
        "pre_trained": False,
        "image_size": [64, 96],
        "hidden_dim": 16,
        "num_heads": 2,
        "feedforward_dim": 32,
        "encoder_layers": 1,
        "neighbor_mask_size": 3,
        "training_steps": 4,
        # Few operations: exports take their time per operation.
        "levels": [2, 3],
        "channel_branch": False,
        "reconstruction_head": "transposed",
    }
    (folder / "model.yaml").write_text(yaml.safe_dump({"model": {"class_path": "UniAS", "init_args": model}}))
    data = {"root": str(folder / "data"), "category": "plate", "num_workers": 0, "train_batch_size": 2}
    (folder / "data.yaml").write_text(yaml.safe_dump({"class_path": "MVTecAD", "init_args": data}))
    command = [ANOMALIB, "train", "--config", "model.yaml", "--data", "data.yaml", "--trainer.accelerator", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def checkpoint(project) -> Path:
    (path,) = project.glob("results/UniAS/MVTecAD/plate/v0/weights/lightning/*.ckpt")
    return path


@pytest.fixture
def inside(project, monkeypatch) -> Path:
    monkeypatch.chdir(project)
    return project


def common(project: Path) -> list:
    return ["--config", project / "model.yaml", "--trainer.accelerator", "cpu"]


def test_train_writes_a_checkpoint_and_overlays(project, checkpoint):
    assert UniAS.load_from_checkpoint(checkpoint).model.image_size == (64, 96)
    assert len(list(project.glob("results/UniAS/MVTecAD/plate/v0/images/**/*.png"))) == 6


def test_test_and_predict(inside, checkpoint):
    run("test", *common(inside), "--ckpt_path", checkpoint, "--data", inside / "data.yaml")
    images = inside / "data/plate/test/square"
    run("predict", *common(inside), "--ckpt_path", checkpoint, "--data", images)


def test_exports_give_the_same_answer_and_are_quiet(inside, checkpoint, write_onnx_once, caplog, capfd):
    write_onnx_once(UniAS)
    image_path = inside / "data/plate/test/square/000.png"
    # As large as the network input: what resizing does in each runtime is another matter.
    image = cv2.resize(cv2.cvtColor(cv2.imread(str(image_path)), cv2.COLOR_BGR2RGB), (96, 64))
    model = UniAS.load_from_checkpoint(checkpoint).eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0) / 255)
    for kind in ("torch", "onnx", "openvino"):
        run("export", *common(inside), "--ckpt_path", checkpoint, "--export_type", kind, "--export_root", inside / kind)
        assert not [record for record in caplog.records if record.name.startswith("onnxscript")], kind
        printed = "".join(capfd.readouterr())
        assert "Traceback" not in printed, kind
        assert "[torch.onnx]" not in printed, kind
        assert described(inside / kind / "weights" / kind, kind), kind
        found_map, found_score = predict(inside / kind / "weights" / kind, kind, image)
        np.testing.assert_allclose(found_map, expected.anomaly_map.squeeze(), atol=1e-4, err_msg=kind)
        np.testing.assert_allclose(found_score, expected.pred_score.squeeze(), atol=1e-4, err_msg=kind)


def described(folder: Path, kind: str) -> bool:
    """Whether an export says what it is; that of torch needs not."""
    if kind == "onnx":
        properties = onnx.load(folder / "model.onnx", load_external_data=False).metadata_props
        return {"model_info model_type", "model_info labels"} <= {each.key for each in properties}
    return kind == "torch" or ov.Core().read_model(folder / "model.xml").has_rt_info(["model_info", "labels"])


def predict(folder: Path, kind: str, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Map and score of an exported model."""
    if kind == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(folder / "model.onnx")
        pixels = image.astype(np.float32).transpose(2, 0, 1)[None] / 255
        values = session.run(None, {session.get_inputs()[0].name: pixels})
        outputs = dict(zip([output.name for output in session.get_outputs()], values, strict=True))
        return outputs["anomaly_map"].squeeze(), outputs["pred_score"].squeeze()
    if kind == "torch":
        # The file is our own and holds a pickled module, for which anomalib asks to be trusted.
        os.environ["TRUST_REMOTE_CODE"] = "1"
        prediction = TorchInferencer(path=folder / "model.pt", device="cpu").predict(
            torch.from_numpy(image).permute(2, 0, 1) / 255
        )
    else:
        # Left to itself OpenVINO computes in bfloat16 on a CPU that can.
        full_precision = {"INFERENCE_PRECISION_HINT": "f32"}
        inferencer = OpenVINOInferencer(path=folder / "model.xml", device="CPU", config=full_precision)
        prediction = inferencer.predict(image)
    found = (prediction.anomaly_map, prediction.pred_score)
    return tuple(np.asarray(value.detach() if kind == "torch" else value).squeeze() for value in found)


@pytest.mark.parametrize("class_path", ["UniAS", "anomalib_unias.UniAS"])
def test_benchmark(inside, class_path, tmp_path, monkeypatch):
    from anomalib.pipelines import Benchmark

    arguments = yaml.safe_load((inside / "model.yaml").read_text())["model"]["init_args"]
    config = {
        "accelerator": ["cpu"],
        "benchmark": {
            "seed": 1,
            "model": {"class_path": class_path, "init_args": {**arguments, "training_steps": 2}},
            "data": {
                "class_path": "MVTecAD",
                "init_args": yaml.safe_load((inside / "data.yaml").read_text())["init_args"],
            },
        },
    }
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["anomalib", "--config", str(tmp_path / "benchmark.yaml")])
    Benchmark().run()
    (results,) = tmp_path.glob("runs/**/results.csv")
    assert "pixel_AUROC" in results.read_text()


def test_shipped_configurations_parse():
    """Every model configuration is accepted by the command; nothing is built."""
    found = set()
    for path in sorted((CONFIGS / "model").glob("*.yaml")):
        cli = AnomalibCLI(args=["train", "--config", str(path), "--data", "MVTecAD"], run=False)
        found.add(cli.config["train"]["model"]["class_path"].removeprefix("anomalib_unias."))
    assert found == {"UniASLite", "UniADLite", "ReContrastLite"}
