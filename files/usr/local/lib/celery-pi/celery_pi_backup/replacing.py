"""Managed by celery-pi. The step of a restore that touches something: all of it, or nothing."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from celery_pi_privileges import Refused

from celery_pi_backup import Settings, Trouble, app, archive, data, scratch, services
from celery_pi_backup.hands import clear, patience, room_in, script

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Undo = Callable[[], object]
FILES = Path(data.__file__)  # as user redis, whose files they are
COPYING = 3600  # seconds for what Redis has now, which is linked or copied


@contextmanager
def stopped(told: Settings) -> Iterator[None]:
    """Nothing of ours or the site's uses the data; afterwards all that ran does."""
    units = services.users(told)
    try:
        services.stop(*units)
        yield
    except BaseException:
        be_deaf()
        with suppress(Refused):  # the reason that is on its way counts
            services.start(*units, wait=False)
        raise
    be_deaf()
    services.start(*units)


def replace(
    described: archive.Manifest, unpacked: Path, names: list[str], told: Settings, aside: Path
) -> None:
    """All of it or nothing: what fails on the way takes back what was done before it."""
    aside.mkdir(parents=True)
    aside.chmod(0o711)  # Redis goes to its own part
    undo: list[Undo] = []
    left: list[str] = []
    try:
        # Redis last: once it has started, others may give it what must not be taken back.
        for name in sorted(names, key=lambda name: name.startswith("redis/")):
            if name.startswith("redis/"):
                replace_redis(unpacked / name, described, aside / "redis", undo)
            else:
                replace_app(name, unpacked / name, told, aside, undo, left)
        be_deaf()
    except Exception as error:  # whatever it is, the data come back
        be_deaf()
        take_back(undo, aside, str(error))
        raise Trouble(", ".join([f"{error}; all is as it was before", *left])) from error
    if any(name.startswith("redis/") for name in names):
        of_redis("forget")


def take_back(undo: list[Undo], aside: Path, reason: str) -> None:
    try:
        for step in reversed(undo):
            step()
        if (aside / "redis").exists():
            clear(aside / "redis", scratch.USER)
    except Exception as error:  # told, with where the data are
        told = f"{reason}; and it could not be taken back: {error}; the data are in {aside}"
        raise Trouble(told) from error
    shutil.rmtree(aside)


def listen() -> None:
    """Whoever ends us gets what was there before."""
    for number in SIGNALS:
        signal.signal(number, interrupted)


def be_deaf() -> None:
    """Nobody ends us until what has begun is done."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def interrupted(number: int, _: FrameType | None) -> None:
    be_deaf()
    raise Trouble(f"interrupted by {signal.Signals(number).name}")


def replace_redis(rdb: Path, described: archive.Manifest, aside: Path, undo: list[Undo]) -> None:
    """Redis runs with what the RDB holds. A private server has loaded it from the very files that
    Redis then starts with: of those that others may use at once, keys expire and come."""
    undo.append(services.start_redis)
    services.stop(services.REDIS)
    room_in(aside, scratch.USER)
    of_redis("keep", str(aside))
    undo.append(lambda: of_redis("put_back", str(aside)))
    undo.append(lambda: services.stop(services.REDIS))
    with rdb.open("rb") as content:
        of_redis("put", stdin=content, timeout=patience(rdb.stat().st_size))
    differs = scratch.difference(scratch.look_in(data.DATA, "yes"), described["redis"])
    if differs:
        raise Trouble(f"Redis would start with something else: {differs}")
    services.start_redis()


def of_redis(*words: str, timeout: float = COPYING, **how: Any) -> None:
    """Root does nothing in Redis' own directory."""
    script(scratch.USER, FILES, *words, timeout=timeout, **how)


def replace_app(
    name: str, file: Path, told: Settings, aside: Path, undo: list[Undo], left: list[str]
) -> None:
    """The app has what the member holds. `left` gets what the undoing leaves there."""
    place = aside / Path(name).parent
    place.mkdir(mode=0o700, exist_ok=True, parents=True)
    kept = app.keep(name, place, told)
    undo.append(lambda: app.put(name, kept, told) if kept else app.remove(name, told))
    if name.startswith(app.MARIADB):
        # A dump replaces the tables that are in it, and no others.
        left.append(f"but tables that only the backup has stay in {told['backup_mariadb']}")
    app.put(name, file, told)
