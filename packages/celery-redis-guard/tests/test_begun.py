"""Which tasks a worker had begun when it died, as its successor reads it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from celery_redis_guard import begun
from celery_redis_guard.identity import worker_id

OWN = worker_id()


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setattr(begun, "_descriptor", [])
    begun.prepare()
    return tmp_path / "run"


def in_fork(*calls: tuple[str, ...]) -> None:
    """A pool process that makes these calls and is killed."""
    pid = os.fork()
    if not pid:
        for name, *words in calls:
            getattr(begun, name)(*words)
        os._exit(0)
    os.waitpid(pid, 0)


def test_task_that_ran_is_known_after_its_process_has_died() -> None:
    in_fork(("begin", "a-long-name-of-the-first"), ("end",), ("begin", "second"))
    in_fork(("begin", "other"))
    in_fork(("begin", "done"), ("end",))
    in_fork()
    assert begun.of(OWN) == {"second", "other"}


def test_of_a_worker_elsewhere_nothing_is_known() -> None:
    assert begun.of("another-machine/unit/1234") == set()
    begun.forget("another-machine/unit/1234")


def test_it_is_forgotten(place: Path) -> None:
    in_fork(("begin", "one"))
    begun.forget(OWN)
    assert begun.of(OWN) == set()
    assert list(place.iterdir()) == []


def test_only_this_user_can_look_or_write(place: Path) -> None:
    in_fork(("begin", "one"))
    modes = {path.stat().st_mode & 0o777 for path in (place, *place.rglob("*"))}
    assert modes <= {0o700, 0o600}


@pytest.mark.skipif(os.getuid() != 0, reason="another user's directory is needed")
def test_directory_of_somebody_else_is_refused(place: Path) -> None:
    os.chown(place, 65534, -1)
    with pytest.raises(PermissionError, match="is not this user's"):
        begun.prepare()
