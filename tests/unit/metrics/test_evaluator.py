import copy
import logging
import pickle

import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib.metrics import Evaluator
from anomalib.models import Padim
from given_model import GivenImages, GivenModel, make_images, make_trainer
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from sklearn.metrics import average_precision_score, roc_auc_score

from anomalib_unias.metrics import METRICS, UnifiedEvaluator

STOCK = ["image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"]


def run(images=None, model=None, loader=None, **arguments: object) -> tuple[dict[str, float], UnifiedEvaluator]:
    """Validate, then test, as ``fit`` and ``test`` of the engine do."""
    evaluator = UnifiedEvaluator(**{"print_table": False, **arguments})
    model = model or GivenModel(evaluator=evaluator)
    loader = loader or images.loader()
    trainer = make_trainer()
    trainer.validate(model, loader, verbose=False)
    return trainer.test(model, loader, verbose=False)[0], evaluator


@pytest.fixture(scope="module")
def tested() -> tuple[GivenImages, dict[str, float], UnifiedEvaluator]:
    images = make_images(count=24)
    return images, *run(images)


def test_categories_mean_mixed_and_gap_agree_with_sklearn(tested) -> None:
    images, values, evaluator = tested
    scores, names = images.maps.max(axis=(1, 2)), np.array(images.categories)
    parts = {"a/": names == "a", "b/": names == "b", "mixed_": names != ""}
    for prefix, part in parts.items():
        pixels = images.masks[part].ravel(), images.maps[part].ravel()
        expected = {
            f"{prefix}image_auroc": roc_auc_score(images.labels[part], scores[part]),
            f"{prefix}image_ap": average_precision_score(images.labels[part], scores[part]),
            f"{prefix}pixel_auroc": roc_auc_score(*pixels),
            f"{prefix}pixel_ap": average_precision_score(*pixels),
        }
        assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert values["mean_pixel_ap"] == pytest.approx((values["a/pixel_ap"] + values["b/pixel_ap"]) / 2)
    assert values["gap_pixel_ap"] == pytest.approx(values["mean_pixel_ap"] - values["mixed_pixel_ap"], abs=1e-6)
    for _, row in evaluator.results.iterrows():
        name = row["category"] + ("_" if row["category"] in {"mean", "mixed", "gap"} else "/") + row["metric"]
        assert row["value"] == pytest.approx(values[name], abs=1e-6, nan_ok=True)


def test_deployed_threshold_is_the_one_of_the_post_processor(tested) -> None:
    _, values, evaluator = tested
    seen = evaluator.images
    good, defective = seen[seen["label"] == 0], seen[seen["label"] == 1]
    assert seen["predicted"].tolist() == (seen["normalized_score"] > 0.5).tolist()
    assert values["mixed_false_alarms_per_1000"] == pytest.approx(1000 * good["predicted"].mean())
    assert values["mixed_missed_defects"] == (1 - defective["predicted"]).sum()
    assert values["mixed_missed_defect_rate"] == pytest.approx(1 - defective["predicted"].mean())
    missed_in_b = defective[defective["category"] == "b"]["predicted"]
    assert values["b/missed_defects"] == (1 - missed_in_b).sum()


def test_where_clamping_matters(tested) -> None:
    """One threshold for two levels: anomalib 2.7.0 ties defects with good images. FAILS once it does not clamp."""
    images, ours, evaluator = tested
    stock, _ = run(images, model=GivenModel())
    assert sorted(stock) == STOCK
    assert ours["image_AUROC"] == pytest.approx(roc_auc_score(images.labels, images.maps.max(axis=(1, 2))))
    assert stock["image_AUROC"] < ours["image_AUROC"] - 0.1
    assert stock["pixel_AUROC"] < ours["pixel_AUROC"] - 0.001
    assert (evaluator.images["normalized_score"] == 1).sum() > 1
    assert evaluator.images["score"].is_unique
    # Labels do not depend on it.
    assert {name: ours[name] for name in STOCK if "F1" in name} == pytest.approx(
        {name: stock[name] for name in STOCK if "F1" in name}
    )


def test_where_clamping_does_not_matter() -> None:
    """Defects that stand out: only defects are tied with one another, and the stock evaluator gives the same."""
    images = make_images(count=12)
    images.maps -= np.array([image.min() for image in images.maps])[:, None, None]
    images.maps[images.masks] += 10
    stock, ours = run(images, model=GivenModel())[0], run(images)[0]
    assert {name: ours[name] for name in STOCK} == pytest.approx(stock, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 5, 24])
def test_order_and_batches_do_not_matter(tested, batch_size: int) -> None:
    images, expected, _ = tested
    order = np.random.default_rng(batch_size).permutation(24).tolist()
    values, _ = run(loader=images.loader(batch_size, order))
    assert values == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_images_without_known_mask_count_at_image_level_only(caplog: pytest.LogCaptureFixture) -> None:
    images = make_images(count=24)
    images.mask_valid = np.array(images.categories) == "a"
    images.masks[images.categories.index("b")] = False
    with caplog.at_level(logging.WARNING):
        values, _ = run(images)
    assert np.isnan(values["b/pixel_ap"])
    assert not np.isnan(values["b/image_ap"])
    assert values["mean_pixel_ap"] == values["mixed_pixel_ap"] == values["a/pixel_ap"]
    assert "Category b has no pixel_auroc" in caplog.text


def test_no_maps_no_masks_and_no_post_processor_give_nan_but_the_same_keys(tested) -> None:
    images = make_images(count=12)

    class OnlyScores(GivenModel):
        def test_step(self, batch, batch_idx):
            super().test_step(batch, batch_idx)
            batch.anomaly_map = batch.gt_mask = None
            return batch

    model = OnlyScores(evaluator=UnifiedEvaluator(print_table=False), post_processor=False)
    values = make_trainer().test(model, images.loader(), verbose=False)[0]
    assert list(values) == list(tested[1])
    assert np.isnan([values["mean_pixel_ap"], values["mixed_missed_defects"], values["image_F1Score"]]).all()
    scores = images.maps.max(axis=(1, 2))
    assert values["mixed_image_auroc"] == pytest.approx(roc_auc_score(images.labels, scores))


def test_without_a_threshold_nothing_is_called_defective(caplog: pytest.LogCaptureFixture) -> None:
    """anomalib 2.7.0 compares raw scores with the threshold of normalised ones, and calls every image defective."""
    images = make_images(count=12)
    images.maps += 1
    evaluator = UnifiedEvaluator(print_table=False)
    seen: list[bool] = []

    class Spy(GivenModel):
        def on_test_batch_end(self, outputs, batch, *_args) -> None:  # noqa: ARG002
            seen.extend(batch.pred_label.tolist())

    with caplog.at_level(logging.WARNING):
        values = make_trainer().test(Spy(evaluator=evaluator), images.loader(), verbose=False)[0]
    assert all(seen)
    assert evaluator.images[["predicted", "marked"]].isna().all(axis=None)
    assert evaluator.regions["found"].isna().all()
    undefined = ["false_alarms_per_1000", "missed_defects", "missed_defect_rate"]
    assert np.isnan([values[f"{row}{name}"] for row in ("a/", "mean_", "mixed_") for name in undefined]).all()
    assert np.isnan([values["image_F1Score"], values["pixel_F1Score"]]).all()
    assert [record.message for record in caplog.records if "unias" in record.name] == [
        "There is no image threshold, so no image is called good or defective: false alarms and missed defects are "
        "undefined. Validate before the test, on images of the data module (val_split_mode)."
    ]


@pytest.mark.parametrize("exact", [True, False])
def test_pixels_and_regions_of_each_image(exact: bool) -> None:
    images = make_images(count=24)
    values, evaluator = run(images, exact=exact)
    seen = evaluator.images
    assert seen["dice"].groupby(seen["category"]).mean()["a"] == pytest.approx(values["a/dsc"], abs=1e-6)
    assert seen["mixed_dice"].mean() == pytest.approx(values["mixed_dsc"], abs=1e-6)
    assert seen["peak"].tolist() == pytest.approx(seen["score"].tolist())
    assert len(evaluator.regions) == 8  # one in every third image
    assert set(evaluator.regions["area"]) == {20}
    defective = seen[seen["label"] == 1].set_index("image_path")
    expected = [images.maps[int(path[:3])][images.masks[int(path[:3])]].max() for path in defective.index]
    assert evaluator.regions.set_index("image_path")["peak"][defective.index].tolist() == pytest.approx(expected)


def test_without_pixels_images_are_tested_alike(tested) -> None:
    images, values, evaluator = tested
    found, without = run(images, test_pixels=False)
    same = ["mean_image_auroc", "mixed_image_ap", "a/image_f1max", "mixed_missed_defects"]
    assert {name: found[name] for name in same} == {name: values[name] for name in same}
    assert np.isnan([found["mean_pixel_ap"], found["mixed_aupro"]]).all()
    assert not len(without.regions)
    assert len(without.images) == len(evaluator.images)


def test_test_set_without_defects() -> None:
    images = make_images(count=12)
    images.masks[:] = False
    values, _ = run(images)
    assert np.isnan([values["mixed_image_auroc"], values["mixed_dsc"], values["mean_missed_defect_rate"]]).all()
    assert values["mixed_missed_defects"] == 0


def test_without_categories_the_data_set_is_one() -> None:
    images = make_images(count=12)
    images.categories = None
    values, evaluator = run(images)
    assert evaluator.images["category"].unique().tolist() == ["all"]
    assert values["mean_pixel_ap"] == values["mixed_pixel_ap"]
    assert not [name for name in values if "/" in name]
    images.category = "cable"
    assert run(images)[1].images["category"].unique().tolist() == ["cable"]


def test_what_is_logged(tested) -> None:
    images, values, _ = tested
    summary = {f"{scope}_{metric}" for scope in ("mean", "mixed", "gap") for metric in METRICS}
    assert set(run(images, log="stock")[0]) == set(STOCK)
    assert set(run(images, log="summary")[0]) == {*STOCK, *summary}
    everything = {f"{category}/{metric}" for category in "ab" for metric in METRICS}
    assert set(values) == {*STOCK, *summary, *everything}


def test_validation_metrics_can_be_monitored(tmp_path) -> None:
    images = make_images(count=12)
    evaluator = UnifiedEvaluator(validation=["pixel_ap", "image_f1max"])
    checkpoint = ModelCheckpoint(tmp_path, monitor="val_mean_pixel_ap", mode="max")
    stopping = EarlyStopping("val_mixed_image_f1max", mode="max", patience=1)
    trainer = make_trainer(max_epochs=5, callbacks=[checkpoint, stopping], enable_checkpointing=True)
    trainer.fit(GivenModel(evaluator=evaluator), images.loader(), images.loader())
    assert trainer.current_epoch == 2
    assert float(checkpoint.best_model_score) == pytest.approx(float(trainer.callback_metrics["val_mean_pixel_ap"]))
    assert not [key for key in torch.load(checkpoint.best_model_path)["state_dict"] if "evaluator" in key]


def test_validation_without_metrics() -> None:
    images = make_images(count=12)
    assert make_trainer().validate(GivenModel(evaluator=UnifiedEvaluator(validation=[])), images.loader()) == [{}]


def test_a_second_test_starts_anew(capsys: pytest.CaptureFixture) -> None:
    first, second = make_images(0, count=12), make_images(1, count=9)
    evaluator = UnifiedEvaluator()
    model, trainer = GivenModel(evaluator=evaluator), make_trainer()
    trainer.test(model, first.loader(), verbose=False)
    callbacks = list(map(type, trainer.callbacks))
    again = trainer.test(model, second.loader(), verbose=False)[0]
    assert len(evaluator.images) == 9
    assert list(map(type, trainer.callbacks)) == callbacks
    fresh = make_trainer().test(GivenModel(evaluator=UnifiedEvaluator()), second.loader(), verbose=False)[0]
    assert again == pytest.approx(fresh, nan_ok=True)
    assert capsys.readouterr().out.count("One model for all categories") == 3


def test_nan_scores_name_the_image() -> None:
    images = make_images(count=12)
    images.maps[7, 3, 3] = np.nan
    evaluator = UnifiedEvaluator()
    with pytest.raises(ValueError, match=r"NaN for image 007\.png"):
        make_trainer().test(GivenModel(evaluator=evaluator, post_processor=False), images.loader(), verbose=False)


def test_copies_and_checkpoints(tmp_path) -> None:
    images = make_images(count=12)
    expected, evaluator = run(images, fpr_limit=0.1)
    model = GivenModel(evaluator=UnifiedEvaluator(fpr_limit=0.1, print_table=False))
    trainer = make_trainer(max_epochs=1)
    trainer.fit(model, images.loader(), images.loader())
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = GivenModel.load_from_checkpoint(tmp_path / "model.ckpt", evaluator=UnifiedEvaluator(fpr_limit=0.1))
    for other in (copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        assert make_trainer().test(other, images.loader(), verbose=False)[0] == pytest.approx(expected, nan_ok=True)
    copied = pickle.loads(pickle.dumps(UnifiedEvaluator(validation=["aupro"])))
    assert copied.validation == ("aupro",)
    assert len(evaluator.images) == 12


def test_barebones_and_engine(tested, tmp_path) -> None:
    images, expected, _ = tested
    for barebones in (False, True):
        engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, barebones=barebones)
        model = GivenModel(evaluator=UnifiedEvaluator(print_table=False))
        engine.validate(model, images.loader())
        values = engine.test(model, images.loader(), verbose=False)[0]
        assert {name: float(values[name]) for name in expected} == pytest.approx(expected, nan_ok=True)


def test_command_line_takes_it_by_its_path() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--evaluator", type=Evaluator | bool)
    path = "anomalib_unias.metrics.UnifiedEvaluator"
    arguments = parser.parse_args([f"--evaluator={path}", "--evaluator.log=summary", "--evaluator.validation=[aupro]"])
    evaluator = parser.instantiate_classes(arguments).evaluator
    assert isinstance(evaluator, UnifiedEvaluator)
    assert (evaluator.logged, evaluator.validation) == ("summary", ("aupro",))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\['f1'\], which do not exist; expected some of \['image_auroc'"):
        UnifiedEvaluator(validation=["f1"])
    with pytest.raises(ValueError, match="missed_defects"):
        UnifiedEvaluator(validation=["missed_defects"])
    with pytest.raises(ValueError, match="'all', 'summary' or 'stock', got 'none'"):
        UnifiedEvaluator(log="none")
    with pytest.raises(ValueError, match="fpr_limit"):
        UnifiedEvaluator(fpr_limit=2)


@pytest.mark.parametrize("name", ["mean", "mixed", "gap"])
def test_data_called_like_a_summary_is_refused_before_the_training(name, tmp_path, write_category) -> None:
    """Its metrics could not be told from those of the summary, which is found out at the end of a test."""
    data = MVTecAD(root=write_category(tmp_path, name), category=name, num_workers=0)
    model = Padim(backbone="resnet18", pre_trained=False, evaluator=UnifiedEvaluator())
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False)
    with pytest.raises(ValueError, match=f"cannot be called {name}"):
        engine.fit(model, datamodule=data)
    assert engine.trainer.global_step == 0
