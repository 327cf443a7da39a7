"""Results to a web server of this machine."""

import base64
import json
import time

import pytest

from anomalib_unias.deploy import InspectionError, WebhookSink
from local_servers import WebServer, wait_until

pytest.importorskip("urllib3", reason="urllib3 is not installed: pip install 'anomalib-unias[webhook]'")


@pytest.fixture
def server():
    made = WebServer()
    made.start()
    yield made
    made.stop()


def line(number):
    return json.dumps({"number": number}).encode()


def numbers(server):
    return [entry["number"] for entry in server.received]


def test_lines_are_posted_in_order(server):
    sink = WebhookSink(server.url.replace("://", "://me:se%40cret@") + "?line=3", headers={"X-Line": "3"})
    for number in range(20):
        sink.publish(line(number))
    sink.close()
    assert sink.undelivered == 0
    assert numbers(server) == list(range(20))
    headers = server.headers[0]
    assert (headers["Content-Type"], headers["X-Line"]) == ("application/json", "3")
    assert base64.b64decode(headers["Authorization"].removeprefix("Basic ")) == b"me:se@cret"
    assert sink.name == server.url


def test_nothing_is_lost_while_the_server_is_away(caplog):
    server = WebServer()
    sink = WebhookSink(server.url)
    for number in range(5):
        sink.publish(line(number))
    wait_until(lambda: "Results are kept and sent when the server is reachable again." in caplog.text)
    assert sink.undelivered == 5
    server.start()
    sink.close()
    assert sink.undelivered == 0
    assert numbers(server) == list(range(5))
    assert [record.message for record in caplog.records][1:] == [f"{server.url} is reachable again."]
    server.stop()


def test_answers_after_which_a_line_is_sent_again(server, caplog):
    server.answers = [503, 500, 429]
    sink = WebhookSink(server.url)
    sink.publish(line(0))
    sink.close()
    assert (sink.undelivered, numbers(server), caplog.records) == (0, [0], [])


def test_lines_that_are_refused_are_counted_and_reported_once(server, caplog):
    server.answers = [401, 401]
    sink = WebhookSink(server.url)
    for number in range(4):
        sink.publish(line(number))
    sink.close()
    assert sink.undelivered == 2
    assert numbers(server) == [2, 3]
    (record,) = caplog.records
    assert "the server refuses a result (status 401). Refused results are counted as not delivered." in record.message


def test_a_full_queue_loses_what_comes_and_counts_it():
    server = WebServer()
    sink = WebhookSink(server.url, queue_size=2, patience=0.1)
    for number in range(10):
        sink.publish(line(number))
    started = time.monotonic()
    sink.close()
    assert time.monotonic() - started < 3
    assert sink.undelivered == 10


@pytest.mark.parametrize(
    "url", ["mqtt://host/topic", "results", "http:///results", "http://h:99999/r", "http://[::1/r"]
)
def test_urls_that_are_no_server(url):
    with pytest.raises(InspectionError, match="Expected http://server/path"):
        WebhookSink(url)
    with pytest.raises(InspectionError, match="1 or more, got 0"):
        WebhookSink("http://localhost/results", queue_size=0)
