"""A task that was revoked stays so, whatever becomes of the workers that were told."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from redis_server import redis_server
from test_guarded_worker import CONTROL, Site, guarded, wait_for

pytestmark = pytest.mark.fast

SEND = "print(write.apply_async(('revoked',), countdown=8, headers={headers}).id)"
STAMPED = "{'stamped_headers': ['customer'], 'stamps': {'customer': 'seven'}}"
BY_ID = "print(app.control.revoke({id!r}, reply=True))"
BY_STAMP = (
    "print(app.control.revoke_by_stamped_headers({{'customer': ['six', 'seven']}}, reply=True))"
)
STATE = "print(app.AsyncResult({id!r}).state)"


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Redis, str]]:
    with redis_server() as started:
        yield started


@pytest.fixture
def site(tmp_path: Path, server: tuple[Redis, str]) -> Site:
    redis, place = server
    redis.flushall()
    return Site(tmp_path, redis, guarded(place))


def revoke_and_end(site: Site, revoke: str, headers: str, how: signal.Signals) -> str:
    """The id of a task that is revoked, and whose worker has ended."""
    with site.worker("one") as first:
        sent = site.send(SEND.format(headers=headers))
        wait_for(lambda: site.redis.hlen("unacked") == 1)
        assert "'ok'" in site.send(revoke.format(id=sent))
        os.killpg(first.pid, how) if how == signal.SIGKILL else first.terminate()
        first.wait(timeout=30)
    return sent


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(("revoke", "headers"), [(BY_ID, "None"), (BY_STAMP, STAMPED)])
def test_revoked_task_does_not_run_in_a_worker_that_starts_later(
    site: Site, revoke: str, headers: str, how: signal.Signals
) -> None:
    sent = revoke_and_end(site, revoke, headers, how)
    with site.worker("two"):
        wait_for(lambda: site.send(STATE.format(id=sent)) == "REVOKED")
        wait_for(lambda: not site.redis.exists("unacked"))
    assert not site.lines("revoked")


def test_revocation_is_forgotten_when_the_task_can_no_longer_come(site: Site) -> None:
    with site.worker("one"):
        wait_for(site.alive)
        site.redis.zadd("celery-pi.revoked", {"past": 1})
        site.send("app.control.revoke('some', reply=True)")
        site.send("app.control.revoke(['other'], reply=True)")
        kept: Any = site.redis.zrange("celery-pi.revoked", 0, -1)
        assert sorted(kept) == [b"other", b"some"]
    assert 3600 < int(site.redis.ttl("celery-pi.revoked")) <= 8 * 86400


def test_plain_celery_runs_it(tmp_path: Path, server: tuple[Redis, str]) -> None:
    """The control."""
    redis, place = server
    redis.flushall()
    plain = Site(tmp_path, redis, CONTROL.format(plain=f"redis+{place}"))
    revoke_and_end(plain, BY_ID, "None", signal.SIGTERM)
    with plain.worker("two"):
        wait_for(lambda: "end" in plain.lines("revoked"))
