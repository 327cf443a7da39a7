"""The configurations for anomalib's benchmark pipeline."""

import copy
import gc
import pickle
import sys
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from anomalib.models import AnomalibModule, Padim, get_model, list_models
from anomalib.pipelines import Benchmark
from anomalib.pipelines.components.utils import get_iterator_from_grid_dict
from omegaconf import OmegaConf

from anomalib_unias import CadaPostProcessor, UnifiedDataModule, UnifiedEvaluator, assemble

FOLDER = Path(__file__).parents[2] / "configs" / "benchmark"
CONFIGS = [FOLDER / "mvtecad.yaml", FOLDER / "visa.yaml"]
PRODUCTS = FOLDER / "products.yaml"
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
    assert {*CONFIGS, PRODUCTS} == set(FOLDER.glob("*.yaml"))


def test_three_models_of_one_size_on_products_of_ones_own():
    content = yaml.safe_load(PRODUCTS.read_text())
    assert content["accelerator"] == ["cpu"]
    jobs = list(get_iterator_from_grid_dict(content["benchmark"]))
    models = {}
    for job in jobs:
        assert UnifiedDataModule.__name__ == job["data"]["class_path"]
        arguments = copy.deepcopy(job["model"]["init_args"])
        for own in arguments["arguments_of"].values():
            own["pre_trained"] = False
        model = models[arguments["model"]] = get_model({**job["model"], "init_args": arguments})
        assert isinstance(model.evaluator, UnifiedEvaluator)
        assert list(model.pre_processor.transform.transforms[0].size) == [224, 224]
    assert len(jobs) == 9
    assert list(models) == ["UniASLite", "Patchcore", "ReverseDistillation"]
    preset, patchcore, other = models.values()
    assert patchcore.hparams["backbone"] == preset.hparams["backbone"]
    assert patchcore.coreset_sampling_ratio == 0.01
    assert other.trainer_arguments["max_steps"] == 500


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


def test_arguments_of_one_model_go_before_those_of_all():
    common = {
        "arguments_of": {"Padim": {"n_features": 7, "evaluator": None, "trainer_arguments": {"limit_train_batches": 2}}}
    }
    padim = assemble("Padim", layers=["layer1"], n_features=9, **SMALL, **common)
    assert (padim.model.n_features, padim.trainer_arguments["limit_train_batches"]) == (7, 2)
    assert not isinstance(padim.evaluator, UnifiedEvaluator)
    assert assemble("Patchcore", **SMALL, **common).model.num_neighbors == 9


def test_pre_processor_by_its_numbers():
    model = assemble("Padim", pre_processor={"image_size": [32, 48], "mean": [0.5] * 3, "std": [0.25] * 3}, **SMALL)
    images = model.pre_processor.transform(torch.full((1, 3, 64, 64), 0.75))
    torch.testing.assert_close(images, torch.ones(1, 3, 32, 48))


def test_pre_processor_needs_its_three_numbers():
    with pytest.raises(ValueError, match=r"must have image_size, mean and std, got image_size\."):
        assemble("Padim", pre_processor={"image_size": [32, 48]}, **SMALL)


def test_unknown_part():
    with pytest.raises(ValueError, match="post_processor must be one of CadaPostProcessor"):
        assemble("Padim", post_processor="Cada", **SMALL)
