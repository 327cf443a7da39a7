"""Several categories through the stock Engine and the stock command line."""

import shutil
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
from anomalib.cli import AnomalibCLI
from anomalib.data import ImageBatch
from anomalib.engine import Engine
from anomalib.models import Padim
from PIL import Image

from anomalib_unias.data.items import CategoryImageBatch
from anomalib_unias.data.unified import UnifiedDataModule

WriteCategory = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path, write_category: WriteCategory) -> Path:
    """Three products: colour, grey and of another size, without masks."""
    root = write_category(tmp_path / "products", "bottle", size=40)
    write_category(root, "cable", size=48)
    for path in (root / "cable").rglob("*.png"):
        Image.open(path).convert("L").resize((32, 48)).save(path)
    shutil.rmtree(write_category(root, "lid", size=40) / "lid" / "ground_truth")
    return root


class _SeesBatches(Padim):
    """Records what a model, its metrics and its visualiser get to see."""

    def __init__(self) -> None:
        pre_processor = Padim.configure_pre_processor((32, 32))
        super().__init__("resnet18", ["layer1"], pre_trained=False, n_features=4, pre_processor=pre_processor)
        self.seen: Counter[tuple[str, str]] = Counter()

    def _record(self, stage: str, batch: ImageBatch) -> None:
        assert isinstance(batch, CategoryImageBatch)
        assert batch.image.shape[1:] == (3, 32, 32)
        self.seen.update((stage, category) for category in batch.category)

    def training_step(self, batch: ImageBatch, *args, **kwargs) -> object:
        self._record("fit", batch)
        return super().training_step(batch, *args, **kwargs)

    def validation_step(self, batch: ImageBatch, *args, **kwargs) -> object:
        self._record("validate", batch)
        return super().validation_step(batch, *args, **kwargs)


def test_fit_validate_test_predict(root: Path) -> None:
    datamodule = UnifiedDataModule(
        root=root, train_batch_size=4, eval_batch_size=5, num_workers=2, sampling="balanced", seed=0
    )
    model = _SeesBatches()
    engine = Engine(default_root_dir=root.parent / "results", accelerator="cpu", logger=False)

    engine.fit(model, datamodule=datamodule)
    assert {category for stage, category in model.seen if stage == "fit"} == {"bottle", "cable", "lid"}
    assert {category: model.seen["validate", category] for category in datamodule.categories} == dict.fromkeys(
        ["bottle", "cable", "lid"], 6
    )
    engine.validate(model, datamodule=datamodule)
    assert model.seen["validate", "lid"] == 12

    engine.test(model, datamodule=datamodule)
    results = Path(engine.trainer.default_root_dir)
    assert results.relative_to(root.parent / "results").parts[:3] == ("_SeesBatches", "products", "unified")
    pictures = {path.relative_to(results / "images").as_posix() for path in (results / "images").rglob("*.png")}
    assert pictures == {path.relative_to(root).as_posix() for path in root.glob("*/test/*/*.png")}

    predictions = list(chain(*engine.predict(model, datamodule=datamodule)))
    assert Counter(item.category for item in predictions) == {"bottle": 6, "cable": 6, "lid": 6}
    assert all(item.category in Path(item.image_path).parts for item in predictions)
    assert all(item.anomaly_map.shape[-2:] == (32, 32) for item in predictions)
    assert {item.category for item in predictions if not item.mask_valid} == {"lid"}


def test_fit_and_test_without_validation_and_with_synthetic_defects(root: Path) -> None:
    datamodule = UnifiedDataModule(
        root=root,
        num_workers=0,
        test_split_mode="synthetic",
        val_split_mode="none",
        seed=0,
        categories=["bottle", "cable"],
    )
    model = _SeesBatches()
    engine = Engine(default_root_dir=root.parent / "results", accelerator="cpu", logger=False)
    engine.fit(model, datamodule=datamodule)
    assert not any(stage == "validate" for stage, _ in model.seen)
    (metrics,) = engine.test(model, datamodule=datamodule)
    assert "image_AUROC" in metrics
    images = Path(engine.trainer.default_root_dir) / "images"
    assert sum(1 for _ in images.rglob("*.png")) == len(datamodule.test_data)


def test_command_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    data = {"datamodule": "MVTecAD", "categories": "[bottle,cable]", "root": str(root), "num_workers": "0"}
    model = {"backbone": "resnet18", "layers": "[layer1]", "pre_trained": "false", "n_features": "4"}
    AnomalibCLI(
        args=[
            "fit",
            "--data=UnifiedDataModule",
            *(f"--data.{name}={value}" for name, value in data.items()),
            "--data.augmentations=torchvision.transforms.v2.RandomHorizontalFlip",
            "--data.category_args={cable: {val_split_mode: from_test}}",
            "--model=Padim",
            *(f"--model.{name}={value}" for name, value in model.items()),
            "--trainer.accelerator=cpu",
            "--trainer.logger=false",
        ]
    )
    assert (root.parent / "results/Padim/products/unified/latest/weights/lightning/model.ckpt").is_file()
