"""The examples in ``examples/serving`` and ``examples/model_server``: an exported model behind a server."""

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from runpy import run_path
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import openvino as ov
import pytest

SERVING = Path(__file__).parents[2] / "examples" / "serving"
ask = run_path(str(SERVING / "client.py"))["ask"]
write_toy_model = run_path(str(Path(__file__).parents[1] / "unit" / "deploy" / "exported_toy.py"))["write_toy_model"]


def mlserver() -> str:
    """The command, which needs an environment of its own."""
    path = os.environ.get("ANOMALIB_UNIAS_MLSERVER") or shutil.which("mlserver")
    if path is None:
        pytest.skip("MLServer is not installed; ANOMALIB_UNIAS_MLSERVER can name its command in another environment")
    return path


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


@pytest.fixture
def server(tmp_path):
    command = mlserver()
    write_toy_model(tmp_path / "model.xml")
    for name in ("openvino_runtime.py", "model-settings.json"):
        shutil.copy(SERVING / name, tmp_path)
    http, grpc, metrics = free_ports(3)
    ports = {"MLSERVER_HTTP_PORT": http, "MLSERVER_GRPC_PORT": grpc, "MLSERVER_METRICS_PORT": metrics}
    environment = {**os.environ, **{name: str(port) for name, port in ports.items()}, "MLSERVER_PARALLEL_WORKERS": "0"}
    log = (tmp_path / "server.log").open("w")
    process = subprocess.Popen([command, "start", tmp_path], env=environment, stdout=log, stderr=log, cwd=tmp_path)
    try:
        url = f"http://localhost:{http}"
        wait_until_ready(f"{url}/v2/models/anomaly/ready", process, tmp_path / "server.log")
        yield url
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def wait_until_ready(url, process, log):
    end = time.monotonic() + 300
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            with urlopen(url):
                return
        except URLError:
            time.sleep(0.5)
    pytest.fail(log.read_text())


def test_a_server_of_the_open_inference_protocol_answers(server):
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[3:6, 4:9, 0] = 204
    found = ask(server, "anomaly", pixels)
    assert found["pred_score"].item() == pytest.approx(0.8)
    assert found["pred_label"].item() == 1
    np.testing.assert_allclose(found["anomaly_map"].squeeze(), pixels[..., 0] / 255, atol=1e-6)


def test_configuration_of_openvino_model_server():
    """Its schema: these keys are needed, and it refuses keys that it does not know."""
    content = json.loads((SERVING.parent / "model_server" / "config.json").read_text())
    assert content.keys() == {"model_config_list"}
    for entry in content["model_config_list"]:
        assert entry.keys() == {"config"}
        needed, known = (
            {"name", "base_path"},
            {"target_device", "plugin_config", "nireq", "batch_size", "shape", "layout"},
        )
        assert needed <= entry["config"].keys() <= needed | known
        assert isinstance(entry["config"]["plugin_config"], dict)
        assert ov.Core().get_property(entry["config"]["target_device"], "SUPPORTED_PROPERTIES").keys() >= set(
            entry["config"]["plugin_config"]
        )
