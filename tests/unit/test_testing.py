"""Each check finds a model that is broken in its way, and says so."""

from functools import partial
from pathlib import Path

import pytest
import torch
from anomalib.data import AnomalibDataModule
from anomalib.post_processing import PostProcessor
from tests.integration.cada_detector import Detector, make_data, write_images

from anomalib_unias import OrderPreservingPostProcessor, testing
from anomalib_unias.testing import CHECKS, parametrize_with_checks


@pytest.fixture(scope="module")
def datamodule(tmp_path_factory: pytest.TempPathFactory) -> AnomalibDataModule:
    root = write_images(tmp_path_factory.mktemp("products"), train=4, good=2, defective=2)
    return make_data(root)


def healthy() -> Detector:
    return Detector(post_processor=OrderPreservingPostProcessor())


class Broken(Detector):
    """Gives every prediction a factor."""

    def __init__(self, post_processor=True, **parts):
        super().__init__(post_processor=post_processor and OrderPreservingPostProcessor(), **parts)
        self.model.register_forward_hook(self.change)

    def change(self, _model, inputs, output):
        if isinstance(output, torch.Tensor):
            return output
        factor = self.factor(inputs[0])
        return output._replace(pred_score=factor * output.pred_score, anomaly_map=factor * output.anomaly_map)


class LosesData(Detector):
    def on_fit_start(self):
        self.trainer.datamodule.train_data = self.trainer.datamodule.train_data.subsample([0, 1])


class DependsOnTheBatch(Broken):
    def factor(self, images):
        return images.shape[0]


class DependsOnTheRun(Broken):
    runs = 0

    def on_fit_start(self):
        type(self).runs += 1
        self.own = 1 + type(self).runs / 10

    def factor(self, _images):
        return getattr(self, "own", 1)


class ForgetsOnDisk(Broken):
    own = 1.0

    def on_train_end(self):
        self.own = 1.5

    def factor(self, _images):
        return self.own


class Raw(Broken):
    def factor(self, _images):
        return 1000


class PicklesAnother(ForgetsOnDisk):
    def __getstate__(self):
        return super().__getstate__() | {"own": self.own + 1}


@pytest.mark.parametrize(
    ("check", "model", "message"),
    [
        ("check_data_come_back", LosesData, "had 8 training images before a training, and 2 afterwards"),
        ("check_predictions_are_well_formed", partial(Raw, post_processor=False), "not in .0, 1.: from"),
        ("check_batch_equals_single_images", DependsOnTheBatch, "single images and a batch"),
        ("check_same_seed_same_scores", DependsOnTheRun, "two trainings with one seed differs by up to"),
        ("check_checkpoint_keeps_predictions", ForgetsOnDisk, "the model and its checkpoint"),
        ("check_exports_agree", PicklesAnother, "torch and its export"),
        ("check_no_label_without_threshold", partial(Detector, post_processor=PostProcessor()), "no threshold"),
    ],
)
def test_what_is_broken_is_found(check, model, message, tmp_path: Path) -> None:
    data = make_data(write_images(tmp_path / "products", train=4, good=2, defective=2))
    with pytest.raises(AssertionError, match=message):
        getattr(testing, check)(model, data, tmp_path)


def test_every_check_is_broken_by_something_above() -> None:
    (mark,) = (mark for mark in test_what_is_broken_is_found.pytestmark if mark.name == "parametrize")
    assert {case[0] for case in mark.args[1]} == {check.__name__ for check in CHECKS}
    assert {name for name in testing.__all__ if name.startswith("check_")} == {check.__name__ for check in CHECKS}


def test_cases_have_names_and_expected_failures() -> None:
    mark = parametrize_with_checks(
        [healthy, partial(Detector)], CHECKS[:2], {"check_data_come_back": "it loses them"}
    ).mark
    assert [case.id for case in mark.args[1]] == [
        "healthy-check_data_come_back",
        "healthy-check_predictions_are_well_formed",
        "Detector-check_data_come_back",
        "Detector-check_predictions_are_well_formed",
    ]
    assert [[each.kwargs for each in case.marks] for case in mark.args[1][:2]] == [
        [{"reason": "it loses them", "strict": True}],
        [],
    ]
    with pytest.raises(ValueError, match=r"\['check_nothing'\], expected some of"):
        parametrize_with_checks([healthy], expected_failures={"check_nothing": ""})


def test_the_checks_of_a_model_share_a_training(datamodule: AnomalibDataModule, tmp_path: Path) -> None:
    built = []

    def counted() -> Detector:
        built.append(1)
        return healthy()

    for check in CHECKS[:3]:
        check(counted, datamodule, tmp_path)
    assert len(built) == 1
