"""Messages about connections that are lost and restored."""

import logging

logger = logging.getLogger(__name__)


class Outage:
    """Warns once when a connection is lost, and once when it works again.

    Args:
        name (str): Name of the connection.
        consequence (str): Consequence of the loss, for the warning.
    """

    def __init__(self, name: str, consequence: str) -> None:
        self._name = name
        self._consequence = consequence
        self._ongoing = False

    def begin(self, reason: object) -> None:
        """Record that the connection is lost, or still lost.

        Args:
            reason (object): Reason, as text or as an error.
        """
        if not self._ongoing:
            self._ongoing = True
            logger.warning("%s: %s. %s", self._name, str(reason).rstrip("."), self._consequence)

    def end(self) -> None:
        """Record that the connection works."""
        if self._ongoing:
            self._ongoing = False
            logger.warning("%s is reachable again.", self._name)
