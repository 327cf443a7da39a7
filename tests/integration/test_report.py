"""The report of a test through the stock Engine and the stock command line, looked at with a real browser."""

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.cli import AnomalibCLI
from anomalib.engine import Engine
from anomalib.models import Padim
from headless_browser import CHROMIUM, Page
from lightning.pytorch import Callback
from PIL import Image

from anomalib_unias import UniAS, UnifiedDataModule, cli
from anomalib_unias.evaluation.metrics_file import check_metrics
from anomalib_unias.metrics import UnifiedEvaluator
from anomalib_unias.report import EvaluationReport

WriteCategory = Callable[..., Path]
CATEGORIES = ["bottle", "cable"]
PADIM = {"backbone": "resnet18", "layers": ["layer1"], "pre_trained": False, "n_features": 4}
SUMMARY = ["mean", "mixed", "gap"]
TABLES = ["metrics.csv", "images.csv", "regions.csv", "suspects.csv", "pixel_counts.npz"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, write_category: WriteCategory) -> Path:
    root = tmp_path_factory.mktemp("report") / "products"
    for category in CATEGORIES:
        write_category(root, category, size=48)
    return root


TITLES = [
    *("At the threshold", "False alarms and misses", "Which defects are found", "Score levels", "Scores", "Curves"),
    *("Labels under suspicion", "Settings"),
]


def datamodule(root: Path, **arguments: object) -> UnifiedDataModule:
    return UnifiedDataModule(root=root, train_batch_size=4, eval_batch_size=5, num_workers=0, seed=0, **arguments)


def make_engine(root: Path, *callbacks: Callback, **arguments: object) -> Engine:
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    return Engine(default_root_dir=root.parent / "results", callbacks=[*callbacks], **quiet, **arguments)


def make_padim(**arguments: object) -> Padim:
    torch.manual_seed(0)
    return Padim(**PADIM, pre_processor=Padim.configure_pre_processor((32, 32)), **arguments)


@pytest.fixture(scope="module")
def padim_report(root: Path) -> Path:
    """Report of a model with anomalib's evaluator, in the folder of the results."""
    engine = make_engine(root, EvaluationReport())
    model, data = make_padim(), datamodule(root)
    engine.fit(model, datamodule=data)
    names = [type(callback).__name__ for callback in engine.trainer.callbacks]
    (logged,) = engine.test(model, datamodule=data, verbose=False)
    assert set(logged) == {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"}
    assert sorted(type(callback).__name__ for callback in engine.trainer.callbacks) == sorted(names)
    folder = Path(engine.trainer.default_root_dir) / "report"
    assert (folder.parent / "images").is_dir()
    # anomalib's own numbers where nothing is clamped: labels.
    assert 0 <= pd.read_csv(folder / "metrics.csv", index_col="category").loc["mixed", "image_auroc"] <= 1
    return folder


@pytest.fixture(scope="module")
def unias_run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, UniAS, list[str]]:
    """Report of a UniAS, in a folder of its own, and the messages of the run."""
    folder = tmp_path_factory.mktemp("unias") / "of" / "unias"
    tiny = {"hidden_dim": 16, "num_heads": 2, "feedforward_dim": 32, "encoder_layers": 1, "neighbor_mask_size": 3}
    torch.manual_seed(0)
    model = UniAS(backbone="resnet18", pre_trained=False, image_size=(64, 96), training_steps=2, **tiny)
    engine = make_engine(root, EvaluationReport(folder, pictures=2), max_steps=2)
    with pytest.MonkeyPatch.context() as patch:
        messages: list[str] = []
        patch.setattr("anomalib_unias.report.callback.rank_zero_info", messages.append)
        engine.fit(model, datamodule=datamodule(root))
        assert not folder.exists()
        engine.test(model, datamodule=datamodule(root), verbose=False)
    return folder, model, messages


@pytest.fixture(scope="module", params=["padim", "unias"])
def folder(request: pytest.FixtureRequest) -> Path:
    if request.param == "padim":
        return request.getfixturevalue("padim_report")
    return request.getfixturevalue("unias_run")[0]


def test_the_page_needs_nothing_but_its_folder(folder: Path) -> None:
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:", page)
    sources = re.findall(r'<img src="([^"]+)"', page)
    assert {f"figures/{name}.svg" for name in ("levels", "image_roc", "pixel_precision_recall")} <= set(sources)
    assert [source for source in sources if not (folder / source).is_file()] == []
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    pictures = {file for file in files if file.startswith("gallery/")}
    assert files == {"index.html", "threshold.html", "metrics.json", *TABLES, *sources, *pictures}
    assert all(f"<h2>{title}" in page for title in TITLES)


def test_metrics_files_are_alike(folder: Path) -> None:
    table = pd.read_csv(folder / "metrics.csv", index_col="category")
    assert list(table.index) == [*CATEGORIES, *SUMMARY]

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"), parse_constant=refuse)
    check_metrics(content)
    wide = pd.DataFrame(content["metrics"]).pivot(index="category", columns="metric", values="value").astype(float)
    pd.testing.assert_frame_equal(table.sort_index(), wide[table.columns], check_names=False)
    assert math.isnan(wide.loc["gap", "missed_defects"])
    low, high = (
        next(row[end] for row in content["metrics"] if row["category"] == "mixed" and row["metric"] == "pixel_ap")
        for end in ("low", "high")
    )
    assert low <= wide.loc["mixed", "pixel_ap"] <= high
    images = pd.read_csv(folder / "images.csv")
    deployed = next(row for row in content["error_rates"] if row["category"] == "mixed" and row["at"] == "deployed")
    assert deployed["false_alarms"] == images.loc[images["label"] == 0, "predicted"].sum()
    assert deployed["miss_low"] <= deployed["miss_rate"] <= deployed["miss_high"]
    assert len(pd.read_csv(folder / "regions.csv")) == (images["label"] == 1).sum()  # a square in each
    assert content["settings"]["data"]["categories"] == CATEGORIES
    assert math.isfinite(content["image_threshold"])


def test_numbers_are_those_of_the_model_s_evaluator(unias_run: tuple[Path, UniAS, list[str]]) -> None:
    folder, model, messages = unias_run
    table = pd.read_csv(folder / "metrics.csv", index_col="category")
    assert len(model.evaluator.results) == table.size
    for category, metric, value in model.evaluator.results.itertuples(index=False):
        assert table.loc[category, metric] == pytest.approx(value, nan_ok=True), (category, metric)
    content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert content["image_threshold"] == pytest.approx(float(model.post_processor.image_threshold))
    settings = content["settings"]
    assert settings["model"]["class"].endswith(".UniAS")
    assert settings["model"]["hidden_dim"] == 16
    assert settings["trainer"]["max_steps"] == 2
    assert settings["versions"]["torch"] == torch.__version__.split("+")[0]
    assert messages == [f"Report: {folder / 'index.html'}"]
    # Two pictures per category and gallery at most (eight near the threshold), as many images belong into one of them.
    pictures = [path.name for path in (folder / "gallery").iterdir()]
    assert 4 <= len([name for name in pictures if not name.startswith("near")]) <= 12
    assert len([name for name in pictures if name.startswith("near")]) == 12  # all there are


def test_any_model_gets_the_numbers_of_the_unified_evaluator(root: Path, padim_report: Path) -> None:
    """The report's own evaluator beside a stock one gives what the model's own would have given."""
    evaluator = UnifiedEvaluator(print_table=False)
    folder = root.parent / "with_evaluator"
    engine = make_engine(root, EvaluationReport(folder))
    model = make_padim(evaluator=evaluator)
    engine.fit(model, datamodule=datamodule(root))
    for _ in range(2):  # a second report replaces the first
        (logged,) = engine.test(model, datamodule=datamodule(root), verbose=False)
        table = pd.read_csv(folder / "metrics.csv", index_col="category")
        assert table.loc["mixed", "pixel_ap"] == pytest.approx(logged["mixed_pixel_ap"], abs=1e-6)
        np.testing.assert_allclose(table, pd.read_csv(padim_report / "metrics.csv", index_col="category"), rtol=1e-5)


def test_command_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stock command takes the callback with its arguments, and its engine passes it on."""
    monkeypatch.chdir(root.parent)
    data = {"datamodule": "MVTecAD", "categories": "[bottle,cable]", "root": str(root), "num_workers": "0"}
    AnomalibCLI(
        args=[
            "train",
            "--data=UnifiedDataModule",
            *(f"--data.{name}={value}" for name, value in data.items()),
            "--model=Padim",
            *(f"--model.{name}={value}" for name, value in PADIM.items()),
            "--trainer.accelerator=cpu",
            "--trainer.logger=false",
            "--trainer.callbacks=anomalib_unias.report.EvaluationReport",
            "--trainer.callbacks.pictures=1",
            "--default_root_dir=by_command",
        ]
    )
    (page,) = (root.parent / "by_command").rglob("report/index.html")
    assert (page.parents[1] / "weights").is_dir()
    settings = json.loads((page.parent / "metrics.json").read_text(encoding="utf-8"))["settings"]
    assert Path(settings["trainer"]["checkpoint"]).is_file()


@pytest.fixture
def opened(folder: Path, tmp_path: Path) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("no chromium found, install it with: apt-get install chromium")
    with Page((folder / "index.html").as_uri(), tmp_path / "profile") as page:
        yield page


def test_in_a_browser(opened: Page, folder: Path) -> None:
    """The page loads without errors, shows every image, sorts by click and filters the pictures."""
    broken = "[...document.images].filter(image => !image.naturalWidth).map(image => image.src)"
    eager = "document.images].map(image => { image.loading = 'eager'; return image.decode(); })"
    opened.evaluate(f"Promise.all([...{eager})")
    assert opened.evaluate("document.images.length") > 10
    assert opened.evaluate(broken) == []

    table = pd.read_csv(folder / "metrics.csv", index_col="category").loc[CATEGORIES]
    rows = "[...document.querySelectorAll('#{} tbody tr')].map(row => row.cells[0].textContent)"
    heading = "[...document.querySelectorAll('#{} thead th[scope=col]')][{}]"
    assert opened.evaluate(rows.format("metrics-table")) == CATEGORIES
    # The columns of categories and pixel AP, ascending, then descending.
    for column, values in ((0, pd.Series(CATEGORIES, CATEGORIES)), (5, table["pixel_ap"])):
        for direction, ascending in (("ascending", True), ("descending", False)):
            opened.click(heading.format("metrics-table", column))
            shown = opened.evaluate(rows.format("metrics-table"))
            assert shown == list(values.sort_values(ascending=ascending, kind="stable").index)
            assert opened.evaluate(heading.format("metrics-table", column) + ".ariaSort") == direction
    summary = "[...document.querySelectorAll('#metrics-table tfoot tr')].map(row => row.cells[0].textContent)"
    assert opened.evaluate(summary) == SUMMARY

    visible = "[...document.querySelectorAll('.gallery figure:not([hidden])')].map(figure => figure.dataset.category)"
    assert set(opened.evaluate(visible)) == set(CATEGORIES)
    choose = "(() => { const s = document.getElementById('category'); s.value = 'cable';"
    opened.evaluate(choose + "s.dispatchEvent(new Event('change')); })()")
    assert set(opened.evaluate(visible)) == {"cable"}
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

    assert opened.named("Runtime.exceptionThrown") == []
    assert opened.named("Log.entryAdded") == []
    assert opened.named("Runtime.consoleAPICalled") == []
    requested = {event["request"]["url"] for event in opened.named("Network.requestWillBeSent")}
    assert {url.partition(":")[0] for url in requested} <= {"file", "data"}


def test_a_test_set_without_defects_and_labels(root: Path, tmp_path: Path) -> None:
    """Undefined numbers are dashes and null, and there are no curves."""
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        for split in ("train", "test"):
            path = tmp_path / "plain" / "only$<b>" / split / "good" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    data = UnifiedDataModule(root=tmp_path / "plain", num_workers=0, val_split_mode="none")
    folder = tmp_path / "report"
    engine = make_engine(root, EvaluationReport(folder))
    model = make_padim(post_processor=False, evaluator=False)
    engine.fit(model, datamodule=data)
    engine.test(model, datamodule=data, verbose=False)
    content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert content["image_threshold"] is None
    check_metrics(content)
    assert {row["metric"] for row in content["metrics"] if row["value"] is not None} == {
        "missed_defects"
    }  # none to miss
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "only$&lt;b&gt;" in page
    assert "only$<b>" not in page
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)
    assert "Undefined: the test set has no defective or no good images." in page
    assert page.count("Unknown: the model predicts no labels.") == 3
    assert [path.name for path in (folder / "figures").iterdir()] == ["levels.svg"]
    assert "Sizes are unknown" in page
    assert '"threshold": null' in (folder / "threshold.html").read_text(encoding="utf-8")


def test_without_validation_no_label_is_invented(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """anomalib's post-processor calls every image defective that scores above 0.5, whatever the scale of the scores."""
    engine = make_engine(root, EvaluationReport(tmp_path))
    model, data = make_padim(), datamodule(root, val_split_mode="none")
    engine.fit(model, datamodule=data)
    engine.test(model, datamodule=data, verbose=False)
    warnings = [record.message for record in caplog.records if "unias" in record.name and record.levelname == "WARNING"]
    assert [message[:27] for message in warnings] == ["There is no image threshold"]
    assert pd.read_csv(tmp_path / "images.csv")[["predicted", "marked"]].isna().all(axis=None)
    content = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert content["image_threshold"] is None
    deployed = [row for row in content["error_rates"] if row["at"] == "deployed"]
    assert {row[name] for row in deployed for name in ("false_alarms", "misses", "miss_rate")} == {None}
    assert next(row for row in content["metrics"] if row["metric"] == "image_auroc")["value"] is not None
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert page.count("Unknown: the model predicts no labels.") == 3
    assert [path.name for path in (tmp_path / "gallery").iterdir()] == []


def test_two_reports_are_compared(
    padim_report: Path,
    unias_run: tuple[Path, UniAS, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    page = tmp_path / "page.html"
    command = ["anomalib-unias", "compare", str(padim_report), str(unias_run[0]), "--output", str(page)]
    monkeypatch.setattr("sys.argv", [*command, "--samples=50"])
    cli.main()
    assert "no difference beyond chance" in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    assert "12 test images" in text
    assert "Pixel AP" in text
    monkeypatch.setattr("sys.argv", ["anomalib-unias", "compare", str(padim_report), str(tmp_path)])
    with pytest.raises(SystemExit, match="has no images.csv"):
        cli.main()


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="0 or more, got -1"):
        EvaluationReport(pictures=-1)
