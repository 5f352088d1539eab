"""What the benchmarks' page and plots say of a figure."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from celery_pi.settings import Settings
from tests.bench.figure import Figure, Goal
from tests.bench.machine import pinned
from tests.bench.plot import draw, number
from tests.bench.report import page, section, write

GOALS = [Goal("ours", "<hand> & co", 0.5), Goal("ours", "<hand> & co", 0.1)]
RUNS = {"ours": [3.0, 2.0, 2.5], "<hand> & co": [10.0, 9.0, 20.0], "wish": [5.0]}
FIGURE = Figure("a-slug", "Time < all", "s", RUNS, GOALS, "A note.")


def test_goal_is_said_to_be_reached_or_missed_with_its_ratio() -> None:
    rows = section(FIGURE).splitlines()
    assert "| ours at most 0.5 x <hand> & co | 0.250 x | yes |" in rows
    assert "| ours at most 0.1 x <hand> & co | 0.250 x | **no** |" in rows


def test_goal_may_be_a_lower_bound() -> None:
    figure = Figure("a", "A", "1/s", RUNS, [Goal("ours", "wish", 1, at_least=True)])
    assert "| ours at least 1 x wish | 0.500 x | **no** |" in section(figure)


def test_row_has_ratio_median_and_range() -> None:
    assert "| <hand> & co | 4.00 | 10.0 | 9.00–20.0 | 3 |" in section(FIGURE)  # noqa: RUF001


def test_plot_has_a_bar_for_each_competitor_as_long_as_its_median() -> None:
    elements = ElementTree.fromstring(draw(FIGURE)).iter()
    bars = [element for element in elements if element.tag.endswith("rect")]
    medians = [FIGURE.median(name) for name in RUNS]
    scales = [float(bar.attrib["width"]) / at for bar, at in zip(bars, medians, strict=True)]
    assert all(one == pytest.approx(other, rel=0.01) for one, other in pairwise(scales))


def test_plot_has_a_dot_for_each_run() -> None:
    assert draw(FIGURE).count("<circle") == sum(map(len, RUNS.values()))


def test_page_shows_each_figure_and_the_versions() -> None:
    text = page([FIGURE], {"celery": "5.5.3"})
    assert "Versions: celery 5.5.3." in text
    assert "![Time < all](benchmarks/a-slug.svg)" in text
    assert "A note." in text


def test_plots_are_those_of_the_page_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/gone.svg").touch()
    write([FIGURE], {}, tmp_path)
    assert [plot.name for plot in (tmp_path / "benchmarks").iterdir()] == ["a-slug.svg"]
    assert (tmp_path / "benchmarks.md").is_file()


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.01234, "0.0123"), (4.567, "4.57"), (99.96, "100"), (12345, "12,300")],
)
def test_number_has_three_digits(value: float, shown: str) -> None:
    assert number(value) == shown


def test_versions_are_those_of_pins_with_extras_too() -> None:
    pins = ("celery[redis]==5.5.3", "kombu == 5.5.4", "redis==5.2.1")
    assert pinned(pins) == {"celery": "5.5.3", "kombu": "5.5.4", "redis": "5.2.1"}
    assert {"celery", "kombu", "redis"} <= set(pinned(Settings().app_pins))
