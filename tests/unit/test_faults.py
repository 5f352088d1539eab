"""The count of what a fault cost tells lost, late and done twice from each other."""

from __future__ import annotations

from tests.faults.count import Toll

STARTS = {"well": [1.0], "again": [-1.0, 2.54], "twice": [-1.0, 2.0], "lost": [-1.0]}
ENDS = {"well": [2.0], "again": [3.0], "twice": [0.5, 4.0]}


def test_each_task_is_counted_for_what_became_of_it() -> None:
    toll = Toll(["well", "again", "twice", "lost", "late"], STARTS, ENDS, {"late"})
    assert toll.lost == {"lost"}
    assert toll.late == {"late"}
    assert toll.twice == {"twice"}
    assert toll.interrupted == {"again", "twice"}
    assert (toll.redelivery, toll.done) == (2.5, None)


def test_task_that_is_done_and_still_with_the_broker_counts_as_done_twice() -> None:
    assert Toll(["well"], {"well": [1.0]}, {"well": [2.0]}, {"well"}).twice == {"well"}


def test_all_are_done_when_the_last_is() -> None:
    assert Toll(["a", "b"], {}, {"a": [1.0], "b": [4.04, 9.0]}, set()).done == 4.0
