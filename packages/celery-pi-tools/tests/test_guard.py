"""How `status` and `audit` tell whether the worker is guarded."""

from __future__ import annotations

from typing import Any

import pytest

from celery_pi.render import ROOT
from celery_pi_tools.checks import app, task_state, tasks, worker
from celery_redis_guard import site_timeouts
from fake_system import UP, fake_system

pytestmark = pytest.mark.fast

GUARDED = "guarded: tested set A (celery 5.5.3, kombu 5.5.4)"
PLAIN = "plain Celery, because no tested set is celery 99.0; not promised then: much"


def pi(worker_told: str, beat_told: str, state: str = "active", **settings: Any) -> Any:
    system = fake_system(**settings)
    system.units = {
        "celery-worker": {**UP, "ActiveState": state, "StatusText": worker_told},
        "celery-beat": {**UP, "StatusText": beat_told},
    }
    return system


def judged(system: Any) -> Any:
    return worker.guard(system)


def test_guarded_worker_is_well() -> None:
    found = judged(pi(GUARDED, GUARDED))
    assert (found.level, found.evidence) == ("ok", GUARDED)
    assert found.values["guarded"] is True


def test_plain_worker_is_told_whole_and_warned_of_unless_it_was_chosen() -> None:
    found = judged(pi(PLAIN, PLAIN))
    assert (found.level, found.evidence) == ("warn", PLAIN)
    assert "worker_guard" in found.remedy
    assert judged(pi(PLAIN, PLAIN, worker_guard="off")).level == "ok"


@pytest.mark.parametrize(("state", "told"), [("active", ""), ("inactive", GUARDED)])
def test_worker_that_does_not_run_tells_nothing(state: str, told: str) -> None:
    assert judged(pi(told, GUARDED, state)).level == "warn"


def test_beat_of_before_an_upgrade_is_named() -> None:
    found = judged(pi(PLAIN, GUARDED))
    assert found.level == "warn"
    assert "Beat still guarded" in found.evidence
    assert found.remedy == "systemctl restart celery-beat"


def test_plain_beat_is_not_judged_by_the_guards_file() -> None:
    found: Any = task_state.beat(pi(PLAIN, PLAIN))
    assert found.level == "ok"


@pytest.mark.parametrize(("told", "fate"), [(PLAIN, "gone"), (GUARDED, "dead letters")])
def test_fate_of_an_unknown_task_is_that_of_the_mode(told: str, fate: str) -> None:
    system = pi(told, told)
    system.worker_log = ["Received unregistered task of type 'gone.task'."]
    found: Any = tasks.unknown(system)
    assert fate in found.impact


def test_sends_that_hang_are_told_with_the_lines_of_the_guard() -> None:
    found: Any = app.sends_hang(pi(f"{GUARDED}; {site_timeouts.HANGS}", GUARDED))
    settings = site_timeouts.SETTINGS
    lines = site_timeouts.lines([*settings], dict.fromkeys(settings), "CELERY_")
    assert all(line in found.remedy for line in lines)
    assert app.sends_hang(pi(GUARDED, GUARDED)) is None


def test_page_has_the_lines_of_the_guard() -> None:
    page = (ROOT / "docs/operate/tasks.md").read_text()
    said: dict[str, Any] = {}
    exec(page.partition("```python")[2].partition("```")[0], said)  # noqa: S102
    settings = site_timeouts.SETTINGS
    assert {key: said[f"CELERY_{key.upper()}"] for key in settings} == settings
