"""Names of categories, and data sets that come with tables."""

from pathlib import Path
from urllib.error import URLError

import pandas as pd
import pytest
from anomalib.data import Folder, MVTecAD, Tabular

from anomalib_unias.data.combined import CombinedDataModule
from anomalib_unias.data.errors import CategoryError
from anomalib_unias.data.unified import UnifiedDataModule

RESERVED = ["mean", "mixed", "gap"]
OUTSIDE = ["..", ".", "../secret", "a/b", "/etc", "a\\b", "..\\secret", "line\nbreak", "nul\0", "\udcff"]


@pytest.mark.parametrize("name", [*RESERVED, *OUTSIDE])
def test_names_that_cannot_be_used_are_refused_at_construction(tmp_path: Path, name: str) -> None:
    message = "cannot be called" if name in RESERVED else "no name of a single folder"
    with pytest.raises(CategoryError, match=message):
        CombinedDataModule({"bottle": MVTecAD(category="bottle"), name: MVTecAD(category="cable")})
    # Where nothing is on disk and the class knows no names, there is nothing else to compare with.
    with pytest.raises(CategoryError, match=message):
        UnifiedDataModule("Folder", ["bottle", name], root=tmp_path / "none", datamodule_args={"normal_dir": "good"})


def test_a_folder_of_such_a_name_is_refused_too(tmp_path: Path) -> None:
    for name in ("bottle", "mean"):
        (tmp_path / name / "good").mkdir(parents=True)
    with pytest.raises(CategoryError, match="'mean'.*Rename its folder"):
        UnifiedDataModule("Folder", root=tmp_path, datamodule_args={"normal_dir": "good"})


@pytest.mark.parametrize("name", ["Mean", "gap 2", "..bottle", "bo..ttle", "Schraube Größe 5", "ネジ", "a$b"])
def test_other_names_are_names(name: str) -> None:
    assert CombinedDataModule({name: MVTecAD(category="bottle")}).categories == [name]


def test_synthetic_images_stay_in_their_folder(tmp_path: Path, write_category) -> None:
    """The name of a category becomes that of a folder."""
    part = MVTecAD(root=write_category(tmp_path), category="plate", val_split_mode="synthetic", num_workers=0)
    with pytest.raises(CategoryError, match="single folder"):
        CombinedDataModule({"../../outside": part})
    assert not list(tmp_path.parent.glob("*_synthetic"))


def test_folders_with_tables_beside_the_images(tmp_path: Path, write_category) -> None:
    plate = write_category(tmp_path / "products") / "plate"
    for folder in (plate.parent, plate, plate / "train/good", plate / "test/square", plate / "ground_truth/square"):
        (folder / "labels.csv").write_text("file,label\n000.png,1\n")
    arguments = {
        "normal_dir": "train/good",
        "normal_test_dir": "test/good",
        "abnormal_dir": "test/square",
        "mask_dir": "ground_truth/square",
        "val_split_mode": "same_as_test",
    }
    data = UnifiedDataModule("Folder", root=plate.parent, datamodule_args=arguments, num_workers=0)
    assert data.categories == ["plate"]
    data.setup()
    assert len(data.train_data) == 6
    images = [Path(path).name for path in data.test_data.samples.image_path]
    assert sorted(images) == sorted([f"{number:03}.png" for number in range(3)] * 2)
    defective = data.test_data.samples[data.test_data.samples.label_index == 1]
    assert [Path(path).name for path in defective.mask_path] == [f"{number:03}_mask.png" for number in range(3)]


def table(plate: Path) -> pd.DataFrame:
    """Rows as a user would write them into a file."""
    images = sorted(plate.glob("t*/*/*.png"))
    return pd.DataFrame(
        {
            "image_path": [str(path.relative_to(plate)) for path in images],
            "label_index": [int(path.parent.name == "square") for path in images],
            "split": [path.parent.parent.name for path in images],
            "mask_path": [
                f"ground_truth/square/{path.stem}_mask.png" if path.parent.name == "square" else "" for path in images
            ],
        }
    )


def test_a_data_set_in_a_csv_file_beside_one_in_folders(tmp_path: Path, write_category) -> None:
    root = write_category(write_category(tmp_path), "lid")
    table(root / "plate").to_csv(tmp_path / "plate.csv", index=False)
    parts = {
        "plate": Tabular.from_file("plate", tmp_path / "plate.csv", root=root / "plate", val_split_mode="same_as_test"),
        "lid": Folder("lid", "train/good", root / "lid", "test/square", "test/good", "ground_truth/square"),
    }
    data = CombinedDataModule(parts, num_workers=0)
    data.setup()
    assert data.train_data.samples.category.value_counts().to_dict() == {"plate": 6, "lid": 6}
    batch = next(iter(data.test_dataloader()))
    defective = [item for item in batch if item.category == "plate" and item.gt_label]
    assert len(defective) == 3
    assert all(item.mask_valid and item.gt_mask.sum() == 24 * 30 for item in defective)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("image_path", "missing.png", "missing file"),
        ("image_path", "../../outside.png", "outside"),
        ("label_index", 7, "None or NaN"),
    ],
)
def test_a_wrong_csv_file_is_reported_with_its_category(
    tmp_path: Path, write_category, column: str, value: object, message: str
) -> None:
    rows = table(write_category(tmp_path) / "plate")
    rows.loc[0, column] = value
    rows.to_csv(tmp_path / "plate.csv", index=False)
    part = Tabular.from_file("plate", tmp_path / "plate.csv", root=tmp_path / "plate")
    with pytest.raises(CategoryError, match=f"'plate'.*{message}"):
        CombinedDataModule({"plate": part}).setup()


def test_a_category_that_is_missing_and_cannot_be_downloaded_is_reported(tmp_path, monkeypatch):
    def download(*_):
        raise URLError("no network")

    monkeypatch.setattr("anomalib.data.datamodules.image.mvtecad.download_and_extract", download)
    data = UnifiedDataModule("MVTecAD", ["bottle"], root=tmp_path)
    with pytest.raises(CategoryError, match=r"'bottle' has no normal images: .*bottle/train/good is empty or missing"):
        data.prepare_data()
