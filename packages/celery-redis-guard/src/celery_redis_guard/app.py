"""The app as the services run it: `celery -A celery_redis_guard.app worker`, or `beat`.

Imports the owner's app, which stays as it is, and adds what running it as a service needs: forced
defaults, ownership of unacknowledged tasks and their atomic fetch, writes that a full Redis still
accepts, a check that the app uses the broker that was deployed, the way there by the unix socket, a
schedule that survives a power cut, and notifications to systemd. With versions that are no tested
set it is plain Celery with the same settings (`mode`). CELERY_PI_APP names the owner's module, as
`celery -A` takes it.
"""

import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

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
    app_validation,
    beat,
    forced_defaults,
    log_filter,
    maintenance,
    mode,
    site_timeouts,
)
from celery_redis_guard.systemd_notify import notify

CLASSES = "celeryredisguard"  # the module that settings name; a plain app does not import it

# By variable: the setting that the app must take from it, and those that may differ from that
# nowhere.
URLS = {
    "CELERY_BROKER_URL": ("broker_url", ("broker_read_url", "broker_write_url")),
    "CELERY_RESULT_BACKEND": ("result_backend", ()),
}
SOCKET = "/run/redis-celery/redis.sock"

# Options for TLS and TCP keepalive, which redis-py refuses for a unix socket.
TCP_OPTIONS = ("broker_use_ssl", "redis_backend_use_ssl", "redis_socket_keepalive")


def by_socket(variable: str) -> tuple[str, str]:
    """URLs of a broker and of a result backend by the unix socket, with Celery's own classes in a
    plain app: user, database and Redis are those of the URL in that variable."""
    parts = urlsplit(os.environ[variable])
    login = parts.netloc.rpartition("@")[0]
    if parts.scheme == "redis+socket":
        socket, database = parts.path, dict(parse_qsl(parts.query)).get("virtual_host", "0")
    elif parts.scheme in {"redis", "rediss"}:
        socket, database = SOCKET, parts.path.strip("/") or "0"
    else:
        sys.exit(f"celery-pi: {variable} is no URL of Redis")
    url = f"socket://{login}@{socket}?virtual_host={database}"
    if not mode.current().guarded:
        return f"redis+{url}", f"redis+{url}"
    return f"redis://{login}@{quote(socket, safe='')}/{database}", f"{CLASSES}.Backend+{url}"


def load() -> Any:
    """The owner's app, guarded or plain. Ends the process if the app uses another broker or key
    prefix."""
    restore_environment()
    app = find_app(os.environ["CELERY_PI_APP"])
    guard(app)
    # Also if a module of the app's states settings anew.
    app.on_after_configure.connect(lambda sender, **_: guard(sender), weak=False)
    app.on_after_finalize.connect(forced_defaults.rebind, weak=False)
    if app.finalized:
        forced_defaults.rebind(app)
    maintenance.install(app)
    if not mode.current().guarded:
        from celery_redis_guard.plain import PlainLivenessStep

        app.steps["consumer"].add(PlainLivenessStep)
    return app


def restore_environment() -> None:
    """`celery` has overwritten both variables if the site has BROKER_URL or RESULT_BACKEND, which
    may be there for something else. The kernel keeps what the process was started with."""
    pairs = Path("/proc/self/environ").read_bytes().split(b"\0")
    for name, _, url in (os.fsdecode(pair).partition("=") for pair in pairs):
        if name in URLS:
            os.environ[name] = url


def guard(app: Celery) -> None:
    """Force upon the app what makes it safe. Other apps of the process stay as they are."""
    _require_deployed_broker(app)
    forced_defaults.apply(app)
    if app.conf.beat_scheduler == beat.CELERY_DEFAULT:
        is_guarded = mode.current().guarded
        name = f"{CLASSES}:Scheduler" if is_guarded else "celery_redis_guard.plain:PlainScheduler"
        forced_defaults.force(app, {"beat_scheduler": name})
    urls = {
        "broker_url": by_socket("CELERY_BROKER_URL")[0],
        "result_backend": by_socket("CELERY_RESULT_BACKEND")[1],
    }
    forced_defaults.force(app, {**dict.fromkeys(TCP_OPTIONS), **urls})


def _require_deployed_broker(app: Celery) -> None:
    """End the process, with one sentence that shows no URL, if the app ignores its `.env`."""
    for variable, (key, others) in URLS.items():
        url = os.environ.get(variable)
        stated = [key, *(other for other in others if app.conf[other])]
        for setting in stated:
            if not url or app.conf[setting] != url:
                sys.exit(
                    f"celery-pi: the app's {setting} is not what {variable} in its .env says; "
                    "does the app read that variable?"
                )
    for options in ("broker_transport_options", "result_backend_transport_options"):
        prefix = app.conf[options].get("global_keyprefix", "")
        if prefix != os.environ.get("CELERY_KEY_PREFIX", ""):
            sys.exit(
                f"celery-pi: the app's {options} do not take their global_keyprefix from "
                "CELERY_KEY_PREFIX in its .env; does the app read that variable?"
            )


def site_lines() -> list[str]:
    """What the app's settings lack, lest sends of the site hang."""
    stated = {key: app.conf.stated(key) for key in site_timeouts.SETTINGS}
    keys = site_timeouts.lacking(stated)
    return site_timeouts.lines(keys, stated, app.conf.prefix)


def validate(**_: object) -> None:
    """End a worker that would lose tasks, with every reason; what the owner chose is a warning."""
    errors = list(app_validation.errors(app))
    for sentence in (*errors, *app_validation.warnings(app)):
        print(f"celery-pi: {sentence}", file=sys.stderr)
    if errors:
        sys.exit(1)


def tell_mode(**_: object) -> None:
    """One line, as a worker or Beat begins."""
    print(f"celery-pi: {mode.current().sentence}", file=sys.stderr)


def notify_ready(**_: object) -> None:
    """`celery-pi status` and `doctor` read the sentences from systemd."""
    told = [mode.current().sentence, *([site_timeouts.HANGS] if site_lines() else [])]
    notify(f"READY=1\nSTATUS={'; '.join(told)}")


def begin_shutdown(**_: object) -> None:
    """A warm shutdown may take as long as a task: systemd must not take it for a hanging worker."""
    notify("STOPPING=1")


app = load()
after_setup_logger.connect(log_filter.silence_task_lines, weak=False)
celeryd_init.connect(forced_defaults.keep_prefetch_count_when_autoscaling, weak=False)
worker_init.connect(forced_defaults.force_worker_options, weak=False)
worker_init.connect(tell_mode, weak=False)
worker_init.connect(validate, weak=False)
worker_ready.connect(notify_ready, weak=False)
worker_process_init.connect(log_filter.restore_trace_logger, weak=False)
worker_shutting_down.connect(begin_shutdown, weak=False)
beat_init.connect(lambda **_: beat.acquire_lock(), weak=False)
beat_init.connect(tell_mode, weak=False)
beat_init.connect(notify_ready, weak=False)
