"""What needs a package of an extra says so where it is missing."""

import sys

import pytest

from anomalib_unias.deploy import BatchInspector, InspectionError, MqttSink, WebhookSink


@pytest.mark.parametrize(
    ("kind", "argument", "module", "extra"),
    [
        (MqttSink, "mqtt://broker/topic", "paho.mqtt", "mqtt"),
        (WebhookSink, "http://server/results", "urllib3", "webhook"),
        (BatchInspector, "model.xml", "pyarrow", "ray"),
    ],
)
def test_a_package_that_is_missing_is_named(kind, argument, module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InspectionError, match=rf"which is not installed: pip install 'anomalib-unias\[{extra}\]'"):
        kind(argument)
