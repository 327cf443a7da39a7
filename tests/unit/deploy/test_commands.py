"""The commands: arguments, exit codes, files."""

import sys

import numpy as np
import pandas as pd
import pytest
from anomalib.models import Padim
from PIL import Image

from anomalib_unias import cli
from anomalib_unias.deploy import ParityReport, ParityRow, commands

SAME = [ParityRow("lightning predict", 0.0, 0.0, 0, 0.9), ParityRow("onnx", 1e-5, float("nan"), 0, float("nan"))]
BFLOAT16 = ParityRow("openvino at default precision", 0.1, 0.1, 1, 0.8)
OTHER = [ParityRow("openvino", 0.2, 0.1, 0, 0.9), ParityRow("openvino: network", 0.2, 0.1, 0, 0.9)]


@pytest.fixture
def called(monkeypatch):
    """What the check is called with; it answers with ``rows``."""
    calls = {"rows": SAME}

    def check(model, data, **options):
        calls.update(model=model, data=data, options=options)
        return ParityReport("Padim", options["calibration"] or "none", options["tolerance"], calls["rows"])

    monkeypatch.setattr(commands, "check_export_parity", check)
    return calls


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["anomalib-unias", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


PADIM = ["--model", "Padim", "--model.backbone", "resnet18", "--model.pre_trained", "false"]


def test_parity_of_any_model_on_a_folder(called, monkeypatch, tmp_path, capsys):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    called["rows"] = [*SAME, BFLOAT16]
    code = run(monkeypatch, "parity", *PADIM, "--images", tmp_path, "--output", tmp_path / "parity.csv", "--limit", 3)
    assert code == 0, capsys.readouterr().err
    assert isinstance(called["model"], Padim)
    assert called["data"] == [tmp_path / "a.png"]
    assert called["options"] == {"calibration": None, "tolerance": 1e-3, "limit": 3}
    assert len(pd.read_csv(tmp_path / "parity.csv")) == 3
    assert "INFERENCE_PRECISION_HINT" in capsys.readouterr().out


def test_parity_ends_with_one_and_names_the_stage(called, monkeypatch, capsys):
    called["rows"] = SAME + OTHER
    code = run(monkeypatch, "parity", *PADIM, "--data", "MVTecAD", "--data.category", "bottle")
    assert code == 1
    assert called["data"].category == "bottle"
    assert "begins to differ in openvino: network" in " ".join(capsys.readouterr().out.split())


def test_parity_needs_images():
    with pytest.raises(ValueError, match="either data"):
        commands.parity(model=Padim(backbone="resnet18", pre_trained=False))
