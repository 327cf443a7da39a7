"""Groups, runs that are not repeated, and summaries of the benchmarks."""

import argparse
import sys
from importlib import import_module
from inspect import signature
from pathlib import Path

import pandas as pd
import pytest
import yaml

protocol = pytest.importorskip("benchmarks.protocol", reason="benchmarks are not part of a source distribution")

from benchmarks import cada, harness, paper_cada, quality, quality_summary, recipe, stock_pipeline  # noqa: E402
from benchmarks.groups import Group  # noqa: E402
from benchmarks.models import TRAINED, needed_gb  # noqa: E402

from anomalib_unias import ReContrastLite  # noqa: E402

MODELS_OF_PIPELINE = ("unias_lite", "patchcore", "reverse_distillation")


@pytest.fixture
def folder(tmp_path):
    for category in ("bolt", "nut", "plate"):
        (tmp_path / category / "train" / "good").mkdir(parents=True)
    return tmp_path


def table(*rows):
    names = ["group", "model", "seed", "category", "metric", "value"]
    return pd.DataFrame(rows, columns=names).assign(calibration="default")[quality.COLUMNS]


def test_group_is_a_folder_or_some_of_its_categories(folder):
    assert Group.parse(f"b={folder}") == Group("b", folder, ())
    assert Group.parse(f"b={folder}:nut,bolt") == Group("b", folder, ("nut", "bolt"))
    assert Group.parse(f"b={folder}").datamodule(0).categories == ["bolt", "nut", "plate"]
    assert Group.parse(f"b={folder}:nut,bolt").datamodule(0).categories == ["nut", "bolt"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("folder", "expected NAME=DIR"),
        ("=folder", "expected NAME=DIR"),
        ("b=", "expected NAME=DIR"),
        ("b=/no/such", "/no/such is not a folder"),
        ("b={}:bolt,screw", "screw is not a folder"),
    ],
)
def test_group_that_is_not_there(folder, text, message):
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        Group.parse(text.format(folder))


@pytest.mark.parametrize("path", sorted(Path(protocol.__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_use_what_there_is(path):
    """Names are renamed in the package, and most benchmarks are run once a year."""
    import_module(f"benchmarks.{path.stem}")


def test_runs_in_the_table_are_not_repeated(tmp_path):
    path = tmp_path / "quality.csv"
    assert harness.read_table(path, quality.COLUMNS).empty
    harness.append(path, table(("a", "padim", 0, "mixed", "aupro", 0.5)))
    harness.append(path, table(("a", "padim", 1, "mixed", "aupro", 0.5)))
    done = harness.read_table(path, quality.COLUMNS)
    wanted = [("a", "padim", "0"), ("b", "padim", "0"), ("a", "padim", "1"), ("a", "stfpm", "0")]
    assert harness.missing(wanted, done, quality.KEY) == [("b", "padim", "0"), ("a", "stfpm", "0")]


def test_table_of_other_columns_is_refused(tmp_path):
    path = tmp_path / "quality.csv"
    table(("a", "padim", 0, "mixed", "aupro", 0.5)).drop(columns="group").to_csv(path, index=False)
    with pytest.raises(ValueError, match="Move it away"):
        harness.read_table(path, quality.COLUMNS)


def test_run_that_fails_is_shown_at_the_end_and_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    (tmp_path / "measure.py").write_text(
        "import sys\nfrom pathlib import Path\n"
        "job = sys.argv[-1]\nprint('  ... half of', job)\nprint('noise')\n"
        "Path(job).touch() if job != 'b' else sys.exit('no such b')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["measure", "--seeds", "0"])
    assert not harness.run_all("measure", [("b",), ("c",)], tmp_path / "results")
    assert (tmp_path / "c").exists()
    shown = capsys.readouterr().out
    assert "half of c" in shown
    assert shown.index("2/2: c") < shown.index("no such b")
    assert "noise" not in shown.split("b failed:")[0]
    (run,) = pd.read_csv(tmp_path / "results" / harness.RUNS, keep_default_na=False).to_dict("records")
    assert (run["module"], run["run"], run["arguments"]) == ("measure", "c", "--seeds 0")
    assert run["commit"] == harness.commit()
    assert run["machine"].endswith(" cores")


def test_answer_of_a_process(tmp_path, monkeypatch):
    (tmp_path / "answer.py").write_text(
        "import json, os, sys, time\nif sys.argv[1] == 'fail': sys.exit(3)\n"
        "if sys.argv[1] == 'large': data = b'x' * (400 * 2**20); time.sleep(30)\n"
        "print('noise')\nprint(json.dumps([sys.argv[1], os.environ.get('GIVEN')]))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert harness.result_of("answer", 7, environment={"GIVEN": "yes"}) == ["7", "yes"]
    assert harness.result_of("answer", "large", limit_gb=0.2) is None
    with pytest.raises(RuntimeError, match="answer fail ended with exit code 3"):
        harness.result_of("answer", "fail")


def options(**values):
    return argparse.Namespace(**{"steps": None, "peer_seconds": None, "peer_limit": None} | values)


def test_peers_are_trained_for_a_multiple_of_the_time_of_the_preset():
    done = table(
        ("a", "unias_lite", 0, "mixed", "train_seconds", 100.0),
        ("a", "unias_lite", 1, "mixed", "train_seconds", 7.0),
        ("b", "unias_lite", 0, "mixed", "train_seconds", 8.0),
        ("a", "padim", 0, "mixed", "train_seconds", 9.0),
    )
    (ends,) = protocol.length("stfpm", options(), done, "a", 0)["callbacks"]
    assert (ends.least_seconds, ends.most_seconds) == (200, 800)
    (ends,) = protocol.length("stfpm", options(peer_seconds=3, peer_limit=5), done, "a", 0)["callbacks"]
    assert (ends.least_seconds, ends.most_seconds) == (3, 5)
    with pytest.raises(ValueError, match=r"no train_seconds for group 'b', seed 1"):
        protocol.length("stfpm", options(), done, "b", 1)


def test_preset_has_its_own_length():
    assert protocol.length("unias_lite", options(), table(), "a", 0) == {}
    assert protocol.length("unias_lite", options(steps=5), table(), "a", 0) == {"max_steps": 5}


@pytest.mark.parametrize(
    ("table_of", "named", "expected"),
    [
        (quality, [], {"unias_lite", "patchcore", "patchcore_10", "padim", *TRAINED}),
        (quality, ["uniad_lite", "recontrast_lite"], {"uniad_lite", "recontrast_lite"}),
        (cada, [], {"unias_lite", "patchcore", "padim", *TRAINED}),
        (paper_cada, [], {"uniad_lite", "reverse_distillation", "recontrast_lite"}),
    ],
)
def test_other_presets_are_run_where_they_are_named(tmp_path, monkeypatch, table_of, named, expected):
    """They would make the tables take an hour longer."""
    jobs_run = []
    monkeypatch.setattr(protocol, "run_all", lambda _, jobs, __: not jobs_run.extend(jobs))
    models = ["--models", *named] if named else []
    monkeypatch.setattr(sys, "argv", ["table", "--seeds", "0", "--output", str(tmp_path), *models])
    with pytest.raises(SystemExit) as ended:
        table_of.main()
    assert not ended.value.code
    assert {name for _, name, _ in jobs_run} == expected


def test_reverse_distillation_is_trained_as_long_as_recontrast():
    assert paper_cada.length("recontrast_lite", None) == {}
    asked = signature(ReContrastLite).parameters["training_steps"].default
    assert paper_cada.length("reverse_distillation", None) == {"max_steps": asked, "max_epochs": -1}
    assert {paper_cada.length(name, 7)["max_steps"] for name in paper_cada.MODELS} == {7}


def test_memory_of_a_large_coreset():
    assert needed_gb("patchcore", 734) <= needed_gb("patchcore_10", 734) < 8 < needed_gb("patchcore_10", 8659)
    assert needed_gb("stfpm", 10**6) == 0


RESULTS = table(
    *(
        (group, model, seed, category, metric, value * (1 + seed / 10))
        for group in ("a", "b")
        for model, value in (("unias_lite", 0.6), ("patchcore", 0.4))
        for seed in (0, 1)
        for category in ("mean", "mixed", "bolt")
        for metric in ("image_auroc", "pixel_ap", "dsc_best_f1", "aupro")
    ),
    ("a", "unias_lite", 0, "mixed", "train_seconds", 12.0),
)


def test_models_are_compared_with_patchcore():
    compared = quality_summary.against_reference(RESULTS[RESULTS["group"] == "a"])
    assert list(compared.index) == ["unias_lite"]
    row = compared.loc["unias_lite"]
    assert row["pixel_ap, mixed"] == pytest.approx(1.5)
    assert row["image_auroc, mean"] == pytest.approx(0.2 * 1.05)
    assert quality_summary.against_reference(RESULTS[RESULTS["model"] != "patchcore"]).empty


def test_summary_has_every_group_with_mean_and_spread(tmp_path):
    quality_summary.summarize(RESULTS, tmp_path)
    text = (tmp_path / "quality.md").read_text()
    assert "## Group a: bolt" in text
    assert "## Group b: bolt" in text
    assert "0.63 ± 0.042" in text
    assert "+0.210" in text  # image AUROC: .63 - .42
    assert " 1.50 " in text
    assert "Mean of the products, 2 seeds:" in text
    assert (tmp_path / "quality.png").stat().st_size > 10_000


def test_summary_does_not_tell_where_the_data_lie():
    given = [
        "--group",
        "a=/data/line:bolt,nut",
        "--group",
        "b=/data",
        "--output",
        "/here",
        "--variant",
        "",
        "--steps",
        "5",
    ]
    shown = "--group a=DIR:bolt,nut --group b=DIR --variant '' --steps 5"
    assert harness.without_folders(given) == shown


def test_variant_is_a_list_of_arguments():
    assert recipe.arguments_of("prototypes=0;levels=[1, 2];feature_scaling=none") == {
        "prototypes": 0,
        "levels": [1, 2],
        "feature_scaling": "none",
    }
    assert recipe.arguments_of("") == recipe.arguments_of("preset") == {}
    with pytest.raises(ValueError, match="got 'prototypes'"):
        recipe.arguments_of("prototypes")


def test_stock_pipeline_runs_the_shipped_configuration(folder):
    jobs = {name: stock_pipeline.configuration(Group.parse(f"b={folder}:nut"), name, 7) for name in MODELS_OF_PIPELINE}
    for job in jobs.values():
        benchmark = job["benchmark"]
        assert (job["accelerator"], benchmark["seed"]) == (["cpu"], 7)
        data = benchmark["data"]["init_args"]
        assert (data["root"], data["categories"], data["seed"]) == (str(folder), ["nut"], 7)
        assert (data["val_split_mode"], data["train_batch_size"]) == ("none", 8)
    shipped = yaml.safe_load(stock_pipeline.CONFIG.read_text())["benchmark"]["model"]["init_args"]["arguments_of"]
    built = {name: job["benchmark"]["model"]["init_args"] for name, job in jobs.items()}
    assert built["patchcore"] == {
        "model": "QuickPatchcore",
        "arguments_of": {"QuickPatchcore": shipped["Patchcore"]},
    }
    peer = built["reverse_distillation"]["arguments_of"]["LiteReverseDistillation"]
    assert peer["trainer_arguments"] == shipped["ReverseDistillation"]["trainer_arguments"]
    assert built["unias_lite"]["model"] == "UniASLite"


def test_rows_of_the_stock_pipeline():
    result = pd.Series(
        {"fit_duration": 9.0, "mean_pixel_ap": 0.5, "gap_pixel_ap": 0.1, "nut_a/dsc": 0.7, "image_F1": 1}
    )
    rows = stock_pipeline.rows_of(result)
    assert [tuple(row) for row in rows.to_numpy()] == [
        ("mixed", "fit_seconds", 9.0),
        ("mean", "pixel_ap", 0.5),
        ("nut_a", "dsc", 0.7),
    ]


def test_summary_of_the_stock_pipeline_shows_both_runs(tmp_path):
    table(("b", "patchcore", 0, "mean", "pixel_ap", 0.25)).to_csv(tmp_path / "quality.csv", index=False)
    rows = pd.DataFrame([("b", "patchcore", 0, "mean", "pixel_ap", 0.5)], columns=stock_pipeline.COLUMNS)
    stock_pipeline.summarize(rows, tmp_path)
    text = (tmp_path / "stock_pipeline.md").read_text()
    for run, value in (("stock pipeline", "0.5"), ("benchmarks.quality", "0.25")):
        (line,) = [line for line in text.splitlines() if f"patchcore, {run}" in line]
        assert line.split("|")[2].strip() == value
