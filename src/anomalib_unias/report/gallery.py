"""Galleries that keep a few pictures of a test, whatever its size."""

from collections.abc import Callable
from heapq import nlargest
from typing import NamedTuple
from zlib import crc32

from anomalib_unias.metrics.collection import of_all_processes
from anomalib_unias.metrics.scored_image import ScoredImage

MISSES, FALSE_ALARMS, HITS = "misses", "false_alarms", "hits"
GALLERIES = (MISSES, FALSE_ALARMS, HITS)


class Picture(NamedTuple):
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
    """Three galleries: worst misses, worst false alarms, typical hits.

    Worst are the misses with the lowest and the false alarms with the highest scores. Typical hits are drawn at random
    from all hits, by a hash of the path: the same ones whatever the order, the batches and the processes.

    Args:
        size (int): Number of pictures per gallery and category.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: dict[tuple[str, str], list[Picture]] = {}

    def offer(self, image: ScoredImage, draw: Callable[[], bytes]) -> None:
        """Keep an image if it belongs into a gallery.

        Args:
            image (ScoredImage): Image; one without a predicted label belongs into none.
            draw (Callable[[], bytes]): Draws its picture as JPEG; called for images that are kept only.
        """
        gallery = _gallery_of(image)
        if gallery is None or self._size == 0:
            return
        kept = self._kept.setdefault((gallery, image.category), [])
        rank = _rank(gallery, image)
        if len(kept) == self._size and (rank, image.image_path) <= kept[-1][:2]:
            return
        picture = Picture(rank, image.image_path, image.category, image.score, image.normalized_score, draw())
        kept[:] = nlargest(self._size, [*kept, picture])

    def of_all_processes(self) -> dict[str, list[Picture]]:
        """Pictures of all processes by gallery, the highest rank first. Every process has to call it."""
        merged: dict[tuple[str, str], list[Picture]] = {}
        for kept in of_all_processes(self._kept):
            for place, pictures in kept.items():
                merged[place] = nlargest(self._size, [*merged.get(place, []), *pictures])
        return {
            gallery: sorted(
                (picture for (name, _), pictures in merged.items() if name == gallery for picture in pictures),
                reverse=True,
            )
            for gallery in GALLERIES
        }


def _gallery_of(image: ScoredImage) -> str | None:
    outcomes = {(1, 0.0): MISSES, (0, 1.0): FALSE_ALARMS, (1, 1.0): HITS}
    return outcomes.get((image.label, image.predicted))


def _rank(gallery: str, image: ScoredImage) -> float:
    return {MISSES: -image.score, FALSE_ALARMS: image.score, HITS: float(crc32(image.image_path.encode()))}[gallery]
