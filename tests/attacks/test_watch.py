"""What hides a change of root's own files from whoever looks."""

from __future__ import annotations

import pytest

from tests.attacks.attacker import LIBRARY, Victim
from tests.helpers.harness import redis

pytestmark = pytest.mark.native

CHANGED = f"{LIBRARY}/redis-memory"
REFUSED = """
try:
    redis.get("no-key-of-the-apps")
except Exception as error:
    print(type(error).__name__)
"""


def shown(victim: Victim) -> str:
    """What doctor and audit say."""
    told = [victim.root("celery-pi", command, check=False) for command in ("doctor", "audit")]
    return "\n".join(told)


def hidden(victim: Victim) -> str:
    """A program of root's is another one; the app asks Redis for a key that is none of its own."""
    with victim.kept(CHANGED):
        victim.root("celery-pi", "doctor", "--fix", check=False)
        assert CHANGED not in shown(victim)
        victim.sh('echo "# changed" >>"$1"', CHANGED)
        assert CHANGED in (well := shown(victim)), well
        try:
            assert victim.in_app(REFUSED) == "NoPermissionError"
            found = shown(victim)
        finally:
            redis(victim.pi, "acl", "log", "reset")
    return "" if CHANGED in found else f"nobody is told of {CHANGED}"


def test_a_key_that_is_refused_hides_no_change_of_a_program(victim: Victim) -> None:
    victim.judge(hidden(victim))
