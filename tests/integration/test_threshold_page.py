"""The page with the slider over the threshold, in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from headless_browser import CHROMIUM, Page

from anomalib_unias.metrics import UnifiedResults, summarize
from anomalib_unias.report.threshold_page import write_threshold_page

THRESHOLD = 5.0
# Scores of good and of defective images; the evil name is text, not markup.
SCORES = {"a": ([1, 2, 3, 6], [4, 7, 8]), "<b>": ([1, 5.5], [9])}
EVIL = "</script><script>alert(1)</script>"


@pytest.fixture(scope="module")
def results() -> UnifiedResults:
    rows = [
        (category, f"{category}/{EVIL}/{score}.png", label, float(score), 0.5, float(score > THRESHOLD))
        for category, scores in SCORES.items()
        for label, part in enumerate(scores)
        for score in part
    ]
    columns = ["category", "image_path", "label", "score", "normalized_score", "predicted"]
    return summarize(pd.DataFrame(rows, columns=columns), {}, 0.3, None)


@pytest.fixture
def opened(results: UnifiedResults, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("no chromium found, install it with: apt-get install chromium")
    pictures = {("a", f"a/{EVIL}/6.png"): "gallery/six.jpg"}
    write_threshold_page(results, getattr(request, "param", THRESHOLD), pictures, tmp_path)
    (tmp_path / "gallery").mkdir()
    picture = Path(__file__).parents[2] / "docs" / "images" / "demo.png"
    (tmp_path / "gallery" / "six.jpg").write_bytes(picture.read_bytes())
    with Page((tmp_path / "threshold.html").as_uri(), tmp_path / "profile") as page:
        yield page
        assert page.named("Runtime.exceptionThrown") == []
        assert page.named("Log.entryAdded") == []
        requested = {event["request"]["url"] for event in page.named("Network.requestWillBeSent")}
        assert {url.partition(":")[0] for url in requested} <= {"file", "data"}


def shown(page: Page, *names: str) -> list[str]:
    return [page.evaluate(f"document.getElementById('{name}').textContent") for name in names]


def enter(page: Page, name: str, value: object, event: str) -> None:
    page.evaluate(
        f"(() => {{ const e = document.getElementById('{name}'); e.value = '{value}';"
        f"e.dispatchEvent(new Event('{event}')); }})()"
    )


COUNTS = ("true-negatives", "false-alarms", "misses", "hits")


def test_moving_the_threshold(opened: Page) -> None:
    assert shown(opened, *COUNTS) == ["4", "2", "1", "3"]
    assert shown(opened, "false-alarm-rate", "miss-rate") == ["33.3", "25.0"]
    assert shown(opened, "changed-note") == ["0 images: 0 become right, 0 become wrong."]

    enter(opened, "threshold", 6.5, "change")
    assert shown(opened, *COUNTS) == ["6", "0", "1", "3"]
    assert shown(opened, "changed-note") == ["2 images: 2 become right, 0 become wrong."]
    captions = opened.evaluate("[...document.querySelectorAll('#changed figcaption')].map(e => e.textContent)")
    assert [caption.partition(", score")[0] for caption in captions] == [
        "<b> good, now called good",
        "a good, now called good",
    ]
    assert EVIL in captions[0]
    loaded = "Promise.all([...document.images].map(e => e.decode())).then(() => document.images.length)"
    assert opened.evaluate(loaded) == 1

    enter(opened, "slider", 0, "input")  # below all scores
    assert shown(opened, *COUNTS) == ["0", "6", "0", "4"]
    last = opened.evaluate("document.getElementById('slider').max")
    enter(opened, "slider", last, "input")
    assert shown(opened, *COUNTS) == ["6", "0", "4", "0"]
    opened.click("document.getElementById('deployed')")
    assert shown(opened, *COUNTS) == ["4", "2", "1", "3"]


def test_cost(opened: Page) -> None:
    enter(opened, "share", 10, "input")
    # 1000 parts: 100 defective, a quarter missed for 10 each; 900 good, a third of them false alarms for 1 each.
    assert shown(opened, "cost") == ["550.0"]
    opened.click("document.getElementById('cheapest')")
    assert shown(opened, *COUNTS) == ["6", "0", "1", "3"]
    assert shown(opened, "cost", "deployed-cost") == ["250.0", ", at the threshold of the model 550.0"]
    enter(opened, "miss-cost", 1000, "input")
    opened.click("document.getElementById('cheapest')")
    assert shown(opened, *COUNTS) == ["4", "2", "0", "4"]


def test_one_category(opened: Page) -> None:
    enter(opened, "category", "<b>", "change")
    assert shown(opened, *COUNTS) == ["1", "1", "0", "1"]
    opened.click("document.getElementById('cheapest')")
    assert shown(opened, *COUNTS) == ["2", "0", "0", "1"]
    enter(opened, "category", "", "change")
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize("opened", [float("nan")], indirect=True)
def test_without_a_threshold_of_the_model(opened: Page) -> None:
    assert shown(opened, "changed-note", "deployed-cost") == ["The model has no threshold.", ""]
    assert opened.evaluate("document.getElementById('deployed').hidden")
    opened.click("document.getElementById('cheapest')")
    assert shown(opened, "false-alarms") == ["0"]


def test_one_image(tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("no chromium found, install it with: apt-get install chromium")
    image = {"category": "a", "image_path": "x", "label": 0, "score": 1.0, "normalized_score": 0.5, "predicted": 1.0}
    write_threshold_page(summarize(pd.DataFrame([image]), {}, 0.3, None), 0.5, {}, tmp_path)
    with Page((tmp_path / "threshold.html").as_uri(), tmp_path / "profile") as page:
        assert shown(page, *COUNTS, "miss-rate") == ["0", "1", "0", "0", "–"]  # noqa: RUF001
        assert page.named("Runtime.exceptionThrown") == []
