"""Where results go besides the file of lines."""

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

    The file of lines is written whatever becomes of a sink; what a sink could not deliver is counted.

    Attributes:
        name (str): What messages call it, without passwords.
    """

    name: str

    @property
    def undelivered(self) -> int:
        """Number of lines that were published and did not arrive, so far."""

    def publish(self, line: bytes) -> None:
        """Take a line. Neither waits nor raises.

        Args:
            line (bytes): JSON object, see :func:`~anomalib_unias.deploy.results.result_line`.
        """

    def close(self) -> None:
        """Wait a while for what is still on its way, then give up."""


class Deliveries:
    """Counts the lines that a sink was given and that have arrived or never will. For several threads."""

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
            seconds (float): At most so long.
        """
        end = time.monotonic() + seconds
        with self._changed:
            while self._open and (remaining := end - time.monotonic()) > 0:
                self._changed.wait(remaining)


class BackgroundSink(ABC):
    """A sink that counts what it is given and what has arrived; how lines are delivered is for the subclass to say.

    Args:
        patience (float): Seconds that :meth:`close` waits for what is on its way.
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
        if not self._take(line):
            self._deliveries.end(arrived=False)

    def close(self) -> None:
        """Wait a while for what has not arrived, then give up."""
        self._deliveries.wait(self._patience)
        self._stop()

    @abstractmethod
    def _take(self, line: bytes) -> bool:
        """Begin to deliver a line without waiting; ``False`` if too many are on their way already."""

    @abstractmethod
    def _stop(self) -> None:
        """End what delivers in the background."""


def url_parts(url: str, schemes: Collection[str], expected: str) -> SplitResult:
    """Take a URL apart.

    Args:
        url (str): As it was given.
        schemes (Collection[str]): What it may begin with.
        expected (str): Sentence that says what is expected.

    Returns:
        SplitResult: With a scheme of these, a host, and a port or none.

    Raises:
        InspectionError: If it is another URL or none. The message does not repeat it: it may have a password.
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
