"""Checks for any model of anomalib, to be run by pytest.

A model is given by a function without arguments that builds it::

    @parametrize_with_checks([MyModel, lambda: Padim(backbone="resnet18")])
    def test_my_models(factory, check, datamodule, tmp_path):
        check(factory, datamodule, tmp_path)

Each check trains the model on the CPU with a fixed seed, with anomalib's ``Engine`` for one epoch. A failing check
raises an ``AssertionError`` that says what was found. The checks of one model and one datamodule share the training.
"""

import copy
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from anomalib.data import AnomalibDataModule, InferenceBatch
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from torch import Tensor
from torch.nn.functional import interpolate

from anomalib_unias.compat.data import seeded
from anomalib_unias.compat.export import QUIET_ONNX
from anomalib_unias.compat.scores import set_thresholds
from anomalib_unias.deploy.openvino_core import FULL_PRECISION, openvino_core
from anomalib_unias.deploy.predictions import onnxruntime_session

if TYPE_CHECKING:
    from pytest import MarkDecorator  # noqa: PT013

__all__ = [
    "CHECKS",
    "check_batch_equals_single_images",
    "check_checkpoint_keeps_predictions",
    "check_data_come_back",
    "check_exports_agree",
    "check_no_label_without_threshold",
    "check_predictions_are_well_formed",
    "check_same_seed_same_scores",
    "parametrize_with_checks",
]

Factory = Callable[[], AnomalibModule]
Check = Callable[[Factory, AnomalibDataModule, Path], None]

_SEED = 0
_IMAGES = 4
_FIELDS = ("pred_score", "anomaly_map", "pred_label", "pred_mask")
# Largest difference of normalised scores that rounding and the order of sums may cause.
_TOLERANCE = 1e-3


@dataclass
class _Trained:
    """A model after its training, and images it has not seen."""

    model: AnomalibModule
    checkpoint: Path
    images: Tensor
    size: tuple[int, int]
    paths_before: list[str]
    paths_after: list[str]
    folder: TemporaryDirectory

    def copy(self) -> AnomalibModule:
        return copy.deepcopy(self.model).eval()


def check_predictions_are_well_formed(factory: Factory, datamodule: AnomalibDataModule, tmp_path: Path) -> None:
    """Scores and maps are finite, normalised and of the right shape, and labels agree with the threshold.

    Args:
        factory (Callable[[], AnomalibModule]): Builds the model.
        datamodule (AnomalibDataModule): Data to train the model on.
        tmp_path (Path): Not used.

    Raises:
        AssertionError: If they are not.
    """
    del tmp_path
    trained = _trained(factory, datamodule)
    model, count = trained.copy(), len(trained.images)
    found = _predict(model, trained.images)
    if found.pred_score is None:
        _fail("A prediction has no pred_score.")
    for name, shape in (("pred_score", (count,)), ("anomaly_map", (count, 1, *trained.images.shape[-2:]))):
        values = getattr(found, name)
        if values is None:
            continue
        if len(values) != count or values.numel() != int(np.prod(shape)):
            _fail(f"{name} has the shape {tuple(values.shape)}, expected {shape}.")
        if not (values.isfinite().all() and values.min() >= 0 and values.max() <= 1):
            _fail(f"{name} is not in [0, 1]: from {values.min():.4g} to {values.max():.4g}.")
    if found.pred_label is not None:
        threshold = float(getattr(model.post_processor, "normalized_image_threshold", 0.5))
        if not torch.equal(found.pred_label.flatten().bool(), found.pred_score.flatten() > threshold):
            _fail(f"pred_label is not pred_score > {threshold}.")


def check_batch_equals_single_images(factory: Factory, datamodule: AnomalibDataModule, tmp_path: Path) -> None:
    """The prediction for an image does not depend on the images beside it.

    Args:
        factory (Callable[[], AnomalibModule]): Builds the model.
        datamodule (AnomalibDataModule): Data to train the model on.
        tmp_path (Path): Not used.

    Raises:
        AssertionError: If it does.
    """
    del tmp_path
    trained = _trained(factory, datamodule)
    model = trained.copy()
    single = [_predict(model, image) for image in trained.images.split(1)]
    _same(_joined(single), _predict(model, trained.images), "single images and a batch")


def check_same_seed_same_scores(factory: Factory, datamodule: AnomalibDataModule, tmp_path: Path) -> None:
    """Two trainings with the same seed give the same predictions.

    Args:
        factory (Callable[[], AnomalibModule]): Builds the model.
        datamodule (AnomalibDataModule): Data to train the model on.
        tmp_path (Path): Folder for the second training.

    Raises:
        AssertionError: If they do not.
    """
    first = _trained(factory, datamodule)
    second, _ = _fit(factory, datamodule, tmp_path)
    expected = _predict(first.copy(), first.images)
    _same(_predict(second.eval(), first.images), expected, "two trainings with one seed", tolerance=0)


def check_checkpoint_keeps_predictions(factory: Factory, datamodule: AnomalibDataModule, tmp_path: Path) -> None:
    """A model from its checkpoint, or from a pickle, predicts the same: they contain thresholds and calibration.

    Args:
        factory (Callable[[], AnomalibModule]): Builds the model.
        datamodule (AnomalibDataModule): Data to train the model on.
        tmp_path (Path): Not used.

    Raises:
        AssertionError: If it does not.
    """
    del tmp_path
    trained = _trained(factory, datamodule)
    expected = _predict(trained.copy(), trained.images)
    opened = type(trained.model).load_from_checkpoint(trained.checkpoint, map_location="cpu")
    _same(_predict(opened.eval(), trained.images), expected, "the model and its checkpoint")
    copied = pickle.loads(pickle.dumps(trained.model))
    _same(_predict(copied.eval(), trained.images), expected, "the model and its pickle", tolerance=0)


def check_exports_agree(factory: Factory, datamodule: AnomalibDataModule, tmp_path: Path) -> None:
    """torch, OpenVINO and, if it is installed, ONNX Runtime give the same predictions for batches of any length.

    Images have the size of the network input. For files of any size, through the inferencers of anomalib, there is
    :func:`~anomalib_unias.deploy.check_export_parity`.

    Args:
        factory (Callable[[], AnomalibModule]): Builds the model.
        datamodule (AnomalibDataModule): Data to train the model on.
        tmp_path (Path): Folder for the exports.

    Raises:
        AssertionError: If they do not, or if an export changes the model.
    """
    trained = _trained(factory, datamodule)
    model = trained.copy()
    before = copy.deepcopy(model.state_dict())
    expected = _predict(model, trained.images)
    pickled = torch.load(model.to_torch(tmp_path), weights_only=False)["model"].eval()
    _same(_predict(pickled, trained.images), expected, "torch and its export", tolerance=0)
    onnx = model.to_onnx(tmp_path, input_size=trained.size, **QUIET_ONNX, optimize=False)
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0, equal_nan=True)
    compiled = openvino_core().compile_model(onnx, "CPU", FULL_PRECISION)
    runtimes: dict[str, Callable[[np.ndarray], Mapping[str, Any]]] = {
        "OpenVINO": lambda pixels: {output.get_any_name(): value for output, value in compiled(pixels).items()}
    }
    if find_spec("onnxruntime") is not None:
        runtimes["ONNX Runtime"] = onnxruntime_session(onnx)
    for name, run in runtimes.items():
        parts = [_as_batch(run(images.numpy())) for images in trained.images.split(_IMAGES - 1)]
        _same(_joined(parts), expected, f"torch and {name}")


def check_no_label_without_threshold(factory: Factory, datamodule: AnomalibDataModule, tmp_path: Path) -> None:
    """A model without thresholds predicts no labels and no masks.

    Args:
        factory (Callable[[], AnomalibModule]): Builds the model.
        datamodule (AnomalibDataModule): Data to train the model on.
        tmp_path (Path): Not used.

    Raises:
        AssertionError: If it does.
    """
    del tmp_path
    trained = _trained(factory, datamodule)
    model = trained.copy()
    if not isinstance(model.post_processor, PostProcessor):
        return
    unknown = torch.tensor(torch.nan)
    set_thresholds(model.post_processor, unknown, unknown)
    found = _predict(model.eval(), trained.images)
    for name in ("pred_label", "pred_mask"):
        if getattr(found, name) is not None:
            _fail(f"{name} is {getattr(found, name).flatten()[:4].tolist()}... though there is no threshold.")


def check_data_come_back(factory: Factory, datamodule: AnomalibDataModule, tmp_path: Path) -> None:
    """After a training the datamodule has the images that it had before.

    Args:
        factory (Callable[[], AnomalibModule]): Builds the model.
        datamodule (AnomalibDataModule): Data to train the model on.
        tmp_path (Path): Not used.

    Raises:
        AssertionError: If it has not.
    """
    del tmp_path
    trained = _trained(factory, datamodule)
    before, after = trained.paths_before, trained.paths_after
    if before != after:
        _fail(f"The datamodule had {len(before)} training images before a training, and {len(after)} afterwards.")


CHECKS: tuple[Check, ...] = (
    check_data_come_back,
    check_predictions_are_well_formed,
    check_batch_equals_single_images,
    check_same_seed_same_scores,
    check_checkpoint_keeps_predictions,
    check_exports_agree,
    check_no_label_without_threshold,
)
"""All checks, as :func:`parametrize_with_checks` takes them by default."""


def parametrize_with_checks(
    factories: Sequence[Factory],
    checks: Sequence[Check] = CHECKS,
    expected_failures: Mapping[str, str] | None = None,
) -> "MarkDecorator":
    """Turn one test into a test for each model and each check.

    The test takes the arguments ``factory`` and ``check``, and passes its own datamodule to the check. With a
    datamodule fixture of ``scope="module"`` the checks of a model share one training.

    Args:
        factories (Sequence[Callable[[], AnomalibModule]]): Functions, classes or partial functions that build a model.
            Each call gives a new one, with parts of its own.
        checks (Sequence[Check]): Checks. Defaults to :data:`CHECKS`.
        expected_failures (Mapping[str, str] | None): Reasons why checks fail, by the name of the check. If such a check
            passes, its test fails. Defaults to ``None``: all checks pass.

    Returns:
        MarkDecorator: Decorator of pytest.

    Raises:
        ValueError: If ``expected_failures`` names a check that does not exist.
    """
    import pytest

    reasons = dict(expected_failures or {})
    if unknown := reasons.keys() - {check.__name__ for check in checks}:
        msg = f"expected_failures names {sorted(unknown)}, expected some of {[check.__name__ for check in checks]}."
        raise ValueError(msg)

    def marks(check: Check) -> list[Any]:
        reason = reasons.get(check.__name__)
        return [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]

    cases = [
        pytest.param(factory, check, id=f"{_name(factory)}-{check.__name__}", marks=marks(check))
        for factory in factories
        for check in checks
    ]
    return pytest.mark.parametrize(("factory", "check"), cases)


def _name(factory: Factory) -> str:
    return _name(factory.func) if isinstance(factory, partial) else getattr(factory, "__name__", repr(factory))


# The checks of one model run one after the other, so it is enough to keep the last training.
@lru_cache(maxsize=1)
def _trained(factory: Factory, datamodule: AnomalibDataModule) -> _Trained:
    folder = TemporaryDirectory()
    datamodule.setup()
    before = _training_paths(datamodule)
    model, checkpoint = _fit(factory, datamodule, Path(folder.name))
    after = _training_paths(datamodule)
    rows = np.linspace(0, len(datamodule.test_data) - 1, _IMAGES).round().astype(int)
    images = [torch.as_tensor(datamodule.test_data[row].image)[None] for row in rows]
    size = model.input_size or images[0].shape[-2:]
    height, width = int(size[0]), int(size[1])
    resized = [interpolate(image, (height, width), mode="bilinear", antialias=True) for image in images]
    return _Trained(model, checkpoint, torch.cat(resized), (height, width), before, after, folder)


def _training_paths(datamodule: AnomalibDataModule) -> list[str]:
    return [str(path) for path in datamodule.train_data.samples.image_path]


def _fit(factory: Factory, datamodule: AnomalibDataModule, folder: Path) -> tuple[AnomalibModule, Path]:
    with seeded(_SEED):
        model = factory()
        model.visualizer = None
        engine = Engine(
            default_root_dir=folder,
            accelerator="cpu",
            devices=1,
            max_epochs=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        engine.fit(model, datamodule=datamodule)
    return model, Path(str(engine.best_model_path))


def _predict(model: AnomalibModule, images: Tensor) -> InferenceBatch:
    with torch.no_grad():
        found = model(images)
    return InferenceBatch(**{name: getattr(found, name) for name in _FIELDS})


def _as_batch(outputs: Mapping[str, np.ndarray]) -> InferenceBatch:
    return InferenceBatch(
        **{name: torch.as_tensor(outputs[name].copy()) if name in outputs else None for name in _FIELDS}
    )


def _joined(parts: Sequence[InferenceBatch]) -> InferenceBatch:
    def join(name: str) -> Tensor | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.cat(values)

    return InferenceBatch(**{name: join(name) for name in _FIELDS})


def _same(found: InferenceBatch, expected: InferenceBatch, of: str, tolerance: float = _TOLERANCE) -> None:
    for name, score in (("pred_label", "pred_score"), ("pred_mask", "anomaly_map")):
        one, other, scores = getattr(found, name), getattr(expected, name), getattr(expected, score)
        if (one is None) != (other is None):
            _fail(f"{name} of {of}: one of them has none.")
        if one is not None and scores is not None:
            _same_labels(one, other, scores, f"that of the other, of {of}")
    for name in ("pred_score", "anomaly_map"):
        one, other = getattr(found, name), getattr(expected, name)
        if (one is None) != (other is None):
            _fail(f"{name} of {of}: one of them has none.")
        if one is not None:
            difference = float((one.reshape(other.shape).double() - other.double()).abs().max())
            if not difference <= tolerance:
                _fail(f"{name} of {of} differs by up to {difference:.3g}, more than {tolerance}.")


def _same_labels(found: Tensor, expected: Tensor, scores: Tensor, of: str) -> None:
    """Compare labels, except those of scores so near to the threshold that rounding decides."""
    sure = (scores.flatten() - 0.5).abs() > _TOLERANCE
    differ = (found.flatten().bool() != expected.flatten().bool()) & sure
    if differ.any():
        _fail(f"{int(differ.sum())} of {len(sure)} labels are not {of}.")


def _fail(message: str) -> NoReturn:
    raise AssertionError(message)
