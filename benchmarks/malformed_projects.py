"""Malformed data sets, configurations and checkpoints, as people and broken disks make them, for the stock commands."""

import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from anomalib.cli import AnomalibCLI
from anomalib.data import Folder, MVTecAD
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from benchmarks.examples import TINY, tiny_model, two_products
from benchmarks.malformed import MALFORMED

from anomalib_unias import CombinedDataModule


@dataclass(frozen=True)
class Attempt:
    """One malformed input.

    Args:
        work (Callable[[], object]): Function that uses the input.
        names (list[str]): Names; a clear error message contains one of them.
    """

    work: Callable[[], object]
    names: list[str]


@dataclass(frozen=True)
class Project:
    """A well-formed project from which each malformed input is made.

    Args:
        data (Path): Two products in the layout of MVTec AD.
        checkpoint (Path): Checkpoint of a tiny UniAS.
        root (Path): Empty folder for results.
        options (dict[str, Any]): Options of the engine.
    """

    data: Path
    checkpoint: Path
    root: Path
    options: dict[str, Any] = field(default_factory=lambda: {"max_steps": 2, "accelerator": "cpu"})

    def engine(self) -> Engine:
        """Build the stock engine, without output.

        Returns:
            Engine: Engine for two steps.
        """
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        return Engine(default_root_dir=self.root, **quiet, **self.options)

    def copy(self, number: int) -> Path:
        """Copy the data.

        Args:
            number (int): Number of the input.

        Returns:
            Path: The copy.
        """
        return Path(shutil.copytree(self.data, self.root / f"data{number}"))


Case = Callable[[Project, int, np.random.Generator], Iterator[Attempt]]
"""Function that makes a number of malformed inputs."""

# Values that are wrong for all or most arguments.
_VALUES = [None, "", "nonsense", -1, 0, 1.5, 10**12, True, [], [1, "a"], {"a": 1}, float("nan"), "../..", "\x00"]


# Words that error messages use for arguments.
_WORDS = ["level", "Level", "network", "Backbone", "weights", "size", "stride", "steps", "class", "parsing config"]


def train(project: Project, data: Path, **arguments: Any) -> None:
    """Run ``anomalib train`` without parsing its arguments.

    Args:
        project (Project): Project for the results.
        data (Path): Data set.
        **arguments (Any): Arguments of the datamodule.
    """
    project.engine().train(tiny_model(feature_cache="off"), datamodule=two_products(data, **arguments))


def train_stock(project: Project, data: Path) -> None:
    """Run :func:`train` with a datamodule of anomalib.

    Args:
        project (Project): Project for the results.
        data (Path): Data set.
    """
    datamodule = MVTecAD(data, "plate", train_batch_size=4, num_workers=0)
    project.engine().train(tiny_model(feature_cache="off"), datamodule=datamodule)


def damaged_images(where: str, run: Callable[[Project, Path], object]) -> Case:
    """Make a case of data sets with a malformed image.

    Args:
        where (str): Image in the data set that is replaced.
        run (Callable[[Project, Path], object]): Function that uses the data set.

    Returns:
        Case: Case with all kinds of malformed images in turn.
    """

    def attempts(project: Project, count: int, rng: np.random.Generator) -> Iterator[Attempt]:
        for number in range(count):
            path = project.copy(number) / where
            path.unlink()
            list(MALFORMED.values())[number % len(MALFORMED)](path, rng)
            yield Attempt(partial(run, project, project.root / f"data{number}"), [path.name, path.parent.name])

    return attempts


def category_names(project: Project, count: int, rng: np.random.Generator) -> Iterator[Attempt]:
    """Make names of categories that do not exist, lead out of the data set, or are names of rows of the metrics."""
    del rng
    names = ["../plate", "/etc", "..", ".", "", "a/b", "plate/../lid", "mean", "mixed", "gap", "\x00"]
    names += ["plate\n", "Plate", "C:\\plate", "\udcff", "plate ", "*", "-", "~", "%s", "é" * 300]
    for number in range(count):
        name = names[number % len(names)]
        yield Attempt(partial(train, project, project.data, categories=[name]), [repr(name), "categor"])


def folders(project: Project, count: int, rng: np.random.Generator) -> Iterator[Attempt]:
    """Make data sets in which folders are missing, empty, files, or links."""
    parts = ["", "plate", "plate/train", "plate/train/good", "plate/test", "plate/test/good", "plate/test/square"]
    parts += ["plate/ground_truth", "plate/ground_truth/square"]
    for number in range(count):
        data = project.copy(number)
        target = data / parts[number % len(parts)]
        shutil.rmtree(target)
        damage = rng.integers(4)
        if damage == 1:
            target.mkdir()
        elif damage == 2:
            target.write_bytes(rng.bytes(20))
        elif damage == 3:
            target.symlink_to(target)
        yield Attempt(partial(train, project, data), [str(data), "plate", "categor"])


def tables(project: Project, count: int, rng: np.random.Generator) -> Iterator[Attempt]:
    """Make damaged tables of images, and ``Folder`` with tables instead of folders."""
    good = "image_path,label_index,split\n" + "".join(
        f"{path},{int(path.parent.name != 'good')},{path.parent.parent.name}\n"
        for path in sorted((project.data / "plate").glob("t*/*/*.png"))
    )
    for number in range(count):
        path = project.root / f"table{number}.csv"
        text = bytearray(good.encode())
        damage = number % 6
        if damage == 0:
            text = text[: int(rng.integers(0, len(text)))]
        elif damage == 1:
            text = bytearray(rng.bytes(500))
        elif damage == 2:
            for position in rng.integers(0, len(text), 30):
                text[position] = rng.integers(32, 127)
        elif damage == 3:
            text = text.replace(b"label_index", b"label")
        elif damage == 4:
            text = text.replace(b"plate", b"missing")
        path.write_bytes(text)
        yield Attempt(partial(_train_table, project, path, as_folder=damage == 5), [path.name, "table", "missing"])


def _train_table(project: Project, path: Path, *, as_folder: bool) -> None:
    from anomalib.data import Tabular

    part = (
        Folder("table", normal_dir=path, root=path.parent)
        if as_folder
        else Tabular.from_file(name="table", file_path=path)
    )
    datamodule = CombinedDataModule({"table": part}, train_batch_size=4, num_workers=0)
    project.engine().train(tiny_model(feature_cache="off"), datamodule=datamodule)


def configurations(command: str) -> Case:
    """Make a case of configurations with damaged text or a wrong value, for the stock command.

    Args:
        command (str): ``train``, ``predict`` or ``export``.

    Returns:
        Case: Configurations.
    """

    def attempts(project: Project, count: int, rng: np.random.Generator) -> Iterator[Attempt]:
        for number in range(count):
            path = project.root / f"{command}{number}.yaml"
            arguments: dict[str, Any] = {**TINY, "feature_cache": "off", "visualizer": False, "training_steps": 2}
            names = [path.name, *TINY, *_WORDS]
            if number % 3:
                arguments.update(learning_rate=1e-3, prototypes=0, dropout=0.1, image_score="max", level_weights=None)
                key = str(rng.choice(sorted(arguments)))
                arguments[key] = _VALUES[int(rng.integers(len(_VALUES)))]
                names.append(key)
            text = yaml.safe_dump({"model": {"class_path": "UniAS", "init_args": arguments}}).encode()
            if number % 3 == 0:
                text = _damaged(text, rng)
            path.write_bytes(text)
            yield Attempt(partial(_command, project, command, path), [*names, "model."])

    return attempts


def _command(project: Project, command: str, config: Path) -> None:
    plain = {"class_path": "MVTecAD", "init_args": {"root": str(project.data), "category": "plate", "num_workers": 0}}
    data = project.root / "data.yaml"
    data.write_text(yaml.safe_dump(plain))
    arguments = [command, "--config", config, "--trainer.accelerator", "cpu", "--default_root_dir", project.root]
    arguments += {
        "train": ["--data", data],
        "predict": ["--data", project.data / "plate/test/good", "--ckpt_path", project.checkpoint],
        "export": ["--export_type", "torch", "--ckpt_path", project.checkpoint],
    }[command]
    AnomalibCLI(args=[str(argument) for argument in arguments])


def _damaged(text: bytes, rng: np.random.Generator) -> bytes:
    damage = rng.integers(3)
    if damage == 0:
        return text[: int(rng.integers(0, len(text)))]
    if damage == 1:
        return rng.bytes(200)
    changed = bytearray(text)
    for position in rng.integers(0, len(text), 5):
        changed[position] = rng.integers(32, 127)
    return bytes(changed)


def checkpoints(run: Callable[[Project, Path], object]) -> Case:
    """Make a case of checkpoints that are damaged, belong to something else, or lack a part.

    Args:
        run (Callable[[Project, Path], object]): Function that uses the checkpoint.

    Returns:
        Case: Checkpoints.
    """

    def attempts(project: Project, count: int, rng: np.random.Generator) -> Iterator[Attempt]:
        for number in range(count):
            path = project.root / f"model{number}.ckpt"
            _write_checkpoint(path, project.checkpoint, number % 8, rng)
            yield Attempt(partial(run, project, path), [path.name, "checkpoint"])

    return attempts


def _write_checkpoint(path: Path, good: Path, damage: int, rng: np.random.Generator) -> None:
    data = good.read_bytes()
    if damage == 0:
        path.write_bytes(data[: int(rng.integers(0, len(data)))])
    elif damage == 1:
        path.write_bytes(rng.bytes(int(rng.integers(1, 4000))))
    elif damage == 2:
        changed = bytearray(data)
        for position in rng.integers(0, len(data), 20):
            changed[position] = rng.integers(256)
        path.write_bytes(changed)
    elif damage == 3:
        path.mkdir()
    elif damage == 4:
        torch.save([None, {"state_dict": 3}, torch.ones(2), "text"][int(rng.integers(4))], path)
    elif damage == 5:
        checkpoint = torch.load(io.BytesIO(data), weights_only=False)
        del checkpoint[str(rng.choice(["state_dict", "hyper_parameters", "pytorch-lightning_version"]))]
        torch.save(checkpoint, path)
    elif damage == 6:
        checkpoint = torch.load(io.BytesIO(data), weights_only=False)
        del checkpoint["state_dict"][str(rng.choice([key for key in checkpoint["state_dict"] if key[:6] == "model."]))]
        torch.save(checkpoint, path)


def resume(project: Project, checkpoint: Path) -> None:
    """Resume training from a checkpoint.

    Args:
        project (Project): Project with the data.
        checkpoint (Path): The checkpoint.
    """
    project.engine().fit(tiny_model(feature_cache="off"), datamodule=two_products(project.data), ckpt_path=checkpoint)


def predict(project: Project, checkpoint: Path) -> None:
    """Predict with a checkpoint.

    Args:
        project (Project): Project with the images.
        checkpoint (Path): The checkpoint.
    """
    project.engine().predict(tiny_model(), data_path=project.data / "plate/test/good", ckpt_path=checkpoint)


def predict_images(project: Project, data: Path) -> None:
    """Predict a folder of images.

    Args:
        project (Project): Project with the checkpoint.
        data (Path): Data set; the good test images of one product are used.
    """
    project.engine().predict(tiny_model(), data_path=data / "plate/test/good", ckpt_path=project.checkpoint)


def export(project: Project, checkpoint: Path) -> None:
    """Export a checkpoint.

    Args:
        project (Project): Project for the export.
        checkpoint (Path): The checkpoint.
    """
    project.engine().export(tiny_model(), ExportType.TORCH, export_root=project.root, ckpt_path=checkpoint)


PROJECT_CASES: dict[tuple[str, str], tuple[Case, int]] = {
    ("train", "training image damaged"): (damaged_images("plate/train/good/003.png", train), 80),
    ("train", "training image damaged, datamodule of anomalib"): (
        damaged_images("plate/train/good/003.png", train_stock),
        20,
    ),
    ("train", "mask damaged"): (damaged_images("plate/ground_truth/square/001_mask.png", train), 30),
    ("train", "name of a category"): (category_names, 21),
    ("train", "folders"): (folders, 40),
    ("train", "table of images"): (tables, 36),
    ("train", "configuration"): (configurations("train"), 60),
    ("train", "checkpoint"): (checkpoints(resume), 40),
    ("predict", "image damaged"): (damaged_images("plate/test/good/001.png", predict_images), 40),
    ("predict", "configuration"): (configurations("predict"), 30),
    ("predict", "checkpoint"): (checkpoints(predict), 40),
    ("export", "configuration"): (configurations("export"), 30),
    ("export", "checkpoint"): (checkpoints(export), 40),
}
"""Target and name -> case and number of inputs."""
