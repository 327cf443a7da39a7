"""Galleries that keep a few pictures of a test, whatever its size."""

from collections.abc import Callable
from heapq import nlargest
from math import isnan
from typing import NamedTuple
from zlib import crc32

from anomalib_unias.metrics.collection import of_all_processes
from anomalib_unias.metrics.scored_image import ScoredImage

MISSES, FALSE_ALARMS, HITS, NEAR = "misses", "false_alarms", "hits", "near"
GALLERIES = (MISSES, FALSE_ALARMS, HITS, NEAR)
# The page with the threshold slider shows more images near the threshold.
_NEAR_SIZE = 4


class GalleryPicture(NamedTuple):
    """A picture in a gallery.

    Args:
        rank (float): Pictures of higher rank come first.
        image_path (str): Path of the image.
        category (str): Category of the image.
        score (float): Image score as the model gave it.
        normalized_score (float): Image score after the post-processor.
        jpeg (bytes): The picture.
    """

    rank: float
    image_path: str
    category: str
    score: float
    normalized_score: float
    jpeg: bytes


class Galleries:
    """Four galleries: worst misses, worst false alarms, typical hits, and images near the threshold.

    The worst misses have the lowest scores, the worst false alarms the highest. Typical hits are drawn at random from
    all hits, by a hash of the path: the choice does not depend on order, batches or processes.

    Args:
        size (int): Number of pictures per gallery and category; four times as many near the threshold.
        threshold (float): Threshold of the normalised scores. Defaults to NaN: nothing is near it.
    """

    def __init__(self, size: int, threshold: float = float("nan")) -> None:
        self._sizes = {gallery: size * (_NEAR_SIZE if gallery == NEAR else 1) for gallery in GALLERIES}
        self._threshold = threshold
        self._pictures: dict[tuple[str, str], list[GalleryPicture]] = {}

    def add(self, image: ScoredImage, draw: Callable[[], bytes]) -> None:
        """Keep an image if it belongs in one of the galleries.

        Args:
            image (ScoredImage): Image; one without a predicted label is neither hit, miss nor false alarm.
            draw (Callable[[], bytes]): Draws its picture as JPEG; called only for images that are kept.
        """
        ranks = {}
        for gallery, rank in _ranks(image, self._threshold).items():
            pictures, size = self._pictures.setdefault((gallery, image.category), []), self._sizes[gallery]
            if len(pictures) < size or (size and (rank, image.image_path) > pictures[-1][:2]):
                ranks[gallery] = rank
        if ranks:
            jpeg = draw()
            for gallery, rank in ranks.items():
                picture = GalleryPicture(
                    rank, image.image_path, image.category, image.score, image.normalized_score, jpeg
                )
                pictures = self._pictures[gallery, image.category]
                pictures[:] = nlargest(self._sizes[gallery], [*pictures, picture])

    def of_all_processes(self) -> dict[str, list[GalleryPicture]]:
        """Pictures of all processes by gallery, the highest rank first. Every process must call this."""
        merged: dict[tuple[str, str], list[GalleryPicture]] = {}
        for galleries in of_all_processes(self._pictures):
            for key, pictures in galleries.items():
                merged[key] = nlargest(self._sizes[key[0]], [*merged.get(key, []), *pictures])
        return {
            gallery: sorted(
                (picture for (name, _), pictures in merged.items() if name == gallery for picture in pictures),
                reverse=True,
            )
            for gallery in GALLERIES
        }


def _ranks(image: ScoredImage, threshold: float) -> dict[str, float]:
    """Galleries that an image belongs in, and its rank in each."""
    outcomes = {
        (1, 0.0): (MISSES, -image.score),
        (0, 1.0): (FALSE_ALARMS, image.score),
        (1, 1.0): (HITS, float(crc32(image.image_path.encode()))),
    }
    outcome = outcomes.get((image.label, image.predicted))
    ranks = {} if outcome is None else dict([outcome])
    distance = abs(image.normalized_score - threshold)
    return ranks if isnan(distance) else {**ranks, NEAR: -distance}
