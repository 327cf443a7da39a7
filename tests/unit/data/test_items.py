"""Items and batches that know their category."""

import pytest
import torch
from anomalib.data import InferenceBatch
from lightning.fabric.utilities import move_data_to_device
from torchvision.tv_tensors import Image, Mask

from anomalib_unias.data.items import (
    CategoryImageBatch,
    CategoryImageItem,
    NumpyCategoryImageBatch,
    NumpyCategoryImageItem,
)


def _item(category: str, *, valid: bool = True, size: tuple[int, int] = (8, 6)) -> CategoryImageItem:
    return CategoryImageItem(
        image=Image(torch.rand(3, *size)),
        gt_mask=Mask(torch.zeros(size, dtype=torch.bool)),
        gt_label=torch.tensor(int(not valid)),
        image_path=f"{category}.png",
        category=category,
        mask_valid=valid,
    )


@pytest.fixture
def batch() -> CategoryImageBatch:
    return CategoryImageBatch.collate([_item("bottle"), _item("cable", valid=False)])


def _fields(batch: CategoryImageBatch) -> tuple[list[str], list[bool]]:
    return batch.category, batch.mask_valid.tolist()


EXPECTED = (["bottle", "cable"], [True, False])


def test_collate(batch: CategoryImageBatch) -> None:
    assert isinstance(batch, CategoryImageBatch)
    assert _fields(batch) == EXPECTED
    assert batch.mask_valid.dtype == torch.bool
    assert batch.gt_mask.shape == (2, 8, 6)


def test_move_and_update(batch: CategoryImageBatch) -> None:
    moved = move_data_to_device(batch, torch.device("meta"))
    assert moved.category == EXPECTED[0]
    assert moved.mask_valid.device.type == "meta"
    predictions = InferenceBatch(pred_score=torch.rand(2), anomaly_map=torch.rand(2, 1, 8, 6))
    for updated in (batch.update(in_place=False, **predictions._asdict()), batch.update(**predictions._asdict())):
        assert isinstance(updated, CategoryImageBatch)
        assert _fields(updated) == EXPECTED
        assert updated.pred_score is not None


def test_iterate(batch: CategoryImageBatch) -> None:
    items = list(batch)
    assert all(isinstance(item, CategoryImageItem) for item in items)
    assert [(item.category, item.mask_valid) for item in items] == [("bottle", True), ("cable", False)]
    assert isinstance(items[0].mask_valid, bool)


def test_numpy(batch: CategoryImageBatch) -> None:
    converted = batch.to_numpy()
    assert isinstance(converted, NumpyCategoryImageBatch)
    assert _fields(converted) == EXPECTED
    items = list(converted)
    assert all(isinstance(item, NumpyCategoryImageItem) for item in items)
    assert [(item.category, bool(item.mask_valid)) for item in items] == [("bottle", True), ("cable", False)]
    assert isinstance(_item("bottle").to_numpy(), NumpyCategoryImageItem)


def test_missing_mask_path_is_an_empty_string() -> None:
    items = [_item("bottle").update(mask_path="mask.png"), _item("cable")]
    assert CategoryImageBatch.collate(items).mask_path == ["mask.png", ""]


def test_mixed_sizes_are_resized_to_the_largest_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"8x6 \(bottle.png\), 10x12 \(cable.png\).*Resize"):
        batch = CategoryImageBatch.collate([_item("bottle"), _item("cable", size=(10, 12))])
    assert batch.image.shape == (2, 3, 10, 12)
    assert batch.gt_mask.shape == (2, 10, 12)
