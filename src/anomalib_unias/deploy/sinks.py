"""Destinations of results other than the file of lines."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from anomalib_unias.deploy.errors import InspectionError

QUEUE_SIZE = 10_000
PATIENCE = 10.0


class Sink(Protocol):
    """Takes the lines of an inspection and delivers them in the background.

    The file of lines is written even if a sink fails; lines that a sink could not deliver are counted.

    Attributes:
        name (str): Name in messages, without passwords.
    """

    name: str

    @property
    def undelivered(self) -> int:
        """Number of published lines that have not arrived so far."""

    def publish(self, line: bytes) -> None:
        """Take a line. It neither waits nor raises errors.

        Args:
            line (bytes): JSON object, see :func:`~anomalib_unias.deploy.results.result_line`.
        """

    def close(self) -> None:
        """Wait a while for lines that are still on their way, then give up."""


class Deliveries:
    """Counts the lines of a sink that are on their way or lost. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = 0
        self._lost = 0

    @property
    def undelivered(self) -> int:
        """Number of lines that have not arrived."""
        return self._open + self._lost

    def begin(self) -> None:
        """Count a line that is on its way."""
        with self._changed:
            self._open += 1

    def end(self, arrived: bool) -> None:
        """Count a line that is no longer on its way.

        Args:
            arrived (bool): Whether it has arrived.
        """
        with self._changed:
            self._open -= 1
            self._lost += not arrived
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait until no line is on its way any more.

        Args:
            seconds (float): Maximum time to wait.
        """
        end = time.monotonic() + seconds
        with self._changed:
            while self._open and (remaining := end - time.monotonic()) > 0:
                self._changed.wait(remaining)


class BackgroundSink(ABC):
    """A sink that counts published and delivered lines; subclasses implement the delivery.

    Args:
        patience (float): Seconds that :meth:`close` waits for lines that are on their way.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._deliveries = Deliveries()

    @property
    def undelivered(self) -> int:
        """Number of lines that have not arrived."""
        return self._deliveries.undelivered

    def publish(self, line: bytes) -> None:
        """Take a line.

        Args:
            line (bytes): JSON object.
        """
        self._deliveries.begin()
        if not self._enqueue(line):
            self._deliveries.end(arrived=False)

    def close(self) -> None:
        """Wait a while for lines that have not arrived, then give up."""
        self._deliveries.wait(self._patience)
        self._stop()

    @abstractmethod
    def _enqueue(self, line: bytes) -> bool:
        """Start to deliver a line without waiting; ``False`` if too many are on their way already."""

    @abstractmethod
    def _stop(self) -> None:
        """Stop the delivery in the background."""


def url_parts(url: str, schemes: Collection[str], expected: str) -> SplitResult:
    """Split a URL and check it.

    Args:
        url (str): URL of a user.
        schemes (Collection[str]): Allowed schemes.
        expected (str): Sentence of the error message that says what is expected.

    Returns:
        SplitResult: With an allowed scheme and a host.

    Raises:
        InspectionError: If it is not such a URL. The message does not repeat it, as it may contain a password.
    """
    try:
        parts = urlsplit(url)
        known = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError as error:  # of an address or a port
        msg = f"{expected} {error}."
        raise InspectionError(msg) from error
    if not known:
        raise InspectionError(expected)
    return parts
