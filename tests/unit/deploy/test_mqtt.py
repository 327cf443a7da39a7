"""Results over MQTT, with real brokers."""

import asyncio
import json
import shutil
import socket
import subprocess
import threading
import time
from contextlib import suppress

import pytest

from anomalib_unias.deploy import InspectionError, MqttSink
from anomalib_unias.deploy import mqtt as module
from local_servers import free_port, is_open, wait_until

paho = pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed: pip install 'anomalib-unias[mqtt]'")
TOPIC = "line/3/results"


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory):
    command = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/sbin")
    if command is None:
        pytest.skip("the broker mosquitto is not installed")
    port, folder = free_port(), tmp_path_factory.mktemp("mosquitto")
    (folder / "passwords").write_text("")
    (folder / "mosquitto.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen([command, "-c", folder / "mosquitto.conf"], stderr=subprocess.DEVNULL)
    wait_until(lambda: is_open(port))
    yield port
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="module")
def amqtt():
    broker = pytest.importorskip("amqtt.broker", reason="the broker amqtt is not installed: pip install amqtt")
    port, loop = free_port(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start():
        plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
        started = broker.Broker(
            {"listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}}, "plugins": plugins}
        )
        await started.start()
        return started

    running = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    yield port
    asyncio.run_coroutine_threadsafe(running.shutdown(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)


@pytest.fixture(params=["mosquitto", "amqtt"])
def broker(request):
    """Port of a broker."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def received(broker):
    """What a subscriber gets, as it comes."""
    lines, subscribed = [], threading.Event()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_message = lambda _client, _data, message: lines.append(json.loads(message.payload)["image"])
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect("127.0.0.1", broker)
    client.loop_start()
    client.subscribe(TOPIC, qos=1)
    assert subscribed.wait(30)
    yield lines
    client.disconnect()
    client.loop_stop()


class Cable:
    """A connection to a broker that can be cut, and plugged in again."""

    def __init__(self, port):
        self.port, self._broker, self._open = free_port(), port, []

    def plug_in(self):
        server = socket.create_server(("127.0.0.1", self.port))
        self._open = [server]
        threading.Thread(target=self._accept, args=[server], daemon=True).start()

    def cut(self):
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self, server):
        with suppress(OSError):
            while True:
                near = server.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._broker))
                self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=pair, daemon=True).start()

    @staticmethod
    def _copy(source, target):
        with suppress(OSError):
            while data := source.recv(4096):
                target.sendall(data)


@pytest.fixture
def cable(broker, monkeypatch):
    monkeypatch.setattr(module, "_DELAYS", (0.05, 0.1))
    made = Cable(broker)
    yield made
    made.cut()


def line(number):
    return json.dumps({"image": f"{number}.png", "score": 0.5}).encode()


def images(numbers):
    return [f"{number}.png" for number in numbers]


def test_lines_arrive_in_order(broker, received):
    sink = MqttSink(f"mqtt://127.0.0.1:{broker}/{TOPIC}")
    for number in range(50):
        sink.publish(line(number))
    sink.close()
    assert sink.undelivered == 0
    wait_until(lambda: len(received) == 50)
    assert received == images(range(50))


def test_nothing_is_lost_while_the_broker_is_away(cable, received, caplog):
    sink = MqttSink(f"mqtt://127.0.0.1:{cable.port}/{TOPIC}")
    for number in range(5):  # before it was ever there
        sink.publish(line(number))
    wait_until(lambda: "cannot be reached" in caplog.text)
    assert sink.undelivered == 5
    cable.plug_in()
    wait_until(lambda: sink.undelivered == 0)
    cable.cut()
    wait_until(lambda: "disconnected" in caplog.text)
    for number in range(5, 60):  # more than paho has on its way at a time
        sink.publish(line(number))
    assert sink.undelivered == 55
    cable.plug_in()
    sink.close()
    assert sink.undelivered == 0
    wait_until(lambda: set(received) == set(images(range(60))))
    messages = [record.message.removeprefix(sink.name) for record in caplog.records]
    assert [sentence[:20] for sentence in messages] == [
        ": the broker cannot ",
        " is reachable again.",
        ": disconnected (Unsp",
        " is reachable again.",
    ]


def test_what_is_never_delivered_is_counted(caplog):
    sink = MqttSink(f"mqtt://me:secret@127.0.0.1:{free_port()}/{TOPIC}", queue_size=3, patience=0.1)
    for number in range(5):
        sink.publish(line(number))
    wait_until(lambda: "the broker cannot be reached. Results are kept" in caplog.text)
    started = time.monotonic()
    sink.close()
    assert time.monotonic() - started < 3
    assert sink.undelivered == 5
    assert "secret" not in caplog.text + sink.name


NO_TOPICS = ["http://host/topic", "mqtt://host", "mqtt:///topic", "mqtt://h/a/#", "mqtt://h/+/a"]


@pytest.mark.parametrize("url", [*NO_TOPICS, "mqtt://me:secret@host:port/topic", "mqtt://me:secret@[::1/topic"])
def test_urls_that_are_no_topic(url):
    with pytest.raises(InspectionError, match="Expected mqtt://broker/topic") as raised:
        MqttSink(url)
    assert "secret" not in str(raised.value)


def test_a_queue_that_no_broker_can_number():
    with pytest.raises(InspectionError, match="from 1 to 60000, got 70000"):
        MqttSink("mqtt://host/topic", queue_size=70_000)
