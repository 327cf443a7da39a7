"""The built-in data set as a datamodule."""

from pathlib import Path

import anomalib.data
import pytest
from anomalib.data import AnomalibDataModule, MVTecAD
from anomalib.data.utils import ValSplitMode
from torchvision.transforms.v2 import Identity

from anomalib_unias.data import SyntheticProducts, UnifiedDataModule
from anomalib_unias.data.built_in import library

CONFIG = Path(__file__).parents[3] / "configs" / "data" / "synthetic_products.yaml"
COUNTS = {"train_good": 4, "test_good": 2, "test_defective": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set, rendered once."""
    root = tmp_path_factory.mktemp("data") / "products"
    SyntheticProducts(root, **COUNTS).prepare_data()
    return root


@pytest.mark.parametrize("category", SyntheticProducts.CATEGORIES)
def test_stock_mvtecad_reads_it(root: Path, category: str) -> None:
    stock = MVTecAD(root, category, num_workers=0)
    stock.prepare_data()
    stock.setup()
    assert (len(stock.train_data), len(stock.test_data)) == (4, 4)
    for item in stock.test_data:
        assert item.image.shape == (3, 256, 256)
        assert item.gt_mask.shape == (256, 256)
        assert bool(item.gt_mask.any()) == bool(item.gt_label)
    assert sum(int(item.gt_label) for item in stock.test_data) == 2


@pytest.mark.parametrize(
    ("mode", "sizes"),
    [
        (ValSplitMode.SAME_AS_TEST, (4, 4, 4)),
        (ValSplitMode.FROM_TEST, (4, 2, 2)),
        (ValSplitMode.FROM_TRAIN, (2, 2, 4)),
    ],
)
def test_setup_splits(root: Path, mode: ValSplitMode, sizes: tuple[int, int, int]) -> None:
    datamodule = SyntheticProducts(root, "flange", val_split_mode=mode, seed=1, **COUNTS)
    datamodule.prepare_data()
    datamodule.setup()
    found = (len(datamodule.train_data), len(datamodule.val_data), len(datamodule.test_data))
    assert found == sizes
    assert (datamodule.name, datamodule.category, datamodule.task) == ("SyntheticProducts", "flange", "segmentation")


def test_loads_batches_with_augmentations(root: Path) -> None:
    datamodule = SyntheticProducts(
        root, "gravel", train_batch_size=3, train_augmentations=Identity(), num_workers=0, **COUNTS
    )
    datamodule.prepare_data()
    datamodule.setup()
    batch = next(iter(datamodule.train_dataloader()))
    assert batch.image.shape == (3, 3, 256, 256)
    assert 0 <= batch.image.min() < batch.image.max() <= 1
    assert datamodule.train_data.augmentations is datamodule.train_augmentations
    assert datamodule.test_data.augmentations is None


def test_several_categories_as_one(root: Path) -> None:
    unified = UnifiedDataModule(
        "SyntheticProducts", root=root, datamodule_args=COUNTS, num_workers=0, train_batch_size=4, eval_batch_size=4
    )
    unified.prepare_data()
    unified.setup()
    assert unified.categories == list(SyntheticProducts.CATEGORIES)
    assert (len(unified.train_data), len(unified.test_data)) == (16, 16)


def test_default_root_is_a_folder_for_this_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomalib.utils.path.get_datasets_dir", lambda: tmp_path)
    roots = {
        SyntheticProducts().root,
        SyntheticProducts(category="flange", seed=3).root,
        SyntheticProducts(render_seed=1).root,
        SyntheticProducts(train_good=61).root,
    }
    assert len(roots) == 3
    assert {root.parent for root in roots} == {tmp_path / "SyntheticProducts"}
    assert f"v{library.GENERATOR_VERSION}-" in SyntheticProducts().root.name


def test_default_root_is_shared_by_the_categories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setattr("anomalib.utils.path.get_datasets_dir", lambda: tmp_path)
    for category in SyntheticProducts.CATEGORIES:
        datamodule = SyntheticProducts(category=category, **COUNTS)
        if not datamodule.root.exists():
            datamodule.root.parent.mkdir()
            datamodule.root.symlink_to(root)
        datamodule.prepare_data()
        datamodule.setup()
        assert len(datamodule.train_data) == 4


@pytest.mark.parametrize("category", ["bottle", "", "Flange"])
def test_unknown_category(category: str) -> None:
    with pytest.raises(ValueError, match=f"Unknown category '{category}'.*brick, circuit_board, flange, gravel"):
        SyntheticProducts(category=category)


def test_foreign_root(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"mine\.txt"):
        SyntheticProducts(tmp_path).prepare_data()


def test_config_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("anomalib.utils.path.get_datasets_dir", lambda: tmp_path)
    datamodule = AnomalibDataModule.from_config(CONFIG)
    assert isinstance(datamodule, SyntheticProducts)
    assert datamodule.category == "flange"
    assert datamodule.root == SyntheticProducts().root


def test_stock_anomalib_knows_it() -> None:
    assert anomalib.data.get_datamodule({"class_path": "SyntheticProducts"}).category == "brick"
