"""The app as the services run it: the owner's, with safe redelivery, on the broker we deployed."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from guard_process import GUARDED, SOURCE

pytestmark = pytest.mark.fast

URL = "redis://:s3cret%2Fpassword@127.0.0.1:6379/0"
SOCKET = "/run/redis-celery/redis.sock"
LOGIN = "celery:s3cret%2Fp%40ss%3Aw%25rd"
ENVIRONMENT = {"CELERY_BROKER_URL": URL, "CELERY_RESULT_BACKEND": URL}

# An owner's project, which wants other things than we do.
PROJECT = """
import os
from celery import Celery
app = Celery("project", broker=os.environ.get("BROKER"), backend=os.environ.get("BACKEND"))
app.conf.update(task_acks_late=False, worker_prefetch_multiplier=9, timezone="Europe/Paris")
if os.environ.get("TLS"):
    app.conf.broker_use_ssl = app.conf.redis_backend_use_ssl = {"ssl_ca_certs": "/ca.crt"}
    app.conf.redis_socket_keepalive = True
for options in ("broker_transport_options", "result_backend_transport_options"):
    prefix = os.environ.get("PREFIX_OF_" + options.split("_")[0].upper())
    if prefix is not None:
        app.conf[options] = {"global_keyprefix": prefix}
"""

REPORT = """
import json
from celery.signals import beat_init, worker_ready
from celery_redis_guard import beat
from celery_redis_guard.app import app
conf = app.conf
print(json.dumps([app.main, {name: conf[name] for name in (
    "task_acks_late", "task_reject_on_worker_lost", "worker_prefetch_multiplier",
    "broker_connection_retry_on_startup", "timezone", "broker_url", "broker_transport",
    "result_backend")}]))
beat.STATE = '.'
worker_ready.send(sender=None)
beat_init.send(sender=None)
"""

CONNECTIONS = """
import json, redis
from celery_redis_guard.app import app
redis.Redis.ping = lambda _: True  # kombu asks first
with app.connection_for_write() as connection:
    broker = connection.default_channel._connparams()
made = []
for given in (broker, app.backend.connparams):
    connection = redis.ConnectionPool(**given).make_connection()
    made.append([connection.__class__.__name__, connection.path, connection.username,
                 connection.password, connection.db])
print(json.dumps(made))
"""


def load(
    directory: Path, module: str = "project", script: str = REPORT, **environment: str
) -> tuple[int, str, str]:
    """Exit status, output and errors of a process that loads the app and is ready."""
    package = directory / "project"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "celery.py").write_text(PROJECT)
    # As systemd gives it: nothing of this shell's environment.
    given = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{directory}:{SOURCE}"}
    done = subprocess.run(
        [sys.executable, "-B", "-c", script],
        env={**given, **GUARDED, "CELERY_PI_APP": module, **environment},
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    told = re.sub(r"^celery-pi: guarded.*\n", "", done.stderr, count=1)  # by Beat, once
    return done.returncode, done.stdout, told


@pytest.mark.parametrize("module", ["project", "project.celery:app"])
def test_owners_app_is_loaded_with_safe_redelivery_and_his_own_settings(
    tmp_path: Path, module: str
) -> None:
    status, output, errors = load(tmp_path, module, **ENVIRONMENT, BROKER=URL, BACKEND=URL)
    assert (status, errors) == (0, "")
    assert json.loads(output) == [
        "project",
        {
            "task_acks_late": True,
            "task_reject_on_worker_lost": True,
            "worker_prefetch_multiplier": 1,
            "broker_connection_retry_on_startup": True,
            "timezone": "Europe/Paris",
            "broker_url": "redis://:s3cret%2Fpassword@%2Frun%2Fredis-celery%2Fredis.sock/0",
            "broker_transport": "celeryredisguard:Transport",
            "result_backend": f"celeryredisguard.Backend+socket://:s3cret%2Fpassword@{SOCKET}"
            "?virtual_host=0",
        },
    ]


@pytest.mark.parametrize(
    ("url", "database"),
    [
        (f"redis://{LOGIN}@127.0.0.1:6379/0", 0),
        (f"redis://{LOGIN}@127.0.0.1:7000/3", 3),
        (f"rediss://{LOGIN}@127.0.0.1:6380/2?ssl_cert_reqs=required&ssl_ca_certs=/ca.crt", 2),
        (f"redis+socket://{LOGIN}@/run/redis-celery/redis.sock?virtual_host=4", 4),
    ],
)
def test_broker_and_results_are_reached_by_the_socket_whatever_the_url_is(
    tmp_path: Path, url: str, database: int
) -> None:
    """As kombu's and Celery's own code takes it, also with what the app sets for TCP and TLS."""
    given = {"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url, "TLS": "1"}
    status, output, errors = load(tmp_path, **given, BROKER=url, BACKEND=url, script=CONNECTIONS)
    assert (status, errors) == (0, "")
    by_socket = ["UnixDomainSocketConnection", SOCKET, "celery", "s3cret/p@ss:w%rd", database]
    assert json.loads(output) == [by_socket, by_socket]


OTHER = "redis://:0ther-password@localhost:6379/0"


@pytest.mark.parametrize(
    ("environment", "key", "variable"),
    [
        ({**ENVIRONMENT, "BROKER": OTHER, "BACKEND": URL}, "broker_url", "CELERY_BROKER_URL"),
        ({**ENVIRONMENT, "BACKEND": URL}, "broker_url", "CELERY_BROKER_URL"),
        ({"BROKER": URL, "BACKEND": URL}, "broker_url", "CELERY_BROKER_URL"),
        (
            {**ENVIRONMENT, "BROKER": URL, "BACKEND": OTHER},
            "result_backend",
            "CELERY_RESULT_BACKEND",
        ),
        ({**ENVIRONMENT, "BROKER": URL}, "result_backend", "CELERY_RESULT_BACKEND"),
    ],
)
def test_app_on_another_broker_is_refused_in_one_sentence_without_any_url(
    tmp_path: Path, environment: dict[str, str], key: str, variable: str
) -> None:
    assert load(tmp_path, **environment) == (
        1,
        "",
        f"celery-pi: the app's {key} is not what {variable} in its .env says; "
        "does the app read that variable?\n",
    )


def test_app_with_another_kind_of_broker_is_refused_in_one_sentence(tmp_path: Path) -> None:
    other = "amqp://:s3cret@localhost"
    given = {"CELERY_BROKER_URL": other, "CELERY_RESULT_BACKEND": URL}
    assert load(tmp_path, **given, BROKER=other, BACKEND=URL) == (
        1,
        "",
        "celery-pi: CELERY_BROKER_URL is no URL of Redis\n",
    )


def test_app_that_names_no_broker_without_our_variables_is_refused(tmp_path: Path) -> None:
    assert load(tmp_path)[0] == 1


@pytest.mark.parametrize(
    ("declared", "broker", "result", "at_fault"),
    [
        (None, None, None, None),
        ("", None, None, None),
        ("", "", "", None),
        ("birds:", "birds:", "birds:", None),
        ("birds:", None, "birds:", "broker_transport_options"),
        ("birds:", "birds:", None, "result_backend_transport_options"),
        ("birds:", "cats:", "birds:", "broker_transport_options"),
        ("birds:", "birds:", "cats:", "result_backend_transport_options"),
        (None, "cats:", None, "broker_transport_options"),
        ("", None, "cats:", "result_backend_transport_options"),
    ],
)
def test_app_whose_keys_have_another_prefix_is_refused_in_one_sentence(
    tmp_path: Path, declared: str | None, broker: str | None, result: str | None, at_fault: str
) -> None:
    given = {"CELERY_KEY_PREFIX": declared, "PREFIX_OF_BROKER": broker, "PREFIX_OF_RESULT": result}
    status, _, errors = load(
        tmp_path,
        **ENVIRONMENT,
        BROKER=URL,
        BACKEND=URL,
        **{name: text for name, text in given.items() if text is not None},
    )
    assert (status, errors) == (
        (0, "")
        if at_fault is None
        else (
            1,
            f"celery-pi: the app's {at_fault} do not take their global_keyprefix from "
            "CELERY_KEY_PREFIX in its .env; does the app read that variable?\n",
        )
    )


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_when_worker_and_beat_are_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    monkeypatch.chdir(tmp_path)  # the whole path may be too long for a socket
    name = f"celery-pi-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name}" if abstract else name)
        systemd.setblocking(False)
        status, _, errors = load(
            tmp_path,
            **ENVIRONMENT,
            BROKER=URL,
            BACKEND=URL,
            NOTIFY_SOCKET=f"@{name}" if abstract else name,
        )
        assert (status, errors) == (0, "")
        for _ in range(2):
            assert systemd.recv(1000).startswith(b"READY=1\nSTATUS=guarded")
        with pytest.raises(BlockingIOError):
            systemd.recv(100)
