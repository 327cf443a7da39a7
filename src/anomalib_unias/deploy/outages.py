"""Connections that are lost and come back."""

import logging

logger = logging.getLogger(__name__)


class Outage:
    """Warns once when a connection is lost, and tells once when it is there again.

    Args:
        name (str): What is connected.
        lost (str): What its loss means, for the warning.
    """

    def __init__(self, name: str, lost: str) -> None:
        self._name = name
        self._lost = lost
        self._lasts = False

    def begin(self, reason: object) -> None:
        """Note that the connection is lost, or still is.

        Args:
            reason (object): Why, in words or as an error.
        """
        if not self._lasts:
            self._lasts = True
            logger.warning("%s: %s. %s", self._name, str(reason).rstrip("."), self._lost)

    def end(self) -> None:
        """Note that the connection works."""
        if self._lasts:
            self._lasts = False
            logger.warning("%s is there again.", self._name)
