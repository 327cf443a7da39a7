"""The configurations for anomalib's benchmark pipeline."""

import copy
import gc
import pickle
import sys
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import yaml
from anomalib.models import AnomalibModule, Padim, get_model, list_models
from anomalib.pipelines import Benchmark
from anomalib.pipelines.components.utils import get_iterator_from_grid_dict
from omegaconf import OmegaConf

from anomalib_unias import CadaPostProcessor, UnifiedDataModule, UnifiedEvaluator, assemble

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "benchmark").glob("*.yaml"))
SMALL = {"backbone": "resnet18", "pre_trained": False}


@cache
def built(class_path: str, arguments: str) -> AnomalibModule:
    """A model by its arguments in YAML; the seeds and the data sets share it."""
    return get_model({"class_path": class_path, "init_args": yaml.safe_load(arguments)})


@pytest.fixture(scope="module", autouse=True)
def _forget_models():
    """What ``assemble`` derives has the name of the stock model, which the command line would then find twice."""
    yield
    built.cache_clear()
    gc.collect()


def test_they_are_there():
    assert [path.stem for path in CONFIGS] == ["mvtecad", "visa"]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_five_models_three_seeds(config):
    jobs = list(get_iterator_from_grid_dict(yaml.safe_load(config.read_text())["benchmark"]))
    assert len(jobs) == 15
    for job in jobs:
        arguments = {**job["model"]["init_args"], **SMALL}
        model = built(job["model"]["class_path"], yaml.safe_dump(arguments))
        assert type(model).__name__ == arguments["model"]
        assert isinstance(model.evaluator, UnifiedEvaluator)
        assert model.trainer_arguments.get("max_steps", 1) == 10_000 or model.trainer_arguments["max_epochs"] == 1
        assert len(UnifiedDataModule(**job["data"]["init_args"]).categories) > 10


@pytest.mark.parametrize("config", CONFIGS[:1], ids=lambda path: path.stem)
def test_one_step_of_each(config, tmp_path, monkeypatch, write_category):
    for category in ("plate", "lid"):
        write_category(tmp_path / "data", category, train=2, good=2, defective=2)
    content = yaml.safe_load(config.read_text())
    content["accelerator"] = ["cpu"]
    benchmark = content["benchmark"]
    benchmark["seed"] = 0
    benchmark["model"]["init_args"] |= SMALL | {"trainer_arguments": {"max_steps": 1, "max_epochs": -1}}
    benchmark["data"]["init_args"] |= {"root": str(tmp_path / "data"), "num_workers": 0, "train_batch_size": 2}
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["anomalib", "--config", "benchmark.yaml"])
    Benchmark().run()
    (path,) = tmp_path.glob("runs/**/results.csv")
    results = pd.read_csv(path)
    assert list(results["model.init_args.model"]) == [
        "UniAS",
        "UniAD",
        "ReContrast",
        "Patchcore",
        "ReverseDistillation",
    ]
    assert results["mixed_pixel_ap"].between(0, 1).all()


def test_cada_by_name():
    config = {
        "class_path": "anomalib_unias.assemble",
        "init_args": {"model": "Padim", "post_processor": "CadaPostProcessor"},
    }
    config["init_args"] |= SMALL
    model = get_model(OmegaConf.create(config))
    assert isinstance(model.post_processor, CadaPostProcessor)
    assert type(model).__name__ == "Padim"


@pytest.mark.parametrize("trainer_arguments", [None, {"max_epochs": 3, "devices": 2}])
def test_it_is_a_model_like_any_other(trainer_arguments):
    """Of its class, with its own demands first, also when it is copied or pickled."""
    model = assemble("padim", trainer_arguments=trainer_arguments, layers=["layer1"], n_features=9, **SMALL)
    assert isinstance(model, Padim)
    assert (model.name, type(model).__module__) == ("Padim", Padim.__module__)
    expected = {**(trainer_arguments or {}), **Padim.trainer_arguments.fget(model)}
    copied = pickle.loads(pickle.dumps(model))
    assert model.trainer_arguments == copied.trainer_arguments == copy.deepcopy(model).trainer_arguments == expected
    assert copied.hparams == model.hparams
    assert copied.hparams["layers"] == ["layer1"]
    assert copied.state_dict().keys() == model.state_dict().keys()
    assert not [name for name in list_models("pascal") if "Asking" in name]


def test_unknown_part():
    with pytest.raises(ValueError, match="post_processor must be one of CadaPostProcessor"):
        assemble("Padim", post_processor="Cada", **SMALL)
