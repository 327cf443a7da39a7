import numpy as np
import pandas as pd
import pytest
from example_images import make_images, make_regions

from anomalib_unias.evaluation.defect_size import recall_by_kind, recall_by_size, smallest_found
from anomalib_unias.metrics.image_pixels import REGION_COLUMNS

# Regions of 16 pixels and more are found, of the smaller ones every second.
AREAS = [*([4] * 20), *([16] * 20), *([300] * 20)]
SCORES = [*([1, 9] * 10), *([9] * 40)]
IMAGES = make_images(good=[0, 2, 3], defective=SCORES, threshold=5)
REGIONS = make_regions(IMAGES, AREAS)


def rows(table: pd.DataFrame, **values: str) -> pd.DataFrame:
    for name, value in values.items():
        table = table[table[name] == value]
    return table


def test_recall_by_size() -> None:
    table = rows(recall_by_size(IMAGES, REGIONS), category="mixed", at="deployed", unit="area")
    assert table["from"].tolist() == [4, 16, 256]
    assert table["below"].tolist() == [16, 64, 1024]
    assert table["regions"].tolist() == [20, 20, 20]
    assert table["recall"].tolist() == [0.5, 1, 1]
    assert table["low"].tolist()[1] == pytest.approx(0.025 ** (1 / 20))
    shares = rows(recall_by_size(IMAGES, REGIONS), category="a", at="false_alarms_5%", unit="share")
    assert shares[["from", "recall"]].to_numpy().tolist() == [[0.003, 0.5], [0.01, 1], [0.3, 1]]
    assert np.isinf(shares["below"].iloc[-1])


def test_smallest_size() -> None:
    table = smallest_found(IMAGES, REGIONS)
    row = rows(table, category="mixed", at="deployed", unit="area").iloc[0]
    assert (row["smallest"], row["regions_from_there"]) == (16, 40)
    assert rows(table, category="a", at="deployed", unit="share")["smallest"].item() == 0.016


def test_a_few_large_regions_do_not_show_that_nine_of_ten_are_found() -> None:
    images = make_images(good=[0], defective=[1] * 30 + [9] * 9, threshold=5)
    regions = make_regions(images, [4] * 30 + [400] * 9)
    assert rows(smallest_found(images, regions), at="deployed")["smallest"].isna().all()


def test_by_kind() -> None:
    images = IMAGES.copy()
    small = images.index[(images["label"] == 1)][:20]
    images.loc[small, "image_path"] = [f"a/test/dot/{index}.png" for index in range(20)]
    regions = make_regions(images, AREAS)
    table = rows(recall_by_kind(images, regions), at="deployed", level="image").set_index("kind")
    assert table["recall"].to_dict() == {"dot": 0.5, "hole": 1}
    assert table["defects"].to_dict() == {"dot": 20, "hole": 40}
    assert set(recall_by_kind(images, regions)["level"]) == {"image", "region"}


def test_unknown_and_empty() -> None:
    images = make_images(good=[], defective=[1, 2])
    regions = make_regions(images, [3, 70000], pixels=70000)
    sizes = recall_by_size(images, regions)
    assert sizes[["found", "recall", "low", "high"]].isna().all(axis=None)
    assert np.isnan(smallest_found(images, regions)["smallest"]).all()
    assert recall_by_kind(images, regions)["recall"].isna().all()
    none = pd.DataFrame(columns=list(REGION_COLUMNS))
    good = make_images(good=[1.0], defective=[])
    assert [len(table(good, none)) for table in (recall_by_size, smallest_found, recall_by_kind)] == [0, 0, 0]
