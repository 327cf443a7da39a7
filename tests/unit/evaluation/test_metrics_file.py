import copy
import json
import math
from pathlib import Path

import pandas as pd
import pytest
from example_images import NAN, make_images, make_regions

from anomalib_unias.evaluation.evaluation import Evaluation
from anomalib_unias.evaluation.metrics_file import SCHEMA_VERSION, TABLES, check_metrics, write_results
from anomalib_unias.metrics import UnifiedResults, summarize

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "metrics_file.md"


def write(images: pd.DataFrame, threshold: float, folder: Path) -> dict:
    columns = ["category", "image_path", "label", "score", "normalized_score", "predicted"]
    summary = summarize(images[columns], {}, 0.3, None)
    regions = make_regions(images, [9] * int(images["label"].sum()))
    results = UnifiedResults(summary.metrics, images, summary.curves, regions)
    settings = {"model": {"rate": math.inf, "sizes": [1, NAN]}}
    write_results(results, Evaluation.of(results, threshold), threshold, settings, folder)
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)


@pytest.fixture
def content(tmp_path: Path) -> dict:
    images = make_images([1, 2, 6], [4, 6, 7], threshold=5)
    return write(pd.concat([images, make_images([1], [2], 5, "b")], ignore_index=True), 5.0, tmp_path)


def test_pandas_reads_it_in_one_line(content: dict, tmp_path: Path) -> None:
    table = pd.DataFrame(pd.read_json(tmp_path / "metrics.json", typ="series")["metrics"])
    auroc = table[(table["category"] == "a") & (table["metric"] == "image_auroc")].iloc[0]
    assert auroc["low"] < auroc["value"] < auroc["high"]
    assert auroc["value"] == pytest.approx(7.5 / 9)
    alarms = table[(table["category"] == "a") & (table["metric"] == "false_alarms_per_1000")].iloc[0]
    assert (alarms["value"], alarms["low"] > 0, alarms["high"] > 500) == (pytest.approx(1000 / 3), True, True)
    assert content["image_threshold"] == 5


def test_the_other_files(content: dict, tmp_path: Path) -> None:
    assert pd.read_csv(tmp_path / "images.csv")["score"].tolist() == [1, 2, 6, 4, 6, 7, 1, 2]
    assert pd.read_csv(tmp_path / "regions.csv")["area"].tolist() == [9] * 4
    assert len(pd.read_csv(tmp_path / "suspects.csv")) == len(content["suspects"]) > 0


@pytest.mark.parametrize(("good", "defective"), [([1.0], []), ([], [1.0]), ([1.0, 2.0], [1.5])])
def test_what_does_not_exist_is_null(good: list[float], defective: list[float], tmp_path: Path) -> None:
    content = write(make_images(good, defective), NAN, tmp_path)
    assert content["image_threshold"] is None
    assert content["settings"] == {"model": {"rate": None, "sizes": [1, None]}}
    deployed = [row for row in content["error_rates"] if row["at"] == "deployed"]
    assert {row[name] for row in deployed for name in ("miss_rate", "false_alarm_rate", "miss_high")} == {None}
    assert {row["misses"] for row in deployed if row["defective"]} <= {None}
    assert {row["false_alarms"] for row in deployed if row["good"]} <= {None}


def test_deviations_from_the_schema_are_found(content: dict) -> None:
    check_metrics(content)

    def broken(change: str, path: list, value: object) -> None:
        copied = copy.deepcopy(content)
        place = copied
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        with pytest.raises(ValueError, match=change):
            check_metrics(copied)

    broken("schema_version 2, expected 1", ["schema_version"], 2)
    broken(r"other keys than expected: \['new'\]", ["new"], 2)
    broken("image_threshold in metrics.json is of the wrong type", ["image_threshold"], "5")
    broken("value in row 0 of metrics in metrics.json is no number: '1'", ["metrics", 0, "value"], "1")
    broken("category in row 1 of error_rates", ["error_rates", 1, "category"], None)
    broken("has columns", ["suspects", 0], {"category": "a"})


def test_the_schema_is_documented() -> None:
    text = DOCUMENTATION.read_text(encoding="utf-8")
    documented = [line for line in text.splitlines() if line.startswith("| `") and line.count("|") == 5]
    assert documented == [
        f"| `{name}` | `{column}` | {schema.kind}{' or null' if schema.nullable else ''} | {schema.meaning} |"
        for name, columns in TABLES.items()
        for column, schema in columns.items()
    ]
    assert f"`schema_version` is {SCHEMA_VERSION}." in text
