"""Text that the app or a Pi has chosen, on the terminal of whoever looks."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from tests.attacks.attacker import APP, Victim, roll_back, whole_record
from tests.attacks.test_redis_user import entry, set_aside
from tests.helpers.harness import redis

pytestmark = pytest.mark.native

# Sets the title, clears the screen, returns to the line's begin, and goes on in 8-bit codes.
ESCAPES = "birds\x1b]0;owned\x07\x1b[2J\rforged\x9b1mbold"
SCHEDULE = "/var/lib/celery-beat/schedule"


def controls(text: str) -> str:
    """The control characters that a terminal would obey."""
    assert "birds" in text, text  # what was planted is shown, however
    return "".join(sorted({repr(c) for c in text if c != "\n" and not c.isprintable()}))


def test_names_of_tasks_that_were_set_aside_are_text(victim: Victim) -> None:
    try:
        set_aside(victim, entry(ESCAPES, "celery"))
        shown = victim.root("celery-pi", "set-aside", check=False)
    finally:
        redis(victim.pi, "del", "set-aside")
    victim.judge(controls(shown))


def test_names_in_the_schedule_are_text(victim: Victim) -> None:
    plant = 'printf %s "$2" >"$1"'
    now = datetime.now(UTC).isoformat()
    with victim.beat_stopped(), victim.kept(SCHEDULE):
        victim.sh(plant, SCHEDULE, json.dumps({ESCAPES: [now, 1]}), user=victim.app_user)
        shown = victim.root("celery-pi", "status", check=False)
    victim.judge(controls(shown))


REFUSED_KEY = """
try:
    redis.get(json.loads(sys.argv[1]))
except Exception as error:
    print(type(error).__name__)
"""


def test_keys_that_redis_has_refused_are_text(victim: Victim) -> None:
    try:
        victim.in_app(REFUSED_KEY, json.dumps(ESCAPES))
        shown = victim.root("celery-pi", "doctor", check=False)
    finally:
        redis(victim.pi, "acl", "log", "reset")
    victim.judge(controls(shown))


@pytest.mark.parametrize("command", ["check", "prove"])
def test_what_the_app_says_as_it_is_loaded_is_text(victim: Victim, command: str) -> None:
    code = f"{APP}/observations_nids/__init__.py"
    says = f"import sys; sys.exit({'celery-pi: ' + ESCAPES!r})\n"
    with victim.kept(code):
        victim.sh('printf %s "$2" >>"$1"', code, says)
        shown = victim.root("celery-pi", command, check=False)
    victim.judge(controls(shown))


def test_what_a_pi_has_recorded_is_text_to_the_deployer(victim: Victim) -> None:
    # A shell between would take a return for a line of its own.
    who, nothing = ESCAPES.replace("\r", ""), "0" * 40
    done = roll_back(victim, whole_record(victim, who=who, tree=nothing, commit=nothing))
    assert done.status != 0
    victim.judge(controls(done.output))
