"""Old passwords are retired by the run that has started every service with the new ones."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import pytest
from pyinfra import host

from celery_pi.operations.config_files import ConfigFile
from celery_pi.secrets import USERS, passwords
from celery_pi.settings import Settings
from tasks import redis, rotation
from tests.helpers.fake import Run, run
from tests.unit.test_preflight import answers

WARNING = "The old passwords stay valid, because the site may still use them"


def new(user: str) -> str:
    """A password of that user's that is long enough to stay."""
    return f"new-{user}".ljust(32, "x")


def stored(old: str = "", of: str = "celery") -> list[str]:
    """What the Pi shows of its secrets: a password each, and that user's old one."""
    texts = {f"redis_{user}_password": new(user) for user in USERS}
    if old:
        texts[f"redis_{of}_password.old"] = old
    return [
        f"{name} 600:root:root {base64.b64encode(text.encode()).decode()}"
        for name, text in texts.items()
    ]


class Written:
    """Content of the files that a component declares."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.content: dict[str, str] = {}
        monkeypatch.setattr(redis, "config_files", self.note)

    def note(self, name: str, files: Sequence[ConfigFile]) -> None:
        assert name
        self.content.update({file.path: file.content for file in files})


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    return Written(monkeypatch)


def retire(old: str, of: str = "celery", **data: Any) -> Run:
    told = {**answers(), "base64 -w0": stored(old, of)}
    done = run(redis.retire, answers=told, data=data, dry=True)
    done.planned = done.planned[1:-1]  # without the lock's operation and the record's
    return done


@pytest.mark.parametrize("units", ["", "gunicorn.service"])
def test_old_password_is_taken_off_the_list_and_forgotten(written: Written, units: str) -> None:
    done = retire("old", app_units=units)
    assert WARNING not in done.shown
    assert done.planned == [True, True]  # in the running server, and of what is stored
    listed = written.content["/etc/celery-pi/redis.acl"]
    assert sha256(new("celery").encode()).hexdigest() in listed
    assert sha256(b"old").hexdigest() not in listed
    assert list(written.content) == ["/etc/celery-pi/redis.acl"]


def test_old_password_stays_while_the_sites_units_are_not_known(written: Written) -> None:
    done = retire("0ld-0ne")
    assert (done.planned, written.content) == ([], {})
    assert WARNING in done.shown
    assert "0ld-0ne" not in done.shown


def test_old_password_that_no_site_has_is_forgotten_at_once(written: Written) -> None:
    done = retire("old", of="backup")
    assert WARNING not in done.shown
    assert done.planned == [True, True]
    assert sha256(b"old").hexdigest() not in written.content["/etc/celery-pi/redis.acl"]


@pytest.mark.parametrize("data", [{}, {"app_units": ""}])
def test_where_no_password_changes_there_is_nothing_to_retire(
    written: Written, data: dict[str, str]
) -> None:
    done = retire("", **data)
    assert (done.planned, written.content) == ([], {})
    assert WARNING not in done.shown


def test_list_of_users_takes_old_passwords_until_they_are_retired() -> None:
    listed: list[str] = []

    def task() -> None:
        known = passwords(host, Settings())
        settings = Settings(redis_maxmemory="64mb")
        listed.append(redis.acl(known.hashes, settings).content)
        listed.append(redis.acl(known.desired_hashes, settings).content)

    run(task, answers={"base64 -w0": stored("older\nold")})
    hashes = [sha256(text).hexdigest() for text in (new("celery").encode(), b"older", b"old")]
    assert [text in listed[0] for text in hashes] == [True, True, True]
    assert [text in listed[1] for text in hashes] == [True, False, False]


def test_files_of_redis_are_judged_by_redis_and_closed_to_others() -> None:
    settings = Settings(redis_maxmemory="64mb")
    hashes = {user: ["5ha"] for user in USERS}
    for file in (redis.live_settings(settings), redis.acl(hashes, settings)):
        assert (file.mode, file.group) == ("0640", "redis")
        assert file.check == '/usr/local/lib/celery-pi/check-redis-config "$NEW"'
    assert f"maxmemory {64 * 2**20}\n" in redis.live_settings(settings).content


def test_rotation_retires_the_old_passwords_once_every_service_has_the_new_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []
    seen: list[dict[str, str]] = []
    services = ("app.deploy", "worker.deploy", "beat.deploy", "flower.deploy")
    steps = ("redis.deploy", *services, "redis.retire")

    def step(name: str) -> Any:
        def record() -> None:
            done.append(name)
            seen.append(dict(passwords(host, Settings()).desired))

        return record

    for name in steps:
        module, function = name.split(".")
        monkeypatch.setattr(getattr(rotation, module), function, step(name))
    run(rotation.deploy, answers={**answers(), "base64 -w0": stored()}, dry=True)
    assert done == list(steps)
    assert all(wanted == seen[0] for wanted in seen)
    assert not [user for user in USERS if seen[0][user] == new(user)]
