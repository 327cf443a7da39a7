"""Configurations and examples are copied, and nothing is overwritten."""

import sys

import pytest

from anomalib_unias import cli
from anomalib_unias.shipped import copy_shipped, shipped_folder


def test_a_second_copy_changes_nothing(tmp_path):
    first = copy_shipped("configs", tmp_path / "a" / "configs")
    presets = {path.name for path in first if path.parent == tmp_path / "a" / "configs" / "model"}
    assert presets == {"unias_lite.yaml", "uniad_lite.yaml", "recontrast_lite.yaml"}
    assert all(path.is_file() for path in first)
    assert copy_shipped("configs", tmp_path / "a" / "configs") == first


def test_own_files_stay(tmp_path, monkeypatch):
    own = tmp_path / "serving" / "client.py"
    own.parent.mkdir()
    own.write_text("mine")
    monkeypatch.setattr(sys, "argv", ["anomalib-unias", "examples", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"client.py exists and is not the file of this version"):
        cli.main()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [own]
    assert own.read_text() == "mine"


def test_a_folder_that_is_not_there():
    with pytest.raises(FileNotFoundError, match="has no pictures"):
        shipped_folder("pictures")
