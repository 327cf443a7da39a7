"""Files of a test for programs: ``metrics.json``, and the data that its numbers are computed from."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from anomalib_unias.evaluation.evaluation import Evaluation
from anomalib_unias.evaluation.pixel_files import write_pixel_counts
from anomalib_unias.metrics.unified_results import UnifiedResults

SCHEMA_VERSION = 1


class ColumnSchema(NamedTuple):
    """A column of a table in ``metrics.json``.

    Args:
        kind (str): ``string``, ``integer`` or ``number``.
        nullable (bool): Whether ``null`` stands for a number that does not exist.
        meaning (str): What the column contains.
    """

    kind: str
    nullable: bool
    meaning: str


_CATEGORY = ColumnSchema("string", False, "Category, or mixed: all images together with one threshold")
_LEVEL = ColumnSchema("string", False, "image or region")
_AT = ColumnSchema("string", False, "deployed: threshold of the model; false_alarms_1% ...: threshold for this rate")
_LOW = ColumnSchema("number", True, "Lower end of the 95 % interval")
_HIGH = ColumnSchema("number", True, "Upper end of the 95 % interval")
_UNIT = ColumnSchema("string", False, "area: pixels of the map; share: of the image")
_RECALL = {
    "found": ColumnSchema("number", True, "How many are found"),
    "recall": ColumnSchema("number", True, "Share that is found"),
    "low": _LOW,
    "high": _HIGH,
}

TABLES: dict[str, dict[str, ColumnSchema]] = {
    "metrics": {
        "category": ColumnSchema("string", False, "Category, mean (of the categories), mixed, or gap (mean - mixed)"),
        "metric": ColumnSchema("string", False, "Name of the metric"),
        "value": ColumnSchema("number", True, "Its value; shares, not percent"),
        "low": _LOW,
        "high": _HIGH,
    },
    "error_rates": {
        "category": _CATEGORY,
        "level": _LEVEL,
        "at": _AT,
        "threshold": ColumnSchema("number", True, "Threshold of the raw scores"),
        "good": ColumnSchema("integer", False, "Number of good images"),
        "false_alarms": ColumnSchema("number", True, "How many of them are called defective"),
        "false_alarm_rate": ColumnSchema("number", True, "Their share"),
        "false_alarm_low": _LOW,
        "false_alarm_high": _HIGH,
        "defective": ColumnSchema("integer", False, "Number of defective images or regions"),
        "misses": ColumnSchema("number", True, "How many of them are called good"),
        "miss_rate": ColumnSchema("number", True, "Their share"),
        "miss_low": _LOW,
        "miss_high": _HIGH,
    },
    "recall_by_size": {
        "category": _CATEGORY,
        "at": _AT,
        "unit": _UNIT,
        "from": ColumnSchema("number", False, "Smallest size of the range"),
        "below": ColumnSchema("number", True, "First size beyond it, null if it is open"),
        "regions": ColumnSchema("integer", False, "Number of regions of such a size"),
        **_RECALL,
    },
    "smallest_found": {
        "category": _CATEGORY,
        "at": _AT,
        "unit": _UNIT,
        "smallest": ColumnSchema("number", True, "Smallest size that is found in 90 % of cases"),
        "regions_from_there": ColumnSchema("integer", False, "Number of regions of at least this size"),
    },
    "recall_by_kind": {
        "category": ColumnSchema("string", False, "Category"),
        "kind": ColumnSchema("string", False, "Folder of the images"),
        "level": _LEVEL,
        "at": _AT,
        "defects": ColumnSchema("integer", False, "Number of defective images or regions"),
        **_RECALL,
    },
    "suspects": {
        "category": ColumnSchema("string", False, "Category"),
        "image_path": ColumnSchema("string", False, "Path of the image"),
        "label": ColumnSchema("integer", False, "0: labelled good, 1: labelled defective"),
        "score": ColumnSchema("number", True, "Raw score"),
        "suspicion": ColumnSchema("number", False, "Share of the images of the other label that score beyond it"),
    },
}
_OTHERS: dict[str, Any] = {"schema_version": int, "image_threshold": (float, int, type(None)), "settings": dict}


def write_results(
    results: UnifiedResults, evaluation: Evaluation, threshold: float, settings: dict[str, Any], folder: Path
) -> None:
    """Write the files for programs: ``metrics.json``, ``images.csv``, ``regions.csv`` and ``suspects.csv``.

    Args:
        results (UnifiedResults): Results of a test.
        evaluation (Evaluation): Tables about these results.
        threshold (float): Threshold of the raw image scores, NaN if there is none.
        settings (dict[str, Any]): Settings of the run.
        folder (Path): Existing folder.
    """
    content = {
        "schema_version": SCHEMA_VERSION,
        "image_threshold": threshold,
        **{name: table.to_dict("records") for name, table in evaluation.tables().items()},
        "settings": settings,
    }
    plain = _plain(content)
    check_metrics(plain)
    text = json.dumps(plain, indent=1, allow_nan=False, ensure_ascii=False)
    (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
    results.images.to_csv(folder / "images.csv", index=False)
    write_pixel_counts(results.pixel_counts, folder)
    results.regions.to_csv(folder / "regions.csv", index=False)
    evaluation.suspects.to_csv(folder / "suspects.csv", index=False)


def check_metrics(content: dict[str, Any]) -> None:
    """Check the content of a ``metrics.json`` against the schema of this version.

    Args:
        content (dict[str, Any]): The file as ``json.load`` gives it.

    Raises:
        ValueError: If the version differs, or something is missing, unknown or of the wrong type.
    """
    if content.get("schema_version") != SCHEMA_VERSION:
        msg = f"metrics.json has schema_version {content.get('schema_version')}, expected {SCHEMA_VERSION}."
        raise ValueError(msg)
    if set(content) != {*TABLES, *_OTHERS}:
        differing = sorted(set(content) ^ {*TABLES, *_OTHERS})
        msg = f"metrics.json of schema_version {SCHEMA_VERSION} has other keys than expected: {differing}."
        raise ValueError(msg)
    for key, expected in _OTHERS.items():
        if not isinstance(content[key], expected):
            msg = f"{key} in metrics.json is of the wrong type: {content[key]!r}."
            raise ValueError(msg)
    for name, columns in TABLES.items():
        for number, row in enumerate(content[name]):
            if list(row) != list(columns):
                msg = f"Row {number} of {name} in metrics.json has columns {list(row)}, expected {list(columns)}."
                raise ValueError(msg)
            for column, schema in columns.items():
                if not _fits(row[column], schema):
                    msg = f"{column} in row {number} of {name} in metrics.json is no {schema.kind}: {row[column]!r}."
                    raise ValueError(msg)


def _fits(value: Any, schema: ColumnSchema) -> bool:
    if value is None:
        return schema.nullable
    kinds: dict[str, Any] = {"string": str, "integer": int, "number": (int, float)}
    return isinstance(value, kinds[schema.kind]) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """Replace NaN and infinity by ``None``, because JSON has neither."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
