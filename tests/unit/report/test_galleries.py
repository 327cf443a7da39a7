import random

import pytest

from anomalib_unias.metrics.scored_image import ScoredImage
from anomalib_unias.report.gallery import FALSE_ALARMS, HITS, MISSES, NEAR, Galleries


def image(index: int, label: int, predicted: float, category: str = "a") -> ScoredImage:
    return ScoredImage(category, f"{index:03}.png", label, float(index), index / 100, predicted, None, None, None)


def fill(size: int, images: list[ScoredImage]) -> tuple[Galleries, list[str]]:
    galleries, drawn = Galleries(size), []

    def draw(path: str) -> bytes:
        drawn.append(path)
        return path.encode()

    for each in images:
        galleries.add(each, lambda path=each.image_path: draw(path))
    return galleries, drawn


def paths(galleries: Galleries, gallery: str) -> list[str]:
    return [picture.image_path for picture in galleries.of_all_processes()[gallery]]


def test_worst_first() -> None:
    misses = [image(index, 1, 0.0) for index in range(5)]
    alarms = [image(10 + index, 0, 1.0) for index in range(5)]
    right = [image(20, 0, 0.0), image(21, 1, float("nan"))]
    galleries, _ = fill(2, [*misses, *alarms, *right])
    assert paths(galleries, MISSES) == ["000.png", "001.png"]
    assert paths(galleries, FALSE_ALARMS) == ["014.png", "013.png"]
    assert paths(galleries, HITS) == []


def test_every_category_has_its_own_places() -> None:
    images = [image(index, 0, 1.0, category) for category in "ab" for index in range(100 if category == "a" else 3)]
    galleries, _ = fill(4, images)
    kept = galleries.of_all_processes()[FALSE_ALARMS]
    assert [picture.category for picture in kept] == ["a"] * 4 + ["b"] * 3
    assert [picture.jpeg for picture in kept[:2]] == [b"099.png", b"098.png"]


@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_does_not_matter(seed: int) -> None:
    images = [image(index, 1, float(index % 2)) for index in range(50)]
    shuffled = random.Random(seed).sample(images, len(images))
    expected, got = fill(3, images)[0], fill(3, shuffled)[0]
    assert expected.of_all_processes() == got.of_all_processes()
    # Typical: not simply the first, the last, or those with the highest score.
    hits = sorted(paths(expected, HITS))
    assert hits not in (["001.png", "003.png", "005.png"], ["045.png", "047.png", "049.png"])


def test_memory_is_bounded_and_few_pictures_are_drawn() -> None:
    images = [image(index, 0, 1.0) for index in reversed(range(1000))]
    galleries, drawn = fill(4, images)
    assert drawn == ["999.png", "998.png", "997.png", "996.png"]
    assert len(paths(galleries, FALSE_ALARMS)) == 4


def test_no_pictures() -> None:
    galleries, drawn = fill(0, [image(1, 1, 0.0)])
    assert galleries.of_all_processes() == {MISSES: [], FALSE_ALARMS: [], HITS: [], NEAR: []}
    assert drawn == []


def test_images_near_the_threshold() -> None:
    """Four times as many as in the other galleries; an image that belongs into two is drawn once."""
    galleries, drawn = Galleries(1, threshold=0.5), []
    for index in range(100):
        galleries.add(image(index, 0, float(index > 50)), lambda path=f"{index:03}.png": drawn.append(path) or b"")
    assert paths(galleries, NEAR) == ["050.png", "051.png", "049.png", "052.png"]
    assert paths(galleries, FALSE_ALARMS) == ["099.png"]
    assert len(drawn) == len(set(drawn))
    assert paths(fill(1, [image(1, 0, float("nan"))])[0], NEAR) == []


def test_processes_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [image(index, 1, 0.0) for index in range(10)]
    expected = fill(3, images)[0].of_all_processes()
    first, second = fill(3, images[::2])[0], fill(3, images[1::2])[0]
    monkeypatch.setattr("anomalib_unias.report.gallery.of_all_processes", lambda own: [own, second._pictures])
    assert first.of_all_processes() == expected
