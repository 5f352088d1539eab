"""Managed by celery-pi. The app as the services run it: `celery -A celery_redis_guard.app worker`.

Loads the owner's application, which stays as it is, and adds what running it as a service
needs: safe settings and handover, protection against a full Redis, a check that it talks to the
broker we deployed and loses no task, the way there by the unix socket, a schedule that survives a
power cut, and word to systemd. CELERY_PI_APP names the owner's module, as `celery -A` takes it.
"""

import os
import sys
from urllib.parse import urlsplit

from celery import Celery
from celery.app.utils import find_app
from celery.signals import (
    after_setup_logger,
    beat_init,
    celeryd_init,
    worker_init,
    worker_process_init,
    worker_ready,
    worker_shutting_down,
)

from celery_redis_guard import (
    backend,
    beat,
    event_batching,
    liveness,
    log_filter,
    maintenance,
    oom_exempt,
    ownership,
    pool,
    redis_away,
    transport,
)
from celery_redis_guard.app_validation import problems, warnings
from celery_redis_guard.forced_defaults import let_it_scale, make_safe
from celery_redis_guard.systemd_notify import notify

URLS = (("CELERY_BROKER_URL", "broker_url"), ("CELERY_RESULT_BACKEND", "result_backend"))
SOCKET = "/run/redis-celery/redis.sock"

# How the app speaks TLS or keeps a connection alive, which a unix socket refuses to hear of.
WITHOUT_TCP = dict.fromkeys(("broker_use_ssl", "redis_backend_use_ssl", "redis_socket_keepalive"))


def by_socket(url: str) -> str:
    """The same user and database of the same Redis."""
    parts = urlsplit(url)
    if parts.scheme not in {"redis", "rediss"}:
        return url
    login, database = parts.netloc.rpartition("@")[0], parts.path.strip("/") or 0
    return f"redis+socket://{login}@{SOCKET}?virtual_host={database}"


def load() -> Celery:
    """The owner's app with our settings. Ends the process if it uses another broker."""
    oom_exempt.protect()
    event_batching.protect()
    transport.protect()
    backend.protect()
    pool.protect()
    app = find_app(os.environ["CELERY_PI_APP"])
    make_safe(app.conf)
    app.Task.Request = ownership.Request
    liveness.protect(app)
    maintenance.protect(app)
    for name, key in URLS:
        if not os.environ.get(name) or os.environ[name] != app.conf[key]:
            sys.exit(
                f"celery-pi: the app's {key} is not what {name} in its .env says; "
                "does the app read that variable?"
            )
    for options in ("broker_transport_options", "result_backend_transport_options"):
        prefix = app.conf[options].get("global_keyprefix", "")
        if prefix != os.environ.get("CELERY_KEY_PREFIX", ""):
            sys.exit(
                f"celery-pi: the app's {options} do not take their global_keyprefix from "
                "CELERY_KEY_PREFIX in its .env; does the app read that variable?"
            )
    if app.conf.beat_scheduler == beat.DEFAULT:
        app.conf.beat_scheduler = "celery_redis_guard.beat:Scheduler"
    app.conf.update(WITHOUT_TCP)
    for name, key in URLS:
        # Celery looks into the environment first.
        os.environ[name] = app.conf[key] = by_socket(os.environ[name])
    return app


def refuse(**_: object) -> None:
    """End a worker that would lose tasks, with every reason; what the owner has chosen is told."""
    found = list(problems(app))
    for sentence in (*found, *warnings(app)):
        print(f"celery-pi: {sentence}", file=sys.stderr)
    if found:
        sys.exit(1)


def ready(**_: object) -> None:
    notify("READY=1")


def stopping(**_: object) -> None:
    """A stop may take as long as a task: systemd is not to take it for a worker that hangs."""
    notify("STOPPING=1")
    redis_away.wait_no_longer()


app = load()
after_setup_logger.connect(log_filter.leave_out, weak=False)
celeryd_init.connect(let_it_scale, weak=False)
worker_init.connect(refuse, weak=False)
worker_ready.connect(ready, weak=False)
worker_process_init.connect(redis_away.wait_for_it, weak=False)
worker_process_init.connect(log_filter.tell_the_rest, weak=False)
worker_shutting_down.connect(stopping, weak=False)
beat_init.connect(lambda **_: beat.stay_alone(), weak=False)
beat_init.connect(ready, weak=False)
