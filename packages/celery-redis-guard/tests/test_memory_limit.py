"""An app that is larger than a pool process may be does not get a new process for each task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from celery_redis_guard import memory_limit
from redis_server import redis_server
from test_guarded_worker import CONTROL, Site, guarded, wait_for

pytestmark = pytest.mark.fast

TASKS = [str(number) for number in range(12)]
# 150 MB that are really there, and a limit of 100.
LARGE = "ballast = bytearray(b'x' * 150 * 2**20)\napp.conf.worker_max_memory_per_child = 100 * 1024"


@pytest.fixture
def server() -> Iterator[tuple[Redis, str]]:
    with redis_server() as started:
        yield started


def processes(site: Site) -> int:
    """How many processes ran twelve tasks."""
    with site.worker("one"):
        site.send(f"[write.delay(name) for name in {TASKS}]")
        wait_for(lambda: all("end" in site.lines(name) for name in TASKS), 60)
    return len({site.lines(name)[0] for name in TASKS})


def test_processes_of_a_large_app_stay_and_the_worker_says_so(
    tmp_path: Path, server: tuple[Redis, str]
) -> None:
    redis, place = server
    site = Site(tmp_path, redis, guarded(place) + LARGE)
    assert processes(site) <= 2
    log = (tmp_path / "one.log").read_text()
    assert "celery_max_memory_per_child is 100 MB: with that each task would get a new" in log


def test_celery_alone_gives_each_task_a_new_process(
    tmp_path: Path, server: tuple[Redis, str]
) -> None:
    redis, place = server
    site = Site(tmp_path, redis, CONTROL.format(plain=f"redis+{place}") + LARGE)
    assert processes(site) == len(TASKS)


@pytest.mark.parametrize(("size", "used"), [(60, 200), (136, 200), (137, 201), (260, 324)], ids=str)
def test_limit_is_at_least_the_apps_size_and_some_more(size: int, used: int) -> None:
    limit, mib = 200 * memory_limit.MIB, memory_limit.MIB
    assert memory_limit.fitting(limit, size * mib) == used * mib
    told = memory_limit.sentence(limit, size * mib)
    assert told.endswith(f"set celery_max_memory_per_child to {used}mb or more") == (used > 200)


def test_size_is_what_the_kernel_says() -> None:
    status = Path("/proc/self/status").read_text()
    (resident,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    assert memory_limit.app_size() == pytest.approx(int(resident), rel=0.05)
