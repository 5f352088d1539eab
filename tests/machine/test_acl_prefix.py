"""Two apps on one Redis, told apart by the prefix of their keys, do not reach each other."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator

import pytest

from celery_pi.settings import Settings
from tasks.redis import acl
from tests.helpers.harness import APP, in_app, redis, send, wait_for
from tests.helpers.redis_users import USERS, all_commands, allowed, ask, runnable
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

PREFIX = "birds:"
OWN = ("cache:*", "nests:*")

# The same project once more, as a second app with a prefix and a user of its own.
BIRDS = """
import os
url = "redis://birds:{password}@127.0.0.1:6379/0"
os.environ.update(CELERY_BROKER_URL=url, CELERY_RESULT_BACKEND=url)
from observations_nids.celery import app
from observations_nids.tasks import add
prefix = {{"global_keyprefix": "birds:"}}
app.conf.update(broker_transport_options=prefix, result_backend_transport_options=prefix)
"""
WORK = 'app.worker_main(["worker", "--concurrency=1", "--hostname=celery@birds", "-E"])'
FORGET = "for _, key in pairs(redis.call('keys', 'birds:*')) do redis.call('del', key) end"


@pytest.fixture(scope="module")
def birds(pi: VirtualPi) -> Iterator[str]:
    """Code that is the second app, for whose user celery's rules were made with a prefix."""
    password = secrets.token_urlsafe(32)
    hashed = [hashlib.sha256(password.encode()).hexdigest()]
    second = Settings(redis_key_prefix=PREFIX, redis_app_keys=OWN, redis_maxmemory="64mb")
    users = acl(dict.fromkeys(USERS, hashed), second).content
    (line,) = (line for line in users.splitlines() if line.startswith("user celery "))
    setuser = ["acl", "setuser", "birds", "reset", *line.split()[2:]]
    assert ask(pi, [setuser, ["acl", "log", "reset"]]) == ["OK", "OK"]
    yield BIRDS.format(password=password)
    ask(pi, [["acl", "deluser", "birds"], ["eval", FORGET, "0"]])


@pytest.fixture(scope="module")
def birds_at_work(pi: VirtualPi, birds: str) -> Iterator[None]:
    """The second app's worker, once a task of the first app's and one of its own have waited."""
    in_app(pi, f"{birds}\nadd.delay(2, 40)")
    send(pi, "add", 1, 1)
    assert redis(pi, "llen", "birds:celery") == "1"
    command = ("systemd-run", "--quiet", "--unit=test-birds", "--collect", "-p", "User=www-data")
    python = f"{APP}/venv/bin/python"
    pi.run(*command, "-p", f"WorkingDirectory={APP}", python, "-c", f"{birds}\n{WORK}")
    wait_for("its task is taken", lambda: redis(pi, "llen", "birds:celery") == "0")
    yield
    pi.run("systemctl", "stop", "test-birds")


@pytest.mark.usefixtures("birds_at_work")
def test_each_app_has_its_own_worker(pi: VirtualPi, birds: str) -> None:
    ping = (
        "while not (found := app.control.ping(timeout=5)): pass\n"
        "print([name for worker in found for name in worker])"
    )
    assert in_app(pi, f"{birds}\n{ping}") == "['celery@birds']"
    first = f"from observations_nids.celery import app\n{ping}"
    assert in_app(pi, first) == "['celery@raspberrypi']"
    assert in_app(pi, f"{birds}\nprint(add.delay(2, 40).get(timeout=60))") == "42"
    assert send(pi, "add", 2, 40) == "42"
    assert redis(pi, "acl", "log", "100") == ""


@pytest.mark.usefixtures("birds_at_work")
def test_no_app_reaches_a_key_of_the_other(pi: VirtualPi) -> None:
    keys = redis(pi, "--scan").splitlines()
    theirs = {key for key in keys if key.startswith(PREFIX)}
    assert theirs >= {"birds:_kombu.binding.celery", "birds:_kombu.binding.celery.pidbox"}
    assert set(keys) - theirs >= {"_kombu.binding.celery", "_kombu.binding.celery.pidbox"}
    for user, own in (("birds", theirs), ("celery", set(keys) - theirs)):
        for command in ("exists", "del"):
            verdicts = allowed(pi, user, [[command, key] for key in keys])
            assert {key for key, may in zip(keys, verdicts, strict=True) if may} == own


@pytest.mark.parametrize(
    "command", ["get {}", "mset {} 1", "incr {}", "hset {} a 1", "expire {} 9", "xadd {} * a 1"]
)
@pytest.mark.usefixtures("birds")
def test_app_does_what_it_likes_to_its_own_keys_alone(pi: VirtualPi, command: str) -> None:
    for keys, may in ((("cache:1", "nests:1"), True), (("celery", "unacked", "nest:1"), False)):
        words = [command.format(key).split() for key in keys]
        assert allowed(pi, "birds", words) == [may] * len(keys)


@pytest.mark.usefixtures("birds")
def test_keys_of_its_own_bring_an_app_no_command_without_keys(pi: VirtualPi) -> None:
    words = [command.words for command in all_commands(pi) if not command.has_keys]
    assert runnable(pi, "birds", words) == runnable(pi, "celery", words)
