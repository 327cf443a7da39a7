"""Sends results to a web server."""

import queue
import threading
from collections.abc import Mapping
from urllib.parse import unquote, urlunsplit

from anomalib_unias.deploy.errors import InspectionError
from anomalib_unias.deploy.outages import Outage
from anomalib_unias.deploy.sinks import PATIENCE, QUEUE_SIZE, BackgroundSink, url_parts

# Status codes after which the same line is sent again: until it is accepted, or _RETRIES times.
_UNAVAILABLE = (408, 429, 502, 503, 504)
_INTERNAL_ERROR = (500,)
_RETRIES = 3
_LONGEST_DELAY = 30.0


class WebhookSink(BackgroundSink):
    """Posts each line as a separate request: at least once, in the order of the images.

    A thread sends one line after the other, through a pool of ``urllib3``. If there is no answer, or the answer says
    that the server is not available (408, 429, 502, 503, 504), the line is sent again after 1 to 30 seconds, for ever;
    after an internal error of the server (500) it is sent again three times. Any other answer than a 2xx means that the
    line is refused; refused lines are counted.

    Args:
        url (str): ``http://`` or ``https://``; user and password in it are sent as basic authentication.
        headers (Mapping[str, str] | None): Additional headers, such as a token. Defaults to ``None``: none.
        queue_size (int): Maximum number of lines that wait for the server; further lines are lost, and counted.
            Defaults to ``10000``.
        patience (float): Seconds that :meth:`close` waits for the server. Defaults to ``10.0``.

    Attributes:
        name (str): The URL without user, password and query.

    Raises:
        InspectionError: If ``urllib3`` is not installed, or the URL is not of this form.

    Example:
        >>> sink = WebhookSink("http://localhost:8080/results")  # doctest: +SKIP
        >>> sink.publish(b'{"image": "a.png", "score": 0.1}')  # doctest: +SKIP
        >>> sink.close()  # doctest: +SKIP
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        queue_size: int = QUEUE_SIZE,
        patience: float = PATIENCE,
    ) -> None:
        try:
            import urllib3
        except ModuleNotFoundError as error:
            msg = "Results go to a webhook with urllib3, which is not installed: pip install 'anomalib-unias[webhook]'"
            raise InspectionError(msg) from error
        parts = url_parts(url, ("http", "https"), "Expected http://server/path or https://server/path for a webhook.")
        if queue_size < 1:
            msg = f"queue_size is a number of lines, 1 or more, got {queue_size}."
            raise InspectionError(msg)
        host = parts.netloc.rpartition("@")[2]
        self.name = f"{parts.scheme}://{host}{parts.path}"
        self._url = urlunsplit(parts._replace(netloc=host))
        super().__init__(patience)
        self._outage = Outage(self.name, "Results are kept and sent when the server is reachable again.")
        self._refusal = Outage(self.name, "Refused results are counted as not delivered.")
        user = None if parts.username is None else f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        self._connection_error = urllib3.exceptions.HTTPError
        self._pool = urllib3.PoolManager(
            headers={
                "Content-Type": "application/json",
                **urllib3.util.make_headers(basic_auth=user),
                **(headers or {}),
            },
            timeout=urllib3.Timeout(connect=5, read=10),
            retries=urllib3.Retry(
                connect=0,
                read=0,
                status=_RETRIES,
                status_forcelist=(*_UNAVAILABLE, *_INTERNAL_ERROR),
                allowed_methods=None,
                backoff_factor=0.5,
                raise_on_status=False,
            ),
        )
        self._lines: queue.Queue[bytes] = queue.Queue(queue_size)
        self._stopped = threading.Event()
        # A daemon: a server that does not answer must not keep the process alive.
        threading.Thread(target=self._send_all, name=self.name, daemon=True).start()

    def _enqueue(self, line: bytes) -> bool:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            return False
        return True

    def _stop(self) -> None:
        self._stopped.set()

    def _send_all(self) -> None:
        while not self._stopped.is_set():
            try:
                line = self._lines.get(timeout=1)
            except queue.Empty:
                continue
            arrived = self._send(line)
            if arrived is not None:
                self._deliveries.end(arrived)

    def _send(self, line: bytes) -> bool | None:
        """Send a line until it is accepted or refused; ``None`` if sending was given up."""
        delay = 1.0
        while not self._stopped.is_set():
            try:
                status = self._pool.request("POST", self._url, body=line).status
            except self._connection_error as error:
                self._outage.begin(error)
            else:
                if status not in _UNAVAILABLE:
                    self._outage.end()
                    return self._is_accepted(status)
                self._outage.begin(f"the server is not available (status {status})")
            self._stopped.wait(delay)
            delay = min(2 * delay, _LONGEST_DELAY)
        return None

    def _is_accepted(self, status: int) -> bool:
        accepted = 200 <= status < 300
        if not accepted:
            self._refusal.begin(f"the server refuses a result (status {status})")
        return accepted
