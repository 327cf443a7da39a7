"""Messages about connections that are lost and come back."""

import logging

logger = logging.getLogger(__name__)


class Outage:
    """Warns once when a connection is lost, and once when it is back.

    Args:
        name (str): Name of the connection.
        lost (str): Consequence of the loss, for the warning.
    """

    def __init__(self, name: str, lost: str) -> None:
        self._name = name
        self._lost = lost
        self._lasts = False

    def begin(self, reason: object) -> None:
        """Record that the connection is lost, or still lost.

        Args:
            reason (object): Reason, as text or as an error.
        """
        if not self._lasts:
            self._lasts = True
            logger.warning("%s: %s. %s", self._name, str(reason).rstrip("."), self._lost)

    def end(self) -> None:
        """Record that the connection works."""
        if self._lasts:
            self._lasts = False
            logger.warning("%s is there again.", self._name)
