"""Six models with CADA, ours and those of anomalib, through the public checks."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from anomalib.data import AnomalibDataModule
from anomalib.models import Padim, Patchcore, Stfpm
from anomalib.models.components import AnomalibModule
from cada_detector import Detector, make_data, write_images
from tests.conftest import TINY

from anomalib_unias import CadaPostProcessor, ReContrast, UniAD, UniAS
from anomalib_unias.testing import CHECKS, Check, check_exports_agree, parametrize_with_checks


def calibrated(model: type[AnomalibModule], **arguments: Any) -> Callable[[], AnomalibModule]:
    """Builder of a model. The power is given: to choose it takes 500 images."""

    def build() -> AnomalibModule:
        parts = {"post_processor": CadaPostProcessor(map_power=1), "evaluator": False, "visualizer": False}
        if "image_size" not in arguments:
            parts["pre_processor"] = model.configure_pre_processor((64, 64))
        return model(**arguments, **parts)

    build.__name__ = model.__name__
    return build


UNTRAINED = {"backbone": "resnet18", "pre_trained": False}
MODELS = [
    calibrated(UniAS, **{**TINY["UniAS"], "levels": [3], "channel_branch": False}),
    calibrated(UniAD, **{**TINY["UniAD"], "decoder_layers": 1}),
    calibrated(ReContrast, **TINY["ReContrast"]),
    calibrated(Patchcore, **UNTRAINED, layers=["layer2"]),
    calibrated(Padim, **UNTRAINED, layers=["layer1"], n_features=20),
    calibrated(Stfpm, backbone="resnet18", layers=["layer1", "layer2"]),
]


@pytest.fixture(scope="module", autouse=True)
def random_weights() -> Iterator[None]:
    """Stfpm insists on pretrained weights, and there is no network."""
    create = timm.create_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "create_model", lambda *args, **kwargs: create(*args, **{**kwargs, "pretrained": False}))
        yield


@pytest.fixture(scope="module")
def datamodule(tmp_path_factory: pytest.TempPathFactory) -> AnomalibDataModule:
    return make_data(write_images(tmp_path_factory.mktemp("products"), train=5, good=2, defective=2))


@parametrize_with_checks(MODELS, [check for check in CHECKS if check is not check_exports_agree])
def test_models(
    factory: Callable[[], AnomalibModule], check: Check, datamodule: AnomalibDataModule, tmp_path: Path
) -> None:
    check(factory, datamodule, tmp_path)


# One of ours and one of anomalib's: exports take most of the time. Others: test_export_parity.py.
@parametrize_with_checks([MODELS[1], MODELS[4]], [check_exports_agree])
def test_exports(
    factory: Callable[[], AnomalibModule], check: Check, datamodule: AnomalibDataModule, tmp_path: Path
) -> None:
    check(factory, datamodule, tmp_path)


class ExportsAnother(Detector):
    """Says twice as much where it is exported."""

    def forward(self, batch, *args, **kwargs):
        found = super().forward(batch, *args, **kwargs)
        factor = 2 if torch.compiler.is_exporting() else 1
        return found._replace(pred_score=factor * found.pred_score, anomaly_map=factor * found.anomaly_map)


def test_another_export_is_found(datamodule: AnomalibDataModule, tmp_path: Path) -> None:
    """The other checks: tests/unit/test_testing.py."""
    with pytest.raises(AssertionError, match="of torch and OpenVINO differs by up to"):
        check_exports_agree(ExportsAnother, datamodule, tmp_path)
