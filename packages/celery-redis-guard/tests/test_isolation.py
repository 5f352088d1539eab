"""Of everybody else's connections in the process, and of Celery itself, nothing is changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from guard_process import GUARDED, SOURCE
from redis_server import redis_server

pytestmark = pytest.mark.fast

# Attributes of every module and class of the libraries, before and after an app is guarded and a
# task is sent: name and identity. What a library itself fills in later (caches, registries) is
# changed without us too, and so in both runs.
CHANGES = """
import importlib, json, os, pkgutil, sys, types
LIBRARIES = ("amqp", "billiard", "celery", "kombu", "redis", "vine")
NAMES = ("celery.apps.worker celery.apps.beat celery.backends.redis celery.bin.celery "
         "celery.concurrency.prefork celery.events.receiver celery.worker.consumer "
         "celery.worker.strategy kombu.transport.redis").split()
for name in NAMES:
    importlib.import_module(name)

def attributes():
    found, classes = {}, {}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in LIBRARIES:
            for key, value in vars(module).items():
                found[f"{name}:{key}"] = id(value)
                if isinstance(value, type):
                    classes[f"{value.__module__}.{value.__qualname__}"] = value
    for name, kind in classes.items():
        if name.split(".")[0] in LIBRARIES:
            for key, value in vars(kind).items():
                found[f"{name}.{key}"] = id(value)
    return found

before = attributes()
kept = [vars(module).copy() for module in sys.modules.values()]  # so that no identity is used twice
if os.environ["GUARDED"] == "yes":
    from celery_redis_guard.app import app
elif os.environ["GUARDED"] == "control":
    import kombu.transport.redis as transport
    transport.Transport.Channel = type("Patched", (transport.Channel,), {})
    from project import app
else:
    from project import app
app.send_task("work")
app.backend.store_result("1", 2, "SUCCESS")
app.WorkController(pool="prefork", queues="celery")
after = attributes()
print(json.dumps([name for name in before if after.get(name) != before[name]]))
"""

OTHERS = """
import json, os
from redis import Redis
from celery_redis_guard.app import app
import project
from celery import Celery
from kombu import Connection

def names(app):
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        kinds = (connection.transport, connection.transport.cycle, channel, channel.qos,
                 channel.client, app.backend, app.backend.client)
        return [type(kind).__module__.split(".")[0] for kind in kinds]

for variable in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
    del os.environ[variable]  # from which Celery itself takes the URLs of every app
other = Celery("other", broker=project.URL, backend=project.URL, set_as_current=False)
print(json.dumps([names(app), names(other), type(project.cache).__module__,
                  other.conf.task_acks_late, other.conf.worker_pool,
                  other.steps["consumer"] == set(), isinstance(other.Task.Request, str)]))
"""

PROJECT = """
import os
from celery import Celery
from redis import Redis
URL = os.environ["SITE_URL"]
cache = Redis(unix_socket_path="/nowhere")
app = Celery("project", broker=URL, backend=URL)
@app.task(name="work")
def work(): pass
"""


def run(directory: Path, script: str, **environment: str) -> list[Any]:
    (directory / "project.py").write_text(PROJECT)
    with redis_server() as (_, place):
        url = f"redis+{place}"
        done = subprocess.run(
            [sys.executable, "-B", "-c", script],
            env={
                **{"PATH": os.environ["PATH"], "PYTHONPATH": f"{directory}:{SOURCE}"},
                **{"CELERY_PI_APP": "project", "CELERY_PI_QUEUES": "celery", **GUARDED},
                **{"CELERY_PI_TIME_LIMIT": "60", "CELERY_PI_LONGEST_COUNTDOWN": "0"},
                **{"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url, "SITE_URL": url},
                **environment,
            },
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    answer: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_no_attribute_of_a_library_is_assigned(tmp_path: Path) -> None:
    assert run(tmp_path, CHANGES, GUARDED="yes") == run(tmp_path, CHANGES, GUARDED="no")


def test_an_assignment_would_have_been_seen(tmp_path: Path) -> None:
    """The control of the test above."""
    changed = run(tmp_path, CHANGES, GUARDED="control")
    assert "kombu.transport.redis.Transport.Channel" in changed


def test_another_app_and_the_sites_own_redis_are_as_the_libraries_make_them(
    tmp_path: Path,
) -> None:
    """Of the guarded app, by the same measure, all classes are ours but the client's."""
    guarded, other, cache, *settings = run(tmp_path, OTHERS)
    assert guarded[:4] == ["celery_redis_guard"] * 4
    assert guarded[5] == "celery_redis_guard"
    assert "celery_redis_guard" not in other
    assert cache == "redis.client"
    assert settings == [False, "prefork", True, True]
