import math
from pathlib import Path

import pandas as pd
import pytest
from example_results import make_results

from anomalib_unias.metrics import METRICS
from anomalib_unias.report.tables import metrics_table, number, threshold_table, write_metrics

LEVELS = {"low": 0.0, "high": 1.0, "higher": 1.2}


def test_tables_show_the_results() -> None:
    results = make_results(LEVELS)
    table = metrics_table(results)
    assert list(table.rows) == ["high", "higher", "low"]
    assert list(table.summary) == ["mean", "mixed", "gap"]
    assert sum(span for _, span in table.groups) == len(table.columns)
    for name, cells in {**table.rows, **table.summary}.items():
        for column, cell in zip(table.columns, cells, strict=True):
            value = results.value(name, column.metric)
            assert cell.value == (None if math.isnan(value) else pytest.approx(value))
            assert cell.text == number(100 * value, ".1f")
    shown = {column.metric for column in (*table.columns, *threshold_table(results).columns)}
    assert set(METRICS) <= shown


def test_threshold_table() -> None:
    table = threshold_table(make_results(LEVELS))
    metrics = [column.metric for column in table.columns]
    higher = dict(zip(metrics, table.rows["higher"], strict=True))
    # All good images of "higher" but one (1.2, 1.3, 1.4, 1.5 > 1.5 not) are below the threshold.
    assert (higher["good_images"].text, higher["defective_images"].text) == ("4", "4")
    assert higher["false_alarms_per_1000"].text == "0.0"
    low = dict(zip(metrics, table.rows["low"], strict=True))
    assert (low["missed_defects"].text, low["missed_defect_rate"].text) == ("2", "50.0")
    assert [name for name, cells in table.rows.items() if any(cell.worst for cell in cells)] == ["low"]
    assert dict(zip(metrics, table.summary["gap"], strict=True))["missed_defects"].text == "–"  # noqa: RUF001
    assert dict(zip(metrics, table.summary["mixed"], strict=True))["good_images"].text == "12"


def test_undefined_is_a_dash_and_a_single_category_has_no_summary() -> None:
    table = metrics_table(make_results({"one": 0.0}, defects=False))
    assert table.summary == {}
    assert {cell.text for cell in table.rows["one"]} == {"–"}  # noqa: RUF001
    assert {cell.value for cell in table.rows["one"]} == {None}
    assert number(math.inf) == number(math.nan) == "–"  # noqa: RUF001


def test_files(tmp_path: Path) -> None:
    results = make_results({"a": 0.0, "b": 1.0}, defects=False)
    write_metrics(results, tmp_path)
    table = pd.read_csv(tmp_path / "metrics.csv", index_col="category")
    assert list(table.index) == ["a", "b", "mean", "mixed", "gap"]
    assert list(table.columns) == list(METRICS)
    assert table["false_alarms_per_1000"].tolist() == [0, 250, 125, 125, 0]
