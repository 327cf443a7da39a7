import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from example_images import make_images
from rich.console import Console

from anomalib_unias.evaluation.comparison import BETTER, NO_DIFFERENCE, WORSE, Run, common_images, compare_runs
from anomalib_unias.report.comparison_page import console_comparison, write_comparison


def noisy(seed: int, distance: float, shared: int = 0) -> pd.DataFrame:
    """Two categories, 60 good and 60 defective images each; noise of its own on top of what all runs have in common."""
    hard, own = np.random.default_rng(shared), np.random.default_rng(seed)
    parts = []
    for category in "ab":
        scores = hard.normal(0, 1, 120) + own.normal(0, 0.1, 120)
        scores[60:] += distance
        parts.append(make_images(scores[:60], scores[60:], distance / 2, category))
    return pd.concat(parts, ignore_index=True)


def verdicts(comparison: pd.DataFrame, metric: str, category: str = "mixed") -> list[str]:
    part = comparison[(comparison["metric"] == metric) & (comparison["category"] == category)]
    return part["verdict"].tolist()


def test_chance_and_more_than_chance() -> None:
    runs = [Run(name, noisy(seed, distance)) for name, seed, distance in (("base", 1, 1), ("same", 2, 1), ("up", 3, 2))]
    comparison = compare_runs(runs, samples=500)
    assert verdicts(comparison, "image_auroc") == ["", NO_DIFFERENCE, BETTER]
    assert verdicts(comparison, "miss_rate") == ["", NO_DIFFERENCE, BETTER]
    assert verdicts(comparison, "dsc") == ["", NO_DIFFERENCE, NO_DIFFERENCE]
    assert set(comparison["category"]) == {"a", "b", "mean", "mixed"}
    backwards = compare_runs(runs[::-1], samples=500)
    assert verdicts(backwards, "image_auroc") == ["", WORSE, WORSE]
    assert verdicts(backwards, "miss_rate") == ["", WORSE, WORSE]


def test_pairs_of_images_see_what_two_separate_intervals_hide() -> None:
    comparison = compare_runs([Run("base", noisy(1, 1)), Run("new", noisy(2, 1.35))], samples=500)
    base, new = comparison[(comparison["metric"] == "image_auroc") & (comparison["category"] == "mixed")].itertuples()
    assert new.low < base.high  # the intervals overlap
    assert new.verdict == BETTER
    assert new.difference == pytest.approx(new.value - base.value)


def test_equal_runs_do_not_differ() -> None:
    comparison = compare_runs([Run("x", noisy(1, 1)), Run("y", noisy(1, 1))], samples=50)
    defined = comparison[(comparison["run"] == "y") & comparison["value"].notna()]
    assert (defined["difference"] == 0).all()
    assert set(defined["verdict"]) == {NO_DIFFERENCE}


def test_seed_decides() -> None:
    runs = [Run("x", noisy(1, 1)), Run("y", noisy(2, 1))]
    first, again, other = (compare_runs(runs, samples=20, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert not first["low"].equals(other["low"])


def test_images_are_paired_whatever_their_order_and_folder() -> None:
    images = noisy(1, 1)
    moved = images.sample(frac=1, random_state=0).assign(image_path=lambda table: "/elsewhere/" + table["image_path"])
    first, second = common_images([Run("x", images), Run("y", moved)])
    assert first["score"].tolist() == second["score"].tolist()
    fewer = common_images([Run("x", images), Run("y", images.iloc[5:])])
    assert [len(table) for table in fewer] == [235, 235]


def test_what_cannot_be_compared() -> None:
    images = noisy(1, 1)
    with pytest.raises(ValueError, match="two runs or more, got 1"):
        compare_runs([Run("x", images)])
    with pytest.raises(ValueError, match="no image in common"):
        compare_runs([Run("x", images), Run("y", images.assign(category="c"))])
    with pytest.raises(ValueError, match="y and x label 240 images differently, a/test/good/000.png"):
        compare_runs([Run("x", images), Run("y", images.assign(label=1 - images["label"]))])
    for paths in ("", "same.png"):
        with pytest.raises(ValueError, match="The images of y cannot be matched"):
            compare_runs([Run("x", images), Run("y", images.assign(image_path=paths))])


def test_one_class_and_no_threshold() -> None:
    good = make_images([1, 2, 3], [])
    comparison = compare_runs([Run("x", good), Run("y", good)], samples=20)
    assert set(comparison["verdict"]) == {"", NO_DIFFERENCE}  # of the Dice coefficient
    assert comparison.loc[comparison["metric"] == "image_auroc", "value"].isna().all()


def test_files(tmp_path: Path) -> None:
    for name, seed, distance in (("x", 1, 1), ("y", 2, 2)):
        folder = tmp_path / name / "report"
        folder.mkdir(parents=True)
        images = noisy(seed, distance).replace({"category": {"a": "01", "b": "None"}})
        images.to_csv(folder / "images.csv", index=False)
    runs = [Run.load(tmp_path / "x"), Run.load(tmp_path / "y" / "report")]
    assert sorted(runs[0].images["category"].unique()) == ["01", "None"]
    comparison = compare_runs(runs, samples=50)
    page = tmp_path / "new" / "page.html"
    write_comparison(comparison, 240, page)
    text = page.read_text(encoding="utf-8")
    assert text.count("<h2>") == 4
    assert "240 test images" in text
    assert BETTER in text
    assert "http" not in text
    assert len(pd.read_csv(page.with_suffix(".csv"))) == len(comparison)
    console = Console(width=150, file=io.StringIO())
    console.print(console_comparison(comparison))
    assert "Missed at 5 % false alarms" in console.file.getvalue()
    with pytest.raises(FileNotFoundError, match="has no images.csv"):
        Run.load(tmp_path)
