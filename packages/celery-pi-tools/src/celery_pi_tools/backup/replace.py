"""Managed by celery-pi. The step of a restore that changes something: all of it, or nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from celery_pi_tools.backup import app, archive, redis_contents, redis_data, services
from celery_pi_tools.backup.common import BackupError, ignore_signals
from celery_pi_tools.backup.workspace import clear, copy_timeout, room_in, script
from celery_pi_tools.config import Settings
from celery_pi_tools.privileges import Refused

Undo = Callable[[], object]
COPY_TIMEOUT = 3600  # seconds for what Redis has now, which is linked or copied


@contextmanager
def stopped(settings: Settings) -> Iterator[None]:
    """Stops the units that use the data, ours and the site's. Afterwards those that ran run."""
    units = services.users(settings)
    try:
        services.stop(*units)
        yield
    except BaseException:
        ignore_signals()
        with suppress(Refused):  # the first error is the one to report
            services.start(*units, wait=False)
        raise
    ignore_signals()
    services.start(*units)


def replace(
    manifest: archive.Manifest, unpacked: Path, names: list[str], settings: Settings, kept: Path
) -> None:
    """Replaces all of it or nothing; `kept` is where what was there is copied. Raises BackupError
    after undoing what was done."""
    kept.mkdir(parents=True)
    kept.chmod(0o711)  # user redis reaches its own part
    undo: list[Undo] = []
    not_undone: list[str] = []
    try:
        # Redis last: once it runs, it may receive what must not be undone.
        for name in sorted(names, key=lambda name: name.startswith("redis/")):
            if name.startswith("redis/"):
                replace_redis(unpacked / name, manifest, kept / "redis", undo)
            else:
                replace_app(name, unpacked / name, settings, kept, undo, not_undone)
        ignore_signals()
    except Exception as error:  # whatever it is, the data are restored
        ignore_signals()
        undo_all(undo, kept, str(error))
        raise BackupError(", ".join([f"{error}; all is as it was before", *not_undone])) from error
    if any(name.startswith("redis/") for name in names):
        run_redis_data("forget")


def undo_all(undo: list[Undo], kept: Path, reason: str) -> None:
    try:
        for step in reversed(undo):
            step()
        if (kept / "redis").exists():
            clear(kept / "redis", redis_contents.USER)
    except Exception as error:  # whatever it is, the message says where the data are
        message = f"{reason}; and it could not be taken back: {error}; the data are in {kept}"
        raise BackupError(message) from error
    shutil.rmtree(kept)


def replace_redis(rdb: Path, manifest: archive.Manifest, kept: Path, undo: list[Undo]) -> None:
    """Redis runs with the contents of the RDB file.

    A private server verifies the very files with which Redis then starts: in Redis itself keys
    expire and others are written at once.
    """
    undo.append(services.start_redis)
    services.stop(services.REDIS)
    room_in(kept, redis_contents.USER)
    run_redis_data("keep", str(kept))
    undo.append(lambda: run_redis_data("put_back", str(kept)))
    undo.append(lambda: services.stop(services.REDIS))
    with rdb.open("rb") as content:
        run_redis_data("put", stdin=content, timeout=copy_timeout(rdb.stat().st_size))
    contents = redis_contents.of_directory(redis_data.DATA, "yes")
    difference = redis_contents.difference(contents, manifest["redis"])
    if difference:
        raise BackupError(f"Redis would start with something else: {difference}")
    services.start_redis()


def run_redis_data(*words: str, timeout: float = COPY_TIMEOUT, **options: Any) -> None:
    """Runs the module redis_data as user redis, whose directory it changes."""
    script(redis_contents.USER, Path(redis_data.__file__), *words, timeout=timeout, **options)


def replace_app(
    name: str, file: Path, settings: Settings, kept: Path, undo: list[Undo], not_undone: list[str]
) -> None:
    """The app has what the member holds. `not_undone` gets what the undoing leaves there."""
    place = kept / Path(name).parent
    place.mkdir(mode=0o700, exist_ok=True, parents=True)
    before = app.keep(name, place, settings)
    undo.append(lambda: app.put(name, before, settings) if before else app.remove(name, settings))
    if name.startswith(app.MARIADB):
        # A dump replaces the tables that are in it, and no others.
        not_undone.append(
            f"but tables that only the backup has stay in {settings['backup_mariadb']}"
        )
    app.put(name, file, settings)
