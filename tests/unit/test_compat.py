"""Each test runs what anomalib or Lightning does by itself, and fails once that is mended or made public.

Then what its docstring names can go from ``anomalib_unias.compat``, or from where it is.
"""

import ast
import copy
import gc
import inspect
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anomalib.models
import numpy as np
import openvino
import pandas as pd
import pytest
import torch
from anomalib.cli import AnomalibCLI
from anomalib.data import ImageBatch, ImageItem, InferenceBatch, MVTecAD, MVTecAD2, Tabular
from anomalib.data.utils import read_image
from anomalib.data.utils.synthetic import SyntheticAnomalyDataset
from anomalib.deploy import OpenVINOInferencer, TorchInferencer
from anomalib.engine import Engine
from anomalib.metrics import F1AdaptiveThreshold
from anomalib.models import Stfpm, get_model
from anomalib.models.components import AnomalibModule
from anomalib.models.components.base.export_mixin import ExportMixin
from anomalib.models.components.sampling import KCenterGreedy
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.utils.path import generate_output_filename
from jsonargparse import ArgumentParser
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.trainer.states import TrainerFn
from openvino import opset13
from PIL import Image
from tests.integration.cada_detector import Detector
from torch import nn
from torch.utils.data import DataLoader, RandomSampler
from torchvision.transforms.v2 import Resize

import anomalib_unias.compat
from anomalib_unias.compat.inferencers import TrustingTorchInferencer, UncachedOpenVINOInferencer
from anomalib_unias.compat.scores import SCORE_BUFFERS
from anomalib_unias.compat.trainer import validate_within_fit
from tensor_sizes import TensorSizes

PLACE = Path(anomalib_unias.compat.__file__).parent


def test_everything_in_there_has_a_test() -> None:
    nodes = [node for path in PLACE.glob("*.py") for node in ast.parse(path.read_text(encoding="utf-8")).body]
    names = [node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    described = " ".join(test.__doc__ or "" for name, test in globals().items() if name.startswith("test_"))
    own = {"CheckpointFileError", "mvtec_directory"}  # an exception and a helper of two functions
    assert len(names) > 20
    assert not [name for name in names if f"``{name}``" not in described and name not in own and name[0] != "_"]


# --- trainer ---------------------------------------------------------------------------------------------------------


class Line(LightningModule):
    """A model of one weight, on the numbers 0 to 3."""

    def __init__(self, numbers=(0.0, 1.0, 2.0, 3.0)):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.numbers = numbers
        self.steps = 0

    def training_step(self, batch, _index):
        self.steps += 1
        return (self.weight * batch).square().mean()

    def validation_step(self, _batch, _index):
        self.log("error", 1.0)

    def train_dataloader(self):
        return DataLoader(self.numbers)

    val_dataloader = train_dataloader

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer_of(*callbacks: Callback, **arguments: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    keep = {"enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks)}
    return Trainer(accelerator="cpu", callbacks=list(callbacks), **{**quiet, **keep, "max_epochs": 1, **arguments})


def test_lightning_still_sets_limits_before_any_hook() -> None:
    """``AttachedBeforeLimits``."""
    seen = []

    class Curious(Line):
        def configure_callbacks(self):
            seen.append(self.trainer.max_epochs)
            self.trainer.fit_loop.max_epochs = 0  # no training
            return []

    trainer_of(max_epochs=None).fit(Curious())
    assert seen == [1000]


def test_lightning_still_ends_a_fit_by_a_validation() -> None:
    """``validate_within_fit``."""
    seen = []

    class Validates(Callback):
        def on_train_end(self, trainer, module):
            trainer.validate(module, verbose=False)

        def on_fit_end(self, trainer, _module):
            seen.append(trainer.state.fn)

    trainer_of(Validates(), limit_train_batches=1).fit(Line())
    assert not seen


def test_lightning_still_stops_for_a_step_that_is_validated_again() -> None:
    """``validate_again``."""
    stop = EarlyStopping("error", patience=9, check_on_train_epoch_end=False)

    class Validates(Callback):
        def on_train_end(self, trainer, _module):
            assert stop.wait_count == 0
            validate_within_fit(trainer)

    trainer_of(Validates(), stop, limit_train_batches=1).fit(Line())
    assert stop.wait_count == 1


def test_lightning_still_goes_on_counting_with_another_model() -> None:
    """``reset_progress``."""
    trainer, second = trainer_of(max_steps=2, max_epochs=-1), Line()
    trainer.fit(Line())
    trainer.fit(second)
    assert (trainer.global_step, second.steps) == (2, 0)
    assert trainer.fit_loop.epoch_loop._batches_that_stepped == 2


def test_lightning_still_does_not_restore_the_step_of_the_last_checkpoint(tmp_path: Path) -> None:
    """``reset_callback``."""
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=1)
    new = copy.deepcopy(keep.state_dict())
    trainer_of(keep, max_steps=1).fit(Line())
    keep.load_state_dict({**new, "dirpath": keep.dirpath})
    assert keep._last_global_step_saved == 1


def test_lightning_still_has_no_interval_of_validations_by_time() -> None:
    """``validation_interval``."""
    assert trainer_of().val_check_interval == 1.0
    assert not hasattr(trainer_of(val_check_interval="00:00:01:00"), "val_check_interval")


class CountsSteps(Line):
    """Reads the length of the run, and has other numbers afterwards."""

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches == 4
        return super().configure_optimizers()

    def on_fit_start(self):
        self.numbers = [0.0]


def test_lightning_still_keeps_the_loader_that_it_has_counted() -> None:
    """``discard_train_loader``."""
    model = CountsSteps()
    trainer = trainer_of()
    trainer.fit(model)
    assert model.steps == 4
    assert trainer.fit_loop._combined_loader is not None


def test_lightning_still_draws_a_number_before_the_first_epoch_begins() -> None:
    """``train_fetcher``."""
    generator, drawn = torch.Generator().manual_seed(0), []
    before = generator.get_state()

    class Drawn(Line):
        def train_dataloader(self):
            return DataLoader(self.numbers, generator=generator)

        def on_train_epoch_start(self):
            assert hasattr(self.trainer.fit_loop._data_fetcher, "iterator")
            drawn.append(not torch.equal(generator.get_state(), before))

    trainer_of(limit_val_batches=0).fit(Drawn())
    assert drawn == [True]


def test_lightning_still_hides_the_sampler_that_it_wraps() -> None:
    """``wrapped_sampler``."""
    sampler = RandomSampler(range(4))
    wrapper = DistributedSamplerWrapper(sampler, num_replicas=2, rank=0)
    assert wrapper.dataset._sampler is sampler
    assert sampler not in [value for name, value in vars(wrapper).items() if not name.startswith("_")]


def test_lightning_still_refuses_to_clip_a_fused_optimiser() -> None:
    """``can_clip_fused``."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(()))], fused=True)
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        MixedPrecision("bf16-mixed", "cpu").clip_gradients(optimizer, clip_val=1.0)


# --- checkpoints -----------------------------------------------------------------------------------------------------


def saved(model: AnomalibModule, path: Path) -> Path:
    """Write a checkpoint as a trainer would."""
    checkpoint = {
        "state_dict": model.state_dict(),
        "pytorch-lightning_version": "2.6.0",
        "hyper_parameters": dict(model.hparams),
    }
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path


def test_lightning_still_does_not_name_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    """``CheckedCheckpointIO``."""
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    with pytest.raises(KeyError) as caught:
        Detector.load_from_checkpoint(tmp_path / "other.ckpt")
    assert "other.ckpt" not in str(caught.value)


def test_anomalib_still_does_not_save_the_transforms_of_others() -> None:
    """``keep_transform``."""

    class Own(Resize):
        pass

    assert "Resize" in str(PreProcessor(transform=Resize((8, 8))).checkpoint_config())
    assert PreProcessor(transform=Own((8, 8))).checkpoint_config()["transform"] is None


def test_anomalib_still_loses_the_class_of_the_post_processor(tmp_path: Path) -> None:
    """``keep_post_processor``."""

    class Special(PostProcessor):
        pass

    path = saved(Detector(post_processor=Special()), tmp_path / "model.ckpt")
    assert type(Detector.load_from_checkpoint(path).post_processor) is PostProcessor


# --- scores ----------------------------------------------------------------------------------------------------------


def test_buffers_of_anomalib_still_have_these_names() -> None:
    """``SCORE_BUFFERS``."""
    assert {name for name, _ in PostProcessor().named_buffers(recurse=False)} == set(SCORE_BUFFERS)


def test_anomalib_still_predicts_labels_without_a_threshold() -> None:
    """``has_threshold``."""
    scores = torch.tensor([0.2, 3.0])
    predicted = PostProcessor()(InferenceBatch(pred_score=scores, anomaly_map=scores[:, None, None, None]))
    assert predicted.pred_label is not None


def test_anomalib_still_sets_no_threshold() -> None:
    """``set_thresholds``."""
    with pytest.raises((AttributeError, TypeError)):
        PostProcessor().image_threshold = torch.tensor(1.0)


def test_anomalib_still_takes_no_metric_for_the_threshold() -> None:
    """``set_threshold_metrics``."""
    arguments = inspect.signature(PostProcessor).parameters
    assert not [name for name in arguments if "metric" in name or name.endswith("threshold")]
    assert isinstance(PostProcessor()._image_threshold_metric, F1AdaptiveThreshold)
    assert isinstance(PostProcessor()._pixel_threshold_metric, F1AdaptiveThreshold)


def test_anomalib_still_does_not_tell_a_post_processor_its_model(tmp_path: Path) -> None:
    """``watch_for_owner``."""
    received = []

    class Curious(PostProcessor):
        def setup(self, trainer, pl_module, stage):
            received.append(pl_module)
            super().setup(trainer, pl_module, stage)

        def load_checkpoint_config(self, *args, **kwargs):
            received.extend([*args, *kwargs.values()])
            super().load_checkpoint_config(*args, **kwargs)

        def forward(self, *args, **kwargs):
            received.extend([*args, *kwargs.values()])
            return super().forward(*args, **kwargs)

    path = saved(Detector(), tmp_path / "model.ckpt")
    model = Detector.load_from_checkpoint(path, post_processor=Curious())
    model.eval()(torch.rand(1, 3, 32, 32))
    assert [type(each) for each in received] == [dict, InferenceBatch]
    assert not any(value is model for value in vars(model.post_processor).values())


def test_torch_still_copies_hooks_and_does_not_list_them() -> None:
    """``is_hooked``."""
    module, seen = nn.Identity(), []
    module.register_forward_pre_hook(lambda *_: seen.append("before"))
    module.register_forward_hook(lambda *_: seen.append("after"))
    copy.deepcopy(module)(torch.zeros(1))
    assert seen == ["before", "after"]
    assert (len(module._forward_pre_hooks), len(module._forward_hooks)) == (1, 1)
    assert not [name for name in dir(nn.Module) if name.endswith("hooks") and not name.startswith("_")]


def test_anomalib_still_clamps() -> None:
    """``OrderPreservingPostProcessor`` and ``RawScores``."""
    scores = torch.tensor([1.5, 4.0, 4000.0])
    assert PostProcessor._normalize(scores, *torch.tensor([0.0, 2.0, 0.2])).tolist() == [1.0, 1.0, 1.0]


def test_anomalib_still_misses_the_lowest_defect() -> None:
    """``F1Threshold``: labels are given to scores above the threshold, and it is a score of a defect."""
    metric = F1AdaptiveThreshold(fields=["pred_score", "gt_label"])
    labels, scores = torch.tensor([0, 0, 1, 1]), torch.tensor([0.1, 0.2, 0.6, 0.9])
    metric.update(ImageBatch(image=torch.zeros(4, 3, 1, 1), gt_label=labels, pred_score=scores))
    assert metric.compute() == pytest.approx(0.6)


# --- export ----------------------------------------------------------------------------------------------------------


def test_an_export_of_anomalib_still_asks_for_an_older_opset_and_ends_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``QUIET_ONNX`` and ``preserved_modes``; torch is only asked."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch.onnx, "export", lambda *_args, **arguments: asked.update(arguments))
    model = Detector().train()
    model.to_onnx(tmp_path)
    assert asked["opset_version"] == 14
    assert not model.training


def test_anomalib_still_writes_a_cache_into_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``UncachedOpenVINOInferencer``."""
    image = opset13.parameter([1, 3, 8, 8], name="input")
    openvino.save_model(openvino.Model([opset13.relu(image)], [image]), tmp_path / "model.xml")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    UncachedOpenVINOInferencer(tmp_path / "model.xml", "CPU")
    assert not list((tmp_path / "here").iterdir())
    OpenVINOInferencer(tmp_path / "model.xml", device="CPU")
    cache = tmp_path / "here" / "openvino_cache"
    (cached,) = cache.iterdir()
    UncachedOpenVINOInferencer(tmp_path / "model.xml", "CPU")
    assert list(cache.iterdir()) == [cached]


def test_anomalib_still_asks_the_environment_whether_a_file_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``TrustingTorchInferencer``."""
    monkeypatch.delenv("TRUST_REMOTE_CODE", raising=False)
    torch.save({"model": nn.Identity()}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="TRUST_REMOTE_CODE"):
        TorchInferencer(tmp_path / "model.pt", device="cpu")
    assert isinstance(TrustingTorchInferencer(tmp_path / "model.pt", device="cpu").model, nn.Identity)


def test_anomalib_still_quantises_in_private() -> None:
    """``CustomQuantization``."""
    private = {"_post_training_quantization_ov", "_accuracy_control_quantization_ov"}
    assert {name for name in vars(ExportMixin) if "quantiz" in name} == private
    assert "ignored_scope" not in inspect.getsource(ExportMixin._post_training_quantization_ov)


def test_anomalib_still_exports_without_anti_aliasing() -> None:
    """``ExportableResize``."""
    assert PreProcessor(transform=Resize((8, 8), antialias=True)).export_transform.antialias is False


# --- data ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, write_category: Callable[..., Path]) -> Path:
    """``plate``, and ``lid``, which has no masks."""
    root = write_category(tmp_path_factory.mktemp("products"), "plate", size=40, train=9)
    shutil.rmtree(write_category(root, "lid", size=40) / "lid" / "ground_truth")
    return root


def plate(root: Path, **arguments: Any) -> MVTecAD:
    return MVTecAD(root, "plate", num_workers=0, **arguments)


def test_anomalib_still_splits_again(root: Path) -> None:
    """``set_up_for_test``."""
    data = plate(root, val_split_mode="from_test")
    data.setup("test")
    first = data.test_data
    data.setup(TrainerFn.TESTING)
    assert data.test_data is not first
    again = data.test_data
    data.setup(TrainerFn.TESTING)
    assert data.test_data is again


def test_anomalib_still_cannot_read_a_category_without_masks(root: Path) -> None:
    """``image_level_folder``."""
    with pytest.raises(ValueError, match="equal len keys"):
        MVTecAD(root, "lid").setup()


def test_anomalib_still_cannot_read_masks_of_a_csv_file(root: Path, tmp_path: Path) -> None:
    """``loosen_column_types``."""
    rows = [
        ("train/good/000.png", 0, "train", None),
        ("test/square/000.png", 1, "test", "ground_truth/square/000_mask.png"),
    ]
    table = pd.DataFrame(rows, columns=["image_path", "label_index", "split", "mask_path"])
    table.to_csv(tmp_path / "plate.csv", index=False)
    with pytest.raises(TypeError, match="dtype 'str'"):
        Tabular.from_file("plate", tmp_path / "plate.csv", root=root / "plate").setup()


@pytest.fixture
def mvtec_ad2(tmp_path: Path, root: Path) -> MVTecAD2:
    source, can = root / "plate", tmp_path / "can"
    for split, name in (("train", "train/good"), ("validation", "train/good"), ("test_public", "test/good")):
        shutil.copytree(source / name, can / split / "good")
    shutil.copytree(source / "test" / "square", can / "test_public" / "bad")
    shutil.copytree(source / "ground_truth" / "square", can / "test_public" / "ground_truth" / "bad")
    for private in ("test_private", "test_private_mixed"):
        shutil.copytree(source / "test" / "good", can / private)
    data = MVTecAD2(root=tmp_path, category="can", num_workers=0)
    data.setup()
    return data


def test_anomalib_still_loses_normal_test_images_of_mvtec_ad2(mvtec_ad2: MVTecAD2) -> None:
    """``use_dataloader_test_data``."""
    assert not mvtec_ad2.test_data.has_normal
    assert mvtec_ad2.test_dataloader().dataset.has_normal


@pytest.mark.skipif(int(pd.__version__.split(".")[0]) < 3, reason="only with the strings of pandas 3")
def test_anomalib_still_cannot_read_normal_images_of_mvtec_ad2(mvtec_ad2: MVTecAD2) -> None:
    """``fill_missing_masks``."""
    with pytest.raises(TypeError, match="Path must be"):
        _ = mvtec_ad2.train_data[0]


def test_anomalib_still_loses_the_task_with_the_samples(root: Path) -> None:
    """``replace_column``."""
    data = plate(root)
    data.setup()
    task = data.test_data.task
    data.test_data.samples = pd.DataFrame(data.test_data.samples.to_dict("list"))
    assert "task" not in data.test_data.samples.attrs
    assert task is not None


def test_anomalib_still_makes_the_string_none_of_a_missing_mask_path() -> None:
    """``text_of_mask_path``."""
    items = [ImageItem(image=torch.rand(3, 4, 4), mask_path=path) for path in ("mask.png", None)]
    assert ImageBatch.collate(items).mask_path == ["mask.png", "None"]


def test_anomalib_still_deletes_synthetic_files_with_a_copy(root: Path) -> None:
    """``keep_synthetic_files``."""
    data = plate(root, val_split_mode="synthetic")
    data.setup()
    assert isinstance(data.val_data, SyntheticAnomalyDataset)
    copied = copy.deepcopy(data.val_data)
    del copied
    gc.collect()
    assert not data.val_data.root.exists()


def test_anomalib_still_combines_augmentations_with_its_own_trainer_alone(root: Path) -> None:
    """``combine_augmentations``."""
    data = plate(root)
    data.setup()
    assert data.train_data.augmentations is None
    model = Detector()
    data.trainer = type("Attached", (), {"model": model})()
    data._update_augmentations()
    assert isinstance(data.train_data.augmentations, Resize)


def test_anomalib_still_draws_synthetic_defects_from_global_generators(root: Path) -> None:
    """``seeded``."""

    def normal_names() -> tuple[str, ...]:
        data = plate(root, val_split_mode="synthetic", val_split_ratio=0.9, seed=0)
        data.setup()
        return tuple(sorted(data.val_data.samples.image_path[data.val_data.samples.label_index == 0]))

    np.random.seed(0)  # noqa: NPY002
    assert len({normal_names() for _ in range(4)}) > 1


def test_anomalib_still_splits_in_these_functions(root: Path) -> None:
    """``CombinedDataModule`` overrides them."""
    called = []

    class Spy(MVTecAD):
        def _setup(self, _stage=None):
            called.append("_setup")
            super()._setup(_stage)

        def _create_test_split(self):
            called.append("_create_test_split")

        def _create_val_split(self):
            called.append("_create_val_split")

        def _update_augmentations(self):
            called.append("_update_augmentations")

    Spy(root, "plate").setup()
    assert called == ["_setup", "_create_test_split", "_create_val_split", "_update_augmentations"]


def test_anomalib_still_overwrites_pictures_if_the_name_is_not_in_the_path() -> None:
    """``CombinedDataModule`` would not need the name of its directory."""
    names = {
        generate_output_filename(f"/x/{category}/test/good/0.png", "/images", "MVTecAD", mkdir=False)
        for category in ("bottle", "cable")
    }
    assert len(names) == 1


def test_anomalib_still_reads_deep_images_as_white(tmp_path: Path) -> None:
    """``ImageCheck``, and ``check_header`` would not have to refuse them."""
    Image.fromarray(np.full((8, 8), 3000, np.uint16)).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png").min() == 1


# --- models ----------------------------------------------------------------------------------------------------------


def test_anomalib_still_lets_the_model_overrule_the_user(tmp_path: Path) -> None:
    """``RunLength``: ``trainer_arguments`` could say the default length."""

    class Stubborn(Stfpm):
        @property
        def trainer_arguments(self):
            return {"max_steps": 7}

    run = Engine(default_root_dir=tmp_path, max_steps=3)
    run._setup_trainer(Stubborn.__new__(Stubborn))
    assert run.trainer.max_steps == 7


def test_anomalib_still_finds_models_in_private() -> None:
    """``model_class``."""
    assert anomalib.models._get_model_class_by_name("stfpm") is Stfpm
    functions = {name for name, value in vars(anomalib.models).items() if inspect.isfunction(value)}
    assert {name for name in functions if "model" in name and name[0] != "_"} == {"get_model", "list_models"}


def test_the_command_of_anomalib_still_ignores_its_seed() -> None:
    """README: the demo cannot set a seed."""
    torch.manual_seed(1)
    cli = AnomalibCLI(
        ["train", "--model", "Padim", "--model.pre_trained", "false", "--seed_everything", "3"], run=False
    )
    assert cli.config["train"]["seed_everything"] == 3
    assert torch.initial_seed() == 1


def test_the_benchmark_of_anomalib_still_takes_plain_values_alone() -> None:
    """``assemble``."""
    arguments = {"backbone": "resnet18", "pre_trained": False, "post_processor": {"class_path": "PostProcessor"}}
    with pytest.raises(TypeError):
        get_model({"class_path": "Padim", "init_args": arguments})


def test_anomalib_still_copies_all_patches_for_each_choice() -> None:
    """``farthest_points``."""
    selection = KCenterGreedy(torch.rand(50, 1, 16), 0.1)
    selection.features = selection.embedding.flatten(1)
    with TensorSizes("sub") as recorded:
        selection.update_distances(0)
    assert max(recorded.sizes) == 50 * 16


# --- malformed input that libraries do not name: the crashes in benchmarks/results/robustness.csv ---------------------


def test_jsonargparse_still_does_not_name_a_configuration_that_is_no_text(tmp_path: Path) -> None:
    """``anomalib train --config FILE`` fails before this package is called."""
    path = tmp_path / "settings.yaml"
    path.write_bytes(b"seed: \xff\n")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    with pytest.raises(UnicodeDecodeError) as error:
        parser.parse_args(["--config", str(path)])
    assert path.name not in str(error.value)


def test_anomalib_still_does_not_name_a_table_that_is_none(tmp_path: Path) -> None:
    """``Tabular.from_file`` fails before this package is called."""
    path = tmp_path / "table.csv"
    path.write_bytes(b"image_path,\xff\n")
    with pytest.raises(UnicodeDecodeError) as error:
        Tabular.from_file("table", path)
    assert path.name not in str(error.value)
