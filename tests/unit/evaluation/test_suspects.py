import pandas as pd
from example_images import make_images

from anomalib_unias.evaluation.suspects import SUSPECT_COLUMNS, suspicious_labels


def test_images_on_the_wrong_side_of_the_others() -> None:
    images = make_images(good=[0, 1, 2, 9, 5], defective=[6, 7, 8, 1.5])
    table = suspicious_labels(images)
    assert list(table.columns) == list(SUSPECT_COLUMNS)
    found = list(table[["label", "score", "suspicion"]].itertuples(index=False, name=None))
    assert found == [(0, 9, 1.0), (1, 1.5, 0.6)]


def test_categories_are_compared_with_themselves() -> None:
    images = pd.concat([make_images([0, 1], [5, 6]), make_images([10, 11], [15, 16], category="b")])
    assert suspicious_labels(images).empty
    assert suspicious_labels(images.assign(category="a"))["suspicion"].tolist() == [0.5] * 4


def test_ties_count_half_and_one_label_has_no_suspects() -> None:
    assert suspicious_labels(make_images([3], [3]))["suspicion"].tolist() == [0.5, 0.5]
    assert list(suspicious_labels(make_images([3, 4], [])).columns) == list(SUSPECT_COLUMNS)
