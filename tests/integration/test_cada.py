"""CADA around whole models: life cycle, checkpoints, exports, and the models it is proven on."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from anomalib import models
from anomalib.data import InferenceBatch
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from cada_detector import Detector, make_data, make_detector, make_engine, write_images
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from anomalib_unias import CadaPostProcessor, UniAS, UniASLite, UnifiedDataModule
from anomalib_unias.post_processing import (
    CalibrationDataError,
    CategoryNeededError,
    FeatureLayerError,
    MissingCalibrationError,
)
from anomalib_unias.post_processing.calibration import Calibration
from anomalib_unias.post_processing.calibration_data import CalibrationData
from anomalib_unias.post_processing.calibration_run import can_leave_out


class Recorder(CadaPostProcessor):
    def fit(self, data: CalibrationData) -> Calibration:
        self.data = data
        return super().fit(data)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("products"))


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many images as large models take quickly."""
    return write_images(tmp_path_factory.mktemp("few"), train=4, good=2, defective=2)


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Detector, Path]:
    model, engine = make_detector(map_power=None), make_engine(tmp_path_factory.mktemp("trained"))
    engine.fit(model, datamodule=make_data(root))
    return model.eval(), Path(engine.best_model_path)


EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
"""OpenVINO computes in bfloat16 by default where the CPU can."""


def test_images(root: Path) -> torch.Tensor:
    data = make_data(root)
    data.setup()
    return torch.stack([data.test_data[i].image for i in range(len(data.test_data))])


test_images.__test__ = False


def assert_same(ones: InferenceBatch, others: InferenceBatch, tolerance: float = 0.0) -> None:
    for name in ("pred_score", "anomaly_map", "pred_label"):
        one, other = (torch.as_tensor(getattr(output, name)).float() for output in (ones, others))
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


def scores_by_kind(model: Detector, root: Path) -> dict[tuple[str, str], torch.Tensor]:
    data = make_data(root)
    data.setup()
    items = list(data.test_data)
    with torch.no_grad():
        scores = model.model(model.pre_processor(torch.stack([item.image for item in items]))).pred_score
    kinds = [(item.category, "spot" if item.gt_label else "good") for item in items]
    return {kind: scores[[k == kind for k in kinds]] for kind in set(kinds)}


def test_one_threshold_fits_two_products_after_calibration(trained: tuple, root: Path) -> None:
    model, _ = trained
    after = scores_by_kind(model, root)
    calibration, model.post_processor.calibration = model.post_processor.calibration, None
    before = scores_by_kind(model, root)
    model.post_processor.calibration = calibration
    assert before["bright", "good"].min() > before["dark", "spot"].max()
    normal = torch.cat([after["bright", "good"], after["dark", "good"]])
    assert normal.max() < min(after["bright", "spot"].min(), after["dark", "spot"].min())
    torch.testing.assert_close(after["bright", "good"].mean(), after["dark", "good"].mean(), rtol=0.15, atol=0)


def test_normalisation_is_taken_from_calibrated_scores(trained: tuple, root: Path) -> None:
    model, _ = trained
    scores = torch.cat(list(scores_by_kind(model, root).values()))
    # Held-out images count too.
    torch.testing.assert_close(model.post_processor.image_max, scores.max())
    torch.testing.assert_close(model.post_processor.image_min, scores.min(), rtol=0.2, atol=0)
    assert model.post_processor.image_min <= scores.min()
    assert scores.min() < model.post_processor.image_threshold < scores.max()


def test_held_out_images_are_not_trained_on_and_come_back(root: Path, tmp_path: Path) -> None:
    class Spy(Detector):
        def training_step(self, batch, *args, **kwargs):
            seen.update(batch.image_path)
            return super().training_step(batch, *args, **kwargs)

    seen: set[str] = set()
    data = make_data(root)
    recorder = Recorder(feature_layer="encoder", held_out_fraction=0.3, map_power=1)
    model = Spy(post_processor=recorder)
    make_engine(tmp_path).fit(model, datamodule=data)
    assert len(seen) == 12  # of nine images each three are held out
    assert len(data.train_data) == 18
    assert recorder.data.unseen.tolist() == 12 * [False] + 6 * [True]


@pytest.mark.parametrize("cache", ["memory", "off"])
def test_training_images_are_seen_though_training_reads_stored_features(root: Path, tmp_path: Path, cache: str) -> None:
    small = {"hidden_dim": 16, "feedforward_dim": 32, "encoder_layers": 1, "neighbor_mask_size": 3, "visualizer": False}
    recorder = Recorder(map_power=1)  # to choose it takes many images through the model
    model = UniAS((64, 64), "resnet18", False, post_processor=recorder, feature_cache=cache, **small)
    make_engine(tmp_path, max_epochs=2).fit(model, datamodule=make_data(root))
    assert recorder.data.descriptors.unique(dim=0).shape[0] == len(recorder.data)


def test_a_checkpoint_brings_the_calibration_along(trained: tuple, root: Path) -> None:
    model, path = trained
    images = test_images(root)
    loaded = Detector.load_from_checkpoint(path).eval()
    assert isinstance(loaded.post_processor, CadaPostProcessor)
    assert loaded.post_processor.feature_layer == "encoder"
    assert_same(loaded(images), model(images))
    assert_same(pickle.loads(pickle.dumps(model))(images), model(images))


def test_trainer_restores_the_calibration(trained: tuple, root: Path, tmp_path: Path) -> None:
    model, path = trained
    fresh = make_detector()
    predictions = make_engine(tmp_path).predict(fresh, datamodule=make_data(root), ckpt_path=path)
    scores = torch.cat([batch.pred_score for batch in predictions])
    with torch.no_grad():
        expected = model(torch.cat([batch.image for batch in predictions])).pred_score
    torch.testing.assert_close(scores, expected)


def test_another_process_tests_and_exports_from_the_checkpoint(trained: tuple, root: Path, tmp_path: Path) -> None:
    model, path = trained
    program = f"""
import sys, torch
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from cada_detector import Detector, make_data, make_detector, make_engine
engine = make_engine(Path({str(tmp_path)!r}))
batches = engine.predict(make_detector(), datamodule=make_data(Path({str(root)!r})), ckpt_path={str(path)!r})
torch.save(torch.cat([batch.pred_score for batch in batches]), {str(tmp_path / "scores.pt")!r})
engine.export(Detector(), "torch", export_root={str(tmp_path)!r}, ckpt_path={str(path)!r})
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=300)
    images = test_images(root)
    with torch.no_grad():
        expected = model(images)
        exported = torch.load(tmp_path / "weights/torch/model.pt", weights_only=False)["model"].eval()
        assert_same(exported(images), expected)
    torch.testing.assert_close(torch.load(tmp_path / "scores.pt"), expected.pred_score)


@pytest.mark.parametrize("arguments", [{}, {"predictor": "regressor"}, {"variant": "cada_b"}])
def test_exports_contain_the_calibration(
    root: Path, tmp_path: Path, arguments: dict, write_onnx_once: Callable[[type], None]
) -> None:
    model = make_detector(max_steps=30, threshold="f1", map_power=None, **arguments)
    engine = make_engine(tmp_path)
    engine.fit(model, datamodule=make_data(root))
    path = Path(engine.best_model_path)
    if arguments:  # the checkpoint and the fitted model are both exported with the default ones
        write_onnx_once(Detector)
    onnx = engine.export(Detector(), "onnx", export_root=tmp_path, input_size=(32, 32), ckpt_path=path)
    xml = engine.export(model, "openvino", export_root=tmp_path, input_size=(32, 32))
    session, compiled = onnxruntime.InferenceSession(onnx), openvino.compile_model(xml, "CPU", EXACT)
    names = [output.name for output in session.get_outputs()]
    for images in test_images(root).split(3):  # the last batch is smaller
        with torch.no_grad():
            expected = model.eval()(images)
        from_onnx = dict(zip(names, session.run(None, {"input": images.numpy()}), strict=True))
        from_openvino = {output.get_any_name(): value for output, value in compiled(images.numpy()).items()}
        for outputs in (from_onnx, from_openvino):
            assert np.abs(outputs["anomaly_map"] - expected.anomaly_map.numpy()).max() < 1e-4
            assert np.abs(outputs["pred_score"] - expected.pred_score.numpy()).max() < 1e-4


def test_monitored_weights_are_loaded_and_calibrated(root: Path, tmp_path: Path) -> None:
    # The weight falls in every epoch; the checkpoint keeps its highest value, that of the first epoch.
    best = ModelCheckpoint(dirpath=tmp_path, filename="best", monitor="weight", mode="max")
    model, engine = make_detector(rate=0.01), make_engine(tmp_path, [best], max_epochs=3)
    engine.fit(model, datamodule=make_data(root))
    latest = engine.trainer.checkpoint_callbacks[0].best_model_path
    kept, last = torch.load(best.best_model_path), torch.load(latest)
    assert kept["global_step"] < last["global_step"]
    assert torch.equal(model.model.weight, kept["state_dict"]["model.weight"])
    assert kept["anomalib_post_processor_config"]["calibration"]
    assert torch.equal(kept["state_dict"]["post_processor.image_max"], model.post_processor.image_max)
    # The last one is there to go on from, and says so when it is used otherwise.
    assert last["anomalib_post_processor_config"]["calibration"] is None
    with pytest.raises(MissingCalibrationError, match="engine.fit"):
        make_engine(tmp_path).test(make_detector(), datamodule=make_data(root), ckpt_path=latest)


def test_early_stopping_and_resuming(root: Path, tmp_path: Path) -> None:
    stop = EarlyStopping("weight", mode="max", patience=1)
    stopped, engine = make_detector(rate=0.01), make_engine(tmp_path, [stop], max_epochs=9)
    engine.fit(stopped, datamodule=make_data(root))
    assert engine.trainer.current_epoch == 2
    assert stopped.post_processor.calibration is not None

    resumed, again = make_detector(rate=0.01), make_engine(tmp_path, max_epochs=3)
    again.fit(resumed, datamodule=make_data(root), ckpt_path=engine.best_model_path)
    assert again.trainer.global_step == 3 * engine.trainer.global_step // 2
    straight = make_detector(rate=0.01)
    make_engine(tmp_path, max_epochs=3).fit(straight, datamodule=make_data(root))
    one, other = resumed.post_processor.calibration, straight.post_processor.calibration
    torch.testing.assert_close(one.score_levels, other.score_levels, rtol=1e-4, atol=1e-4)
    assert one.score_levels.abs().max() > 0.1


def test_runs_limited_by_steps_are_calibrated(root: Path, tmp_path: Path) -> None:
    model = make_detector()
    engine = make_engine(tmp_path, max_epochs=-1, max_steps=3)
    engine.fit(model, datamodule=make_data(root))
    assert model.post_processor.calibration is not None
    assert engine.trainer.global_step == 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"feature_layer": "nowhere"}, FeatureLayerError, "encoder"),
        ({"feature_layer": None}, FeatureLayerError, "candidates: encoder"),
        ({"targets": "validation"}, CalibrationDataError, "test set"),
        ({"targets": "leave_one_out"}, CalibrationDataError, "UniAS with prototypes"),
    ],
)
def test_what_cannot_work_is_said_before_training(
    root: Path, tmp_path: Path, arguments: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_engine(tmp_path).fit(make_detector(**arguments), datamodule=make_data(root))


@pytest.mark.parametrize(
    "arguments",
    [
        {"variant": "cada_c"},
        {"linear_layers": 4},
        {"held_out_fraction": 1.0},
        {"image_score": "sum"},
        {"map_power": 1.5},
        {"score_power": -0.1},
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        CadaPostProcessor(**arguments)


def test_training_images_are_scored_without_their_own_prototypes(root: Path, tmp_path: Path) -> None:
    small = {"hidden_dim": 16, "feedforward_dim": 32, "encoder_layers": 1, "neighbor_mask_size": 3, "visualizer": False}
    # Choosing the power of the map would take many images through the model.
    recorder = Recorder(map_power=1, pixel_false_alarm_rate=0.2)
    model = UniAS((64, 64), "resnet18", False, post_processor=recorder, prototypes=300, **small)
    data = make_data(root)
    make_engine(tmp_path, max_epochs=2).fit(model, datamodule=data)
    assert recorder.data.unseen.tolist() == 18 * [True]  # no image is held out
    images = model.pre_processor(torch.stack([item.image for item in data.train_data]))
    paths = data.train_data.samples["image_path"].tolist()
    with torch.no_grad():
        left_out = model.eval().model.forward_left_out(images, paths)
        known = model.model.forward(images)
        calibrated = model.model(images)
    torch.testing.assert_close(recorder.data.scores, left_out.pred_score, rtol=1e-3, atol=0)
    assert (left_out.pred_score >= known.pred_score).all()
    assert left_out.pred_score.mean() > 1.01 * known.pred_score.mean()
    # The lowest rate that 18 images can promise: none of them is above the threshold.
    scores = (recorder.data.scores * calibrated.pred_score / known.pred_score).max()
    assert recorder.image_threshold > scores
    maps = left_out.anomaly_map * calibrated.anomaly_map / known.anomaly_map
    assert (maps > recorder.pixel_threshold).float().mean() == pytest.approx(0.2, abs=0.01)


def test_a_single_image_cannot_be_left_out(tmp_path: Path) -> None:
    root = write_images(tmp_path / "products", train=1, good=1, defective=1)
    data = UnifiedDataModule("MVTecAD", ["bright"], root=root, num_workers=0)
    small = {"backbone": "resnet18", "pre_trained": False, "image_size": (64, 64), "neighbor_mask_size": 3}
    with pytest.raises(CalibrationDataError, match="there is only one"):
        make_engine(tmp_path).fit(UniASLite(**small, prototypes=5, visualizer=False), datamodule=data)


def test_a_checkpoint_that_cannot_leave_images_out_is_not_trained_on(root: Path, tmp_path: Path) -> None:
    small = {"backbone": "resnet18", "pre_trained": False, "image_size": (64, 64), "neighbor_mask_size": 3}
    engine = make_engine(tmp_path, max_steps=1)
    engine.fit(UniASLite(**small, prototypes=5, visualizer=False), datamodule=make_data(root))
    content = torch.load(engine.best_model_path, weights_only=True)
    content["state_dict"] = {name: part for name, part in content["state_dict"].items() if not name.endswith("source")}
    torch.save(content, tmp_path / "former.ckpt")
    again = make_engine(tmp_path, max_epochs=2)
    with pytest.raises(ValueError, match="training images are known: their checkpoint is from an earlier version"):
        again.fit(
            UniASLite(**small, prototypes=5, visualizer=False),
            datamodule=make_data(root),
            ckpt_path=tmp_path / "former.ckpt",
        )
    assert again.trainer.global_step == 1


@pytest.mark.parametrize(("prototypes", "possible"), [(5, True), (0, False)])
def test_images_can_be_left_out_of_prototypes(prototypes: int, possible: bool) -> None:
    small = {"backbone": "resnet18", "pre_trained": False, "image_size": (64, 64), "neighbor_mask_size": 3}
    model = UniASLite(**small, prototypes=prototypes)
    assert model.post_processor.targets is None
    assert can_leave_out(model) == possible


def test_validation_images_can_be_the_targets(root: Path, tmp_path: Path) -> None:
    recorder = Recorder(feature_layer="encoder", targets="validation", map_power=1)
    data = make_data(root, val_split_mode="from_test", val_split_ratio=0.5)
    make_engine(tmp_path).fit(Detector(post_processor=recorder), datamodule=data)
    assert recorder.data.unseen.tolist() == 18 * [False] + 4 * [True]
    assert recorder.data.categories == sorted(recorder.data.categories[:18]) + recorder.data.categories[18:]


def test_cada_a_evaluates_and_does_not_export(root: Path, tmp_path: Path) -> None:
    model, engine = make_detector(variant="cada_a", targets="training"), make_engine(tmp_path)
    engine.fit(model, datamodule=make_data(root))
    assert model.post_processor.calibration.categories == ["bright", "dark"]
    engine.test(model, datamodule=make_data(root))
    with pytest.raises(CategoryNeededError):
        model.eval()(test_images(root))


def test_an_unfitted_model_says_so(root: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingCalibrationError):
        make_engine(tmp_path).test(make_detector(), datamodule=make_data(root))
    with pytest.raises(MissingCalibrationError):
        make_detector().eval()(torch.rand(1, 3, 32, 32))


def test_a_model_without_cada_refuses_a_calibrated_checkpoint(trained: tuple, root: Path, tmp_path: Path) -> None:
    _, path = trained
    with pytest.raises(RuntimeError, match="post_processor.calibration"):
        make_engine(tmp_path).test(Detector(), datamodule=make_data(root), ckpt_path=path)


def test_strange_images_are_reported(
    trained: tuple, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, _ = trained
    engine = make_engine(tmp_path)
    engine.predict(model, data_path=root / "bright" / "test" / "good")
    assert model.post_processor.unfamiliar == []
    from PIL import Image

    folder = tmp_path / "strange"
    folder.mkdir()
    noise = np.random.default_rng(1).integers(0, 2, size=(32, 32, 3), dtype=np.uint8)
    Image.fromarray(255 * noise * np.uint8([1, 0, 0])).save(folder / "red.png")
    engine.predict(model, data_path=folder)
    assert [Path(path).name for path in model.post_processor.unfamiliar] == ["red.png"]
    assert "unlike all images" in caplog.text


def test_exports_report_strange_images_if_asked_to(root: Path, tmp_path: Path) -> None:
    model, engine = make_detector(report_out_of_range=True), make_engine(tmp_path)
    engine.fit(model, datamodule=make_data(root))
    xml = engine.export(model, "openvino", export_root=tmp_path, input_size=(32, 32))
    compiled = openvino.compile_model(xml, "CPU", EXACT)
    assert [o.get_any_name() for o in compiled.outputs] == [
        "pred_score",
        "pred_label",
        "anomaly_map",
        "pred_mask",
        "out_of_range",
    ]
    noise = torch.randint(2, (1, 3, 32, 32)).float() * torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    images = torch.cat([test_images(root)[:1], noise])
    assert list(compiled(images.numpy())["out_of_range"]) == [False, True]
    assert model.eval()(images).out_of_range.tolist() == [False, True]


def proven(name: str, post_processor: PostProcessor) -> AnomalibModule:
    """A small version of a model with random weights."""
    kind = getattr(models, name)
    rest = {"post_processor": post_processor, "evaluator": False, "visualizer": False}
    if name in {"ReverseDistillation", "Fastflow"}:
        # load_from_checkpoint of anomalib 2.7.0 rebuilds these for 256 pixels, whatever the size was.
        return kind(backbone="resnet18", pre_trained=False, **rest)
    # 84 is a multiple of the patches of the ViT; the noise of Supersimplenet needs a larger map.
    size = {"AnomalyDINO": 84, "Supersimplenet": 128}[name]
    own = {
        "AnomalyDINO": {"encoder_name": "vit_small_patch14_dinov2"},
        "Supersimplenet": {"backbone": "resnet18", "layers": ["layer2", "layer3"]},
    }
    return kind(**own[name], pre_processor=kind.configure_pre_processor((size, size)), **rest)


@pytest.mark.parametrize("name", ["ReverseDistillation", "Fastflow", "AnomalyDINO", "Supersimplenet"])
def test_models(name: str, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others: test_checks_of_models.py."""
    random_weights(monkeypatch)
    # Choosing the power takes 500 images through the model, and random features know nothing of defects.
    model, engine = proven(name, CadaPostProcessor(map_power=1)), make_engine(tmp_path, max_steps=2)
    engine.fit(model, datamodule=make_data(few, train_batch_size=2))
    calibration, model.post_processor.calibration = model.post_processor.calibration, None
    images = test_images(few)[::2]  # good and defective ones of both products
    with torch.no_grad():
        inputs = model.eval().pre_processor(images)
        plain = model.model(inputs)
        model.post_processor.calibration = calibration
        calibrated, final = model.model(inputs), model(images)
    # Within an image the map is only shifted and stretched.
    for one, other in zip(plain.anomaly_map.flatten(1), calibrated.anomaly_map.flatten(1), strict=True):
        assert torch.corrcoef(torch.stack([one, other]))[0, 1] > 0.999
    if calibration.score_levels.any():  # where random features tell the products apart
        assert not torch.allclose(plain.pred_score, calibrated.pred_score)
    loaded = type(model).load_from_checkpoint(engine.best_model_path).eval()
    with torch.no_grad():
        assert_same(loaded(images), final, tolerance=1e-5)


def random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let models that insist on pretrained weights do without them: there is no network."""
    import timm

    create = timm.create_model

    def create_untrained(*args, **kwargs):
        return create(*args, **(kwargs | {"pretrained": False}))

    monkeypatch.setattr(timm, "create_model", create_untrained)
