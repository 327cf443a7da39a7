"""Sends results over MQTT."""

from typing import Any
from urllib.parse import unquote

from anomalib_unias.deploy.errors import InspectionError
from anomalib_unias.deploy.outages import Outage
from anomalib_unias.deploy.sinks import PATIENCE, QUEUE_SIZE, BackgroundSink, url_parts

_PORTS = {"mqtt": 1883, "mqtts": 8883}
# Seconds between two attempts to reach the broker: doubled each time, from the first number to the second.
_DELAYS = 1, 30
# Unconfirmed messages have an identifier of 16 bits.
_LARGEST_QUEUE = 60_000


class MqttSink(BackgroundSink):
    """Publishes each line as a separate message with quality of service 1: at least once.

    ``paho-mqtt`` works in its own thread. It keeps messages until the broker has confirmed them, and reconnects
    automatically, after 1 to 30 seconds.

    Args:
        url (str): ``mqtt://[user:password@]broker[:1883]/topic``; ``mqtts://`` for TLS, port 8883.
        queue_size (int): Maximum number of messages that wait for the broker, from 1 to 60000; further messages are
            lost, and counted. Defaults to ``10000``.
        patience (float): Seconds that :meth:`close` waits for the broker. Defaults to ``10.0``.

    Attributes:
        name (str): The URL without user and password.

    Raises:
        InspectionError: If ``paho-mqtt`` is not installed, ``queue_size`` is out of range, or the URL is not of this
            form.

    Example:
        >>> sink = MqttSink("mqtt://localhost/line/3")  # doctest: +SKIP
        >>> sink.publish(b'{"image": "a.png", "score": 0.1}')  # doctest: +SKIP
        >>> sink.close()  # doctest: +SKIP
    """

    def __init__(self, url: str, queue_size: int = QUEUE_SIZE, patience: float = PATIENCE) -> None:
        try:
            from paho.mqtt import client as paho
        except ModuleNotFoundError as error:
            msg = "Results go over MQTT with paho-mqtt, which is not installed: pip install 'anomalib-unias[mqtt]'"
            raise InspectionError(msg) from error
        expected = "Expected mqtt://broker/topic or mqtts://broker/topic for MQTT, without the wildcards + and #."
        parts = url_parts(url, _PORTS, expected)
        self._topic = unquote(parts.path.removeprefix("/"))
        if not self._topic or {"+", "#"} & set(url.rpartition("@")[2]):
            raise InspectionError(expected)
        if not 0 < queue_size <= _LARGEST_QUEUE:
            msg = f"queue_size is a number of messages from 1 to {_LARGEST_QUEUE}, got {queue_size}."
            raise InspectionError(msg)
        port = parts.port or _PORTS[parts.scheme]
        self.name = f"{parts.scheme}://{parts.hostname}:{port}/{self._topic}"
        super().__init__(patience)
        self._outage = Outage(self.name, "Results are kept and sent when the broker is reachable again.")
        self._client: Any = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.username_pw_set(*(part and unquote(part) for part in (parts.username, parts.password)))
        if parts.scheme == "mqtts":
            self._client.tls_set()
        self._client.reconnect_delay_set(*_DELAYS)
        self._client.max_queued_messages_set(queue_size)
        self._client.on_publish = lambda *_: self._deliveries.end(arrived=True)
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = lambda *_: self._outage.begin("the broker cannot be reached")
        self._client.on_disconnect = lambda _client, _data, _flags, reason, _properties: (
            self._outage.begin(f"disconnected ({reason})") if reason.is_failure else None
        )
        self._queue_is_full = paho.MQTT_ERR_QUEUE_SIZE
        # Not connect(), which raises an error if there is no broker: it may be there a minute later.
        self._client.connect_async(str(parts.hostname), port)
        self._client.loop_start()

    def _enqueue(self, line: bytes) -> bool:
        return self._client.publish(self._topic, line, qos=1).rc != self._queue_is_full

    def _stop(self) -> None:
        connected = self._client.is_connected()
        self._client.disconnect()
        if connected:  # otherwise the thread may be trying to connect, and ends after that
            self._client.loop_stop()

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._outage.begin(f"the broker refuses the connection ({reason})")
        else:
            self._outage.end()
