"""Several categories as one datamodule."""

import copy
import gc
import inspect
import logging
import pickle
import shutil
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import anomalib.data
import numpy as np
import pandas as pd
import pytest
import torch
from anomalib import TaskType
from anomalib.data import (
    AnomalibDataModule,
    Folder,
    MVTecAD,
    UnknownDatamoduleError,
    get_datamodule,
)
from anomalib.utils.path import generate_output_filename
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from omegaconf import OmegaConf
from PIL import Image
from torchvision.transforms.v2 import RandomHorizontalFlip, Resize

from anomalib_unias.data.checks import check_training_data
from anomalib_unias.data.combined import CombinedDataModule
from anomalib_unias.data.errors import CategoryError, MaskSizeError, MissingMaskError, UnreadableImageError
from anomalib_unias.data.sampling import training_sampler
from anomalib_unias.data.unified import UnifiedDataModule

WriteCategory = Callable[..., Path]

CONFIGS = sorted((Path(__file__).parents[3] / "configs" / "data").glob("unified_*.yaml"))


@pytest.fixture
def root(tmp_path: Path, write_category: WriteCategory) -> Path:
    """``bottle`` in colour, ``cable`` in grey and of another size."""
    root = write_category(tmp_path / "products", "bottle", size=40)
    write_category(root, "cable", size=48, train=9)
    for path in (root / "cable").rglob("*.png"):
        Image.open(path).convert("L").resize((32, 48)).save(path)
    return root


@pytest.fixture
def root_with_lid(root: Path, write_category: WriteCategory) -> Path:
    """The same and ``lid``, which has no masks."""
    shutil.rmtree(write_category(root, "lid", size=40) / "lid" / "ground_truth")
    return root


def _unified(root: Path, **arguments: object) -> UnifiedDataModule:
    defaults = {"num_workers": 0, "eval_batch_size": 4, "augmentations": Resize((16, 16)), "seed": 0}
    return UnifiedDataModule(root=root, **{**defaults, **arguments})


def _set_up(root: Path, **arguments: object) -> UnifiedDataModule:
    datamodule = _unified(root, **arguments)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def _paths(frame: pd.DataFrame) -> list[str]:
    return sorted(frame.image_path)


def _names(data: object, category: str) -> list[str]:
    frame = data.samples
    return sorted(Path(path).name for path in frame[frame.category == category].image_path)


# --- which categories -----------------------------------------------------------------------------------------------


def test_all_finds_the_categories_in_the_root(root: Path) -> None:
    (root / "notes").mkdir()
    assert _unified(root).categories == ["bottle", "cable"]
    assert _unified(root, categories="cable").categories == ["cable"]
    assert _unified(root, categories=("cable", "bottle")).categories == ["cable", "bottle"]


def test_all_means_the_known_categories_where_nothing_is_on_disk_yet(tmp_path: Path) -> None:
    assert len(UnifiedDataModule("MVTecAD", root=tmp_path / "none").categories) == 15
    assert UnifiedDataModule("BTech", root=tmp_path / "none").categories == ["01", "02", "03"]
    assert len(UnifiedDataModule("RealIAD", root=tmp_path).categories) == 30


@pytest.mark.parametrize(
    ("datamodule", "directories"),
    [("Visa", "visa_pytorch/{}/train"), ("RealIAD", "realiad_512/{}/OK"), ("BTech", "{}/train")],
)
def test_all_in_the_layouts_of_other_data_sets(tmp_path: Path, datamodule: str, directories: str) -> None:
    names = {"Visa": ["candle", "pcb1"], "RealIAD": ["audiojack", "zipper"], "BTech": ["01", "03"]}[datamodule]
    for name in names:
        (tmp_path / directories.format(name)).mkdir(parents=True)
    assert UnifiedDataModule(datamodule, root=tmp_path).categories == names


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([], "No category given"),
        (["bottle", ""], "Empty category name"),
        (["bottle", "cable", "bottle"], r"more than once: \['bottle'\]"),
        (["botle"], r"Unknown categories \['botle'\] of MVTecAD in .*products.*Did you mean \['bottle'\]"),
    ],
)
def test_wrong_categories(root: Path, categories: list[str], message: str) -> None:
    with pytest.raises(CategoryError, match=message):
        _unified(root, categories=categories)


def test_categories_that_are_no_strings(root: Path) -> None:
    with pytest.raises(TypeError, match="Quote it in YAML"):
        _unified(root, categories=[1, 2])


def test_no_category_to_be_found(tmp_path: Path) -> None:
    with pytest.raises(CategoryError, match="No category of Folder found in"):
        UnifiedDataModule("Folder", root=tmp_path / "none")


@pytest.mark.parametrize(("name", "error"), [("Mvtec", UnknownDatamoduleError), ("Avenue", TypeError)])
def test_wrong_datamodule(name: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="MVTecAD"):
        UnifiedDataModule(name)


def test_arguments_that_the_datamodule_does_not_take(root: Path) -> None:
    with pytest.raises(TypeError, match="MVTecAD takes no argument colour"):
        _unified(root, datamodule_args={"colour": "red"})
    with pytest.raises(CategoryError, match="lid"):
        _unified(root, category_args={"lid": {"seed": 1}})
    with pytest.raises(ValueError, match="'natural' or 'balanced'"):
        _unified(root, sampling="fair")


# --- how the parts are built ----------------------------------------------------------------------------------------


def test_dotted_path_and_arguments_of_single_categories(root: Path) -> None:
    datamodule = _unified(
        root,
        datamodule="anomalib.data.MVTecAD",
        datamodule_args={"val_split_mode": "from_test"},
        category_args={"cable": {"val_split_mode": "from_train", "seed": 7}},
    )
    parts = datamodule.datamodules
    assert all(type(part) is MVTecAD for part in parts.values())
    assert [part.val_split_mode.value for part in parts.values()] == ["from_test", "from_train"]
    assert [part.seed for part in parts.values()] == [0, 7]
    assert not datamodule.validates_on_test
    assert _unified(root).validates_on_test


def test_folders(root: Path, tmp_path: Path, write_category: WriteCategory) -> None:
    write_category(tmp_path / "elsewhere", "lid", size=40)
    datamodule = _set_up(
        root,
        datamodule="Folder",
        categories=["bottle", "cable", "lid"],
        datamodule_args={"normal_dir": "train/good", "abnormal_dir": "test/square", "normal_test_dir": "test/good"},
        category_args={
            "bottle": {"mask_dir": "ground_truth/square"},
            "lid": {"root": tmp_path / "elsewhere" / "lid"},
        },
        val_split_mode="same_as_test",
    )
    assert [part.name for part in datamodule.datamodules.values()] == ["bottle", "cable", "lid"]
    assert Counter(datamodule.train_data.samples.category) == {"bottle": 6, "cable": 9, "lid": 6}
    assert datamodule.task == TaskType.SEGMENTATION


def test_from_the_benchmark_configuration(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anomalib.data, "UnifiedDataModule", UnifiedDataModule, raising=False)
    arguments = {
        "datamodule": "Folder",
        "categories": ["bottle"],
        "root": str(root),
        "num_workers": 0,
        "datamodule_args": {"normal_dir": "train/good", "abnormal_dir": ["test/square"]},
    }
    config = OmegaConf.create({"data": {"class_path": "UnifiedDataModule", "init_args": arguments}})
    datamodule = get_datamodule(config)
    datamodule.setup()
    assert isinstance(datamodule, UnifiedDataModule)
    assert type(datamodule.datamodules["bottle"].abnormal_dir) is list
    assert len(datamodule.train_data) > 0


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_example_configurations(config: Path) -> None:
    datamodule = AnomalibDataModule.from_config(config)
    assert isinstance(datamodule, UnifiedDataModule)
    assert len(datamodule.categories) > 1


def test_example_configurations_are_there() -> None:
    assert len(CONFIGS) >= 3


def test_every_argument_is_documented_and_typed() -> None:
    for datamodule in (UnifiedDataModule, CombinedDataModule):
        parameters = inspect.signature(datamodule).parameters.values()
        assert all(f"    {parameter.name} (" in datamodule.__doc__ for parameter in parameters)
        assert all(parameter.annotation is not inspect.Parameter.empty for parameter in parameters)


# --- names and paths ------------------------------------------------------------------------------------------------


def test_name_keeps_pictures_of_two_categories_apart(root: Path) -> None:
    datamodule = _set_up(root)
    assert datamodule.name == "products"
    assert datamodule.category == "unified"
    pictures = [
        generate_output_filename(path, root.parent / "images", datamodule.name, datamodule.category, mkdir=False)
        for path in datamodule.test_data.samples.image_path
    ]
    assert len(set(pictures)) == len(datamodule.test_data)


@pytest.mark.parametrize(
    ("datamodule", "directory", "name"),
    [("MVTecAD", "mvtecad", "MVTecAD"), ("MVTecAD", "screws", "screws"), ("MVTecAD", "MVTecAD/v1", "MVTecAD")],
)
def test_name_of_the_data_set(tmp_path: Path, datamodule: str, directory: str, name: str) -> None:
    assert UnifiedDataModule(datamodule, ["bottle"], root=tmp_path / directory).name == name


def test_names_of_combined_datamodules(root: Path) -> None:
    bottle = MVTecAD(root=root, category="bottle")
    folder = Folder(name="lid", root=root.parent / "lid", normal_dir="good")
    assert CombinedDataModule({"bottle": bottle, "lid": folder}).name == root.parent.name
    assert CombinedDataModule({"bottle": bottle, "lid": folder}, name="line").name == "line"
    assert (
        CombinedDataModule({"bottle": bottle, "lid": Folder(name="lid", normal_dir="/good")}).name == "Folder+MVTecAD"
    )
    with pytest.raises(ValueError, match="No datamodules"):
        CombinedDataModule({})


# --- splits ---------------------------------------------------------------------------------------------------------

SPLITS = [
    ("from_dir", "none"),
    ("from_dir", "from_train"),
    ("from_dir", "from_test"),
    ("from_dir", "same_as_test"),
    ("none", "same_as_test"),
    ("none", "none"),
]


@pytest.mark.parametrize(("test_mode", "val_mode"), SPLITS)
def test_each_category_keeps_the_split_of_its_own_datamodule(root: Path, test_mode: str, val_mode: str) -> None:
    modes = {"test_split_mode": test_mode, "val_split_mode": val_mode, "val_split_ratio": 0.34, "seed": 3}
    datamodule = _set_up(root, **modes)
    for category in datamodule.categories:
        stock = MVTecAD(root=root, category=category, **modes)
        stock.setup()
        for subset in ("train_data", "val_data", "test_data"):
            assert hasattr(datamodule, subset) == hasattr(stock, subset)
            if hasattr(stock, subset):
                joined = getattr(datamodule, subset).samples
                assert _paths(joined[joined.category == category]) == _paths(getattr(stock, subset).samples)
    if val_mode == "none":
        assert datamodule.val_dataloader() == []
    else:
        assert {category for batch in datamodule.val_dataloader() for category in batch.category} == {"bottle", "cable"}


@pytest.mark.parametrize(("test_mode", "val_mode"), [("synthetic", "same_as_test"), ("from_dir", "synthetic")])
def test_synthetic_splits_depend_on_the_seed_only(root: Path, test_mode: str, val_mode: str) -> None:
    def images(seed: int, categories: list[str]) -> tuple[list[str], torch.Tensor]:
        torch.manual_seed(time.time_ns())
        modes = {"test_split_mode": test_mode, "val_split_mode": val_mode, "val_split_ratio": 0.5}
        datamodule = _set_up(root, seed=seed, categories=categories, **modes)
        data = datamodule.val_data
        defective = data.samples[(data.samples.category == "cable") & (data.samples.label_index == 1)]
        assert len(defective) > 0
        assert all(data[index].mask_valid for index in defective.index)
        return _names(data, "cable"), torch.stack([data[index].image for index in defective.index])

    (names, first), (same_names, same) = images(1, ["bottle", "cable"]), images(1, ["cable"])
    assert names == same_names
    assert torch.equal(first, same)
    assert not torch.equal(first, images(2, ["cable"])[1])


def test_synthetic_files_live_as_long_as_the_datamodule(root: Path) -> None:
    datamodule = _set_up(root, test_split_mode="synthetic", val_split_mode="from_test")
    defective = datamodule.test_data.samples[datamodule.test_data.samples.label_index == 1]
    assert {Path(path).parent.name for path in defective.image_path} == {"bottle_synthetic", "cable_synthetic"}
    # What a worker process and subsampling do.
    copies = [pickle.loads(pickle.dumps(datamodule.test_data)), copy.deepcopy(datamodule.test_data)]
    del copies
    gc.collect()
    assert sum(len(batch) for batch in datamodule.test_dataloader()) == len(datamodule.test_data)
    directories = {Path(path).parents[1] for path in defective.image_path}
    del datamodule
    gc.collect()
    assert not any(directory.exists() for directory in directories)


def test_splitting_leaves_the_global_generators_alone(root: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    _set_up(root, val_split_mode="synthetic")
    assert torch.equal(torch.rand(1), expected)


@pytest.fixture
def mvtec_ad2(tmp_path: Path, write_category: WriteCategory) -> Path:
    for category in ("can", "rice"):
        write_category(tmp_path / "source", category, size=40)
        for split, source in {"train": "train", "validation": "train", "test_public": "test"}.items():
            (tmp_path / "mvtec2" / category).mkdir(parents=True, exist_ok=True)
            (tmp_path / "mvtec2" / category / split).symlink_to(tmp_path / "source" / category / source)
        public = tmp_path / "source" / category / "test"
        (public / "square").rename(public / "bad")
        masks = public / "ground_truth" / "bad"
        masks.parent.mkdir()
        (tmp_path / "source" / category / "ground_truth" / "square").rename(masks)
        for private in ("test_private", "test_private_mixed"):
            folder = tmp_path / "mvtec2" / category / private
            folder.mkdir()
            (folder / "000.png").write_bytes((public / "good" / "000.png").read_bytes())
    return tmp_path / "mvtec2"


def test_test_set_chosen_by_the_loader(mvtec_ad2: Path) -> None:
    datamodule = _set_up(mvtec_ad2, datamodule="MVTecAD2")
    labels = torch.cat([batch.gt_label for batch in datamodule.test_dataloader()])
    assert labels.int().bincount().tolist() == [6, 6]
    # Images that nobody has labelled.
    private = _set_up(mvtec_ad2, datamodule="MVTecAD2", datamodule_args={"test_type": "private"})
    (batch,) = private.test_dataloader()
    assert batch.category == ["can", "rice"]
    assert batch.gt_label is None
    assert batch.mask_valid.tolist() == [False, False]


# --- items, masks, augmentations ------------------------------------------------------------------------------------


def test_batches_carry_category_and_ground_truth(root: Path) -> None:
    datamodule = _set_up(root)
    seen = Counter()
    for batch in datamodule.test_dataloader():
        assert batch.image.shape[1:] == (3, 16, 16)
        assert batch.gt_mask.shape[1:] == (16, 16)
        assert batch.mask_valid.all()
        assert torch.equal(batch.gt_mask.flatten(1).any(1), batch.gt_label)
        for item in batch:
            assert Path(item.image_path).is_relative_to(root / item.category)
        seen.update(batch.category)
    assert seen == {"bottle": 6, "cable": 6}


@pytest.mark.parametrize("datamodule", ["MVTecAD", "MPDD"])
def test_category_without_masks(root_with_lid: Path, caplog: pytest.LogCaptureFixture, datamodule: str) -> None:
    with caplog.at_level(logging.WARNING):
        unified = _set_up(root_with_lid, datamodule=datamodule)
    assert "['lid'] have no masks (image-level only)" in caplog.text
    items = [unified.test_data[index] for index in range(len(unified.test_data))]
    assert all(item.gt_mask is not None for item in items)
    invalid = [item for item in items if not item.mask_valid]
    assert {item.category for item in invalid} == {"lid"}
    assert len(invalid) == 3
    assert not any(item.gt_mask.any() for item in invalid)
    assert all(item.gt_label for item in invalid)
    assert all(item.mask_valid for item in items if not item.gt_label)
    # The same images in the same sets as with masks.
    assert Counter(unified.train_data.samples.category)["lid"] == 6
    assert Counter(unified.val_data.samples.category)["lid"] == 6


def _as_btech(root: Path) -> None:
    for path in list(root.rglob("good")):
        path.rename(path.with_name("ok"))
    for mask in (root / "bottle" / "ground_truth").rglob("*.png"):
        mask.rename(mask.with_name(mask.name.replace("_mask", "")))
    (root / "bottle").rename(root / "01")
    (root / "cable").rename(root / "02")


def test_masks_that_are_named_but_do_not_exist(root: Path) -> None:
    """``BTech`` makes the path of a mask up from that of the image."""
    _as_btech(root)
    datamodule = _set_up(root, datamodule="BTech")
    items = [item for batch in datamodule.test_dataloader() for item in batch if item.gt_label]
    assert {item.category: item.mask_valid for item in items} == {"01": True, "02": False}


def test_no_category_has_masks(root: Path) -> None:
    arguments = {"normal_dir": "train/good", "abnormal_dir": "test/square"}
    datamodule = _set_up(root, datamodule="Folder", datamodule_args=arguments)
    assert datamodule.task == TaskType.CLASSIFICATION
    batches = list(datamodule.test_dataloader())
    assert all(batch.gt_mask is None for batch in batches)
    valid = torch.cat([batch.mask_valid for batch in batches])
    assert torch.equal(valid, ~torch.cat([batch.gt_label for batch in batches]))


def test_resize_of_the_model_joins_the_augmentations(root: Path) -> None:
    flip = RandomHorizontalFlip(1.0)
    datamodule = _set_up(root, augmentations=None, train_augmentations=flip)
    datamodule.trainer = SimpleNamespace(
        model=SimpleNamespace(pre_processor=SimpleNamespace(transform=Resize((12, 10))))
    )
    datamodule.setup()
    for dataset in (datamodule.train_data, datamodule.val_data, datamodule.test_data):
        assert {dataset[index].image.shape for index in range(len(dataset))} == {(3, 12, 10)}
    path = datamodule.train_data.samples.image_path[0]
    direct = Resize((12, 10))(flip(torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255))
    assert torch.allclose(datamodule.train_data[0].image, direct, atol=1e-6)


def test_combined_parts_keep_their_own_augmentations(root: Path) -> None:
    parts = {
        name: MVTecAD(root=root, category=name, augmentations=Resize(size), num_workers=0)
        for name, size in {"bottle": (8, 8), "cable": (12, 12)}.items()
    }
    datamodule = CombinedDataModule(parts, num_workers=0, train_batch_size=1)
    datamodule.setup()
    shapes = {batch.category[0]: tuple(batch.image.shape[-2:]) for batch in datamodule.train_dataloader()}
    assert shapes == {"bottle": (8, 8), "cable": (12, 12)}


def test_dataset_can_be_subsampled(root: Path) -> None:
    data = _set_up(root).test_data
    subset = data.subsample([1, 7])
    assert [subset[index].image_path for index in range(2)] == [data[1].image_path, data[7].image_path]
    assert [subset[index].category for index in range(2)] == ["bottle", "cable"]


# --- sampling -------------------------------------------------------------------------------------------------------


def _order(datamodule: UnifiedDataModule) -> list[list[str]]:
    loader = datamodule.train_dataloader()
    return [[path for batch in loader for path in batch.image_path] for _ in range(2)]


@pytest.mark.parametrize("sampling", ["natural", "balanced"])
def test_order_of_training_images_depends_on_the_seed_only(root: Path, sampling: str) -> None:
    first = _order(_set_up(root, sampling=sampling, seed=1))
    torch.rand(3)
    assert _order(_set_up(root, sampling=sampling, seed=1)) == first
    assert _order(_set_up(root, sampling=sampling, seed=2)) != first
    assert first[0] != first[1]
    assert (sorted(first[0]) == sorted(first[1]) == _paths(_set_up(root).train_data.samples)) == (sampling == "natural")


def test_without_a_seed_the_order_follows_the_global_one(root: Path) -> None:
    datamodule = _set_up(root, seed=None)
    orders = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        orders.append(_order(datamodule))
    assert orders[0] == orders[1] != orders[2]


def test_balanced_sampling_on_two_processes() -> None:
    """Lightning wraps the sampler of each process; together they make the balanced draw."""
    categories = ["bottle"] * 900 + ["cable"] * 100
    ranks = [
        list(DistributedSamplerWrapper(training_sampler(categories, "balanced", seed=0), num_replicas=2, rank=rank))
        for rank in range(2)
    ]
    whole = list(training_sampler(categories, "balanced", seed=0))
    assert sorted(chain(*ranks)) == sorted(whole)
    for drawn in (whole, *ranks):
        share = sum(categories[index] == "cable" for index in drawn) / len(drawn)
        assert 0.44 < share < 0.56


# --- lazy -----------------------------------------------------------------------------------------------------------


def test_thirty_categories_are_set_up_in_seconds_without_reading_an_image(
    tmp_path: Path, write_category: WriteCategory, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = next(write_category(tmp_path / "model", size=40).rglob("*.png"))
    for category, (folder, count) in (
        (category, group)
        for category in range(30)
        for group in {"train/good": 200, "test/good": 50, "test/square": 50, "ground_truth/square": 50}.items()
    ):
        directory = tmp_path / "many" / f"product{category:02}" / folder
        directory.mkdir(parents=True)
        for index in range(count):
            (directory / f"{index:03}.png").hardlink_to(image)

    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Image, "open", refuse)
    start = time.process_time()
    datamodule = _set_up(tmp_path / "many", val_split_mode="from_test")
    seconds = time.process_time() - start
    assert len(datamodule.train_data) + len(datamodule.val_data) + len(datamodule.test_data) == 30 * 300
    assert seconds < 30
    tracemalloc.start()
    again = copy.deepcopy(datamodule.train_data)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(again) == 6000
    assert held < 20e6


# --- bad data -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", [None, "001_mask.png", "/dev/zero"])
def test_masks_missing_for_some_defective_images(root: Path, link: str | None) -> None:
    mask = root / "cable/ground_truth/square/001_mask.png"
    mask.unlink()
    if link is not None:
        mask.symlink_to(link)
    with pytest.raises(MissingMaskError, match=r"'cable' has defective images without a mask: .*square/001\.png\. Add"):
        _set_up(root)


def test_masks_missing_for_some_defective_images_where_the_datamodule_does_not_look(root: Path) -> None:
    _as_btech(root)
    (root / "01/ground_truth/square/001.png").unlink()
    with pytest.raises(MissingMaskError, match=r"'01' .*01/test/square/001\.png\. Add"):
        _set_up(root, datamodule="BTech")


def test_empty_category(root: Path) -> None:
    (root / "lid" / "train").mkdir(parents=True)
    with pytest.raises(CategoryError, match=r"'lid' has no normal images: .*lid/train/good is empty or missing"):
        _set_up(root)


def test_category_without_training_images(root: Path) -> None:
    for path in (root / "cable/train/good").iterdir():
        path.unlink()
    with pytest.raises(CategoryError, match="'cable' has no training images"):
        _set_up(root)


def test_category_without_normal_images(root: Path) -> None:
    (root / "cable/train/good").rename(root / "cable/train/bad")
    with pytest.raises(CategoryError, match=r"'cable' has no normal images: .*cable/train/good is empty or missing"):
        _set_up(root)
    defective = MVTecAD(root=root, category="bottle", test_split_mode="none")
    defective.setup()
    with pytest.raises(CategoryError, match="'bottle' has no normal images among its 3 training images"):
        check_training_data("bottle", defective.test_data)


def test_whatever_else_a_datamodule_complains_about(root: Path) -> None:
    part = Folder(name="lid", root=root, normal_dir="none")
    with pytest.raises(CategoryError, match=r"'lid' of Folder cannot be set up: .*none"):
        CombinedDataModule({"lid": part}).setup()


def test_test_sets_that_metrics_cannot_judge(
    root: Path, write_category: WriteCategory, caplog: pytest.LogCaptureFixture
) -> None:
    write_category(root, "lid", size=40, defective=0)
    write_category(root, "nut", size=40, defective=0)
    with caplog.at_level(logging.WARNING):
        _set_up(root)
    assert "Categories ['lid', 'nut'] have no defective test image" in caplog.text
    assert "no masks" not in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        _set_up(root, categories=["bottle"], test_split_mode="none")
    assert "Categories ['bottle'] have no normal test image" in caplog.text


def _damage(path: Path, kind: str) -> None:
    data = path.read_bytes()
    path.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "text": b"not an image"}[kind])


@pytest.mark.parametrize(
    ("kind", "file", "workers"),
    [(kind, "test/square/001.png", 0) for kind in ("truncated", "empty", "text")]
    + [(kind, "ground_truth/square/001_mask.png", 0) for kind in ("truncated", "empty")]
    + [("truncated", "test/square/001.png", 1)],
)
def test_damaged_file_is_named(root: Path, kind: str, file: str, workers: int) -> None:
    _damage(root / "cable" / file, kind)
    datamodule = _set_up(root, num_workers=workers)
    with pytest.raises(UnreadableImageError, match=rf"Cannot read image file .*cable/{file}.*Replace it or remove it"):
        list(datamodule.test_dataloader())


def test_other_errors_pass_through(root: Path) -> None:
    datamodule = _set_up(root, augmentations=None)
    datamodule.train_data.augmentations = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        datamodule.train_data[0]


def test_mask_of_another_size(root: Path) -> None:
    mask = root / "bottle/ground_truth/square/002_mask.png"
    Image.new("L", (5, 7), 255).save(mask)
    data = _set_up(root, categories=["bottle"]).test_data
    with pytest.raises(MaskSizeError, match=r"002_mask\.png is 5x7 .*but its image .*square/002\.png is 40x40"):
        [data[index] for index in range(len(data))]
