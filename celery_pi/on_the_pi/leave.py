"""Removes celery-pi from the machine on which it runs. Without --yes it only prints the
steps. `make leave` sends it there, with `celery_pi_tools.privileges` beside it.

What was there before the first deploy is again as it was; what has been added since by somebody
else stays. Waiting tasks stay in Redis. The backups stay, and one is made first. Where it is cut
off, it goes on from there when it is run again. Exit status: 0, or 1 and a sentence.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from celery_pi_tools import privileges  # sent along

LIBRARY = Path("/usr/local/lib/celery-pi")
PROGRAM = Path("/usr/local/bin/celery-pi")
STATE = Path("/var/lib/celery-pi")
BEFORE = STATE / "before"
USERS_BEFORE = BEFORE / "redis_users"
ETC = Path("/etc/celery-pi")
UNITS = Path("/etc/systemd/system")
REDIS = "redis-server.service"
WORKER = "celery-worker.service"
REDIS_DROPINS = UNITS / f"{REDIS}.d"
DATA = Path("/var/lib/redis")
RECORD = ".celery-pi"  # in an environment: what a deploy has installed
MARK = b"Managed by celery-pi"
# Of ours, with what lies in them.
DIRECTORIES = (
    *("/etc/celery-pi", "/var/lib/celery-beat", "/var/lib/celery-flower"),
    *("/run/celery-pi", "/run/celery-pi-rehearsal", "/run/redis-celery", "/run/redis-logins"),
)
# By whatever it was made.
NAMED = (
    *("etc/*/celery-pi*", "etc/*/*/celery-pi*", "etc/*/*/*/celery-pi*"),
    *("etc/*/*/*-celery-pi*", "etc/*/*-celery-pi*", "var/lib/systemd/timers/stamp-celery-pi*"),
)
USERS = ("celery-flower",)
LEASE = 20  # seconds; as a deploy has it
PATIENCE = 3700  # seconds for a worker to end its tasks
SUFFIXES = (".service", ".timer", ".path", ".socket")
OURS_IN_ENV = re.compile(
    rb"\s*(?:export\s+)?(CELERY__?(?:BROKER_URL|RESULT_BACKEND)|CELERY_KEY_PREFIX)\s*="
)
HEADING = b"# Set by celery-pi"
# Daemons for which a file of ours is a setting, by the start of its path.
READERS = {
    "/etc/fail2ban/": "fail2ban.service",
    "/etc/systemd/system/fail2ban.service.d/": "fail2ban.service",
    "/etc/nginx/": "nginx.service",
    "/etc/systemd/system/nginx.service.d/": "nginx.service",
    "/etc/systemd/system/apt-daily.timer.d/": "apt-daily.timer",
    "/etc/systemd/system/apt-daily-upgrade.timer.d/": "apt-daily-upgrade.timer",
    "/etc/systemd/journald.conf.d/": "systemd-journald.service",
}


class CannotLeave(Exception):
    """Why it cannot go on, in a sentence."""


@dataclass(frozen=True)
class Step:
    """One thing to do, in words, and the doing."""

    text: str
    do: Callable[[], object]


def run(
    *argv: str, check: bool = True, timeout: float = 600, stdin: str = "", **options: object
) -> str:
    """Output of the command. Raises CannotLeave if it fails."""
    process = subprocess.run(
        argv,
        input=stdin,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    if check and process.returncode:
        last = (process.stderr or process.stdout).strip().splitlines()[-1:]
        raise CannotLeave(f"{' '.join(argv[:4])} failed: {' '.join(last)}")
    return str(process.stdout)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# -- what was done here


def made() -> list[Path]:
    """What a deploy has put where nothing was, and is there."""
    declared = (line.split("	")[0] for line in lines(STATE / "declared"))  # of older deploys
    ours_by_name = (
        path for pattern in NAMED for path in Path("/").glob(pattern) if is_roots_alone(path)
    )
    candidates = {
        *map(Path, (*lines(BEFORE / "ours"), *manifest()["files"], *declared)),
        *ours_by_name,
    }
    paths = (
        path for path in candidates - set(kept()) if path.name != ".env"
    )  # the app's, to the end
    return sorted(path for path in paths if is_there(path) and is_ours(path))


def is_roots_alone(path: Path) -> bool:
    """Whether nobody but root can change what is at that path, or the way there."""
    return bool(privileges.is_roots_alone(str(path), follow=False))


def is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def is_ours(path: Path) -> bool:
    """Not what somebody has put in its place since."""
    if "celery-pi" in str(path) or path.is_dir():
        return True
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            return False
        raise
    with os.fdopen(file, "rb", buffering=0) as content:
        return stat.S_ISREG(os.fstat(file).st_mode) and MARK in (content.read(4096) or b"")


def kept() -> list[Path]:
    """What was there before a deploy changed it."""
    files = BEFORE / "files"
    paths = (path for path in files.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(Path("/", path.relative_to(files)) for path in paths)


def our_units() -> list[str]:
    """Those that we have made, or whose place ours have taken; what was started last goes first, so
    that nothing gives the worker work when its turn comes."""
    paths = {*made(), *kept()}
    names = {path.name for path in paths if path.parent == UNITS and path.suffix in SUFFIXES}
    present = [name for name in names if is_there(UNITS / name) and is_ours(UNITS / name)]
    components = list(manifest()["components"].values())
    started = [str(unit["name"]) for component in components for unit in component["units"]]
    places = {name: place for place, name in enumerate(reversed(started))}
    # Older deploys have noted no units.
    return sorted(present, key=lambda name: (places.get(name, -1), name == WORKER, name))


def installed() -> list[str]:
    """Debian packages that a deploy has installed, and that are there."""
    names = lines(BEFORE / "installed")
    if not names:
        return []
    output = run("dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n", *names, check=False)
    return [line.split()[1] for line in output.splitlines() if line.startswith("installed ")]


def earlier_units() -> list[tuple[str, bool, bool]]:
    """Name, and whether it was enabled and running, of each unit that was put aside."""
    words_of_units = (line.split() for line in lines(BEFORE / "units"))
    return [(words[0], "enabled" in words[1:], words[-1] == "active") for words in words_of_units]


def manifest() -> dict[str, dict[str, Any]]:
    """What the last deploys have noted, if any have."""
    path = ETC / "manifest.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    return {"components": content.get("components", {}), "files": content.get("files", {})}


def settings() -> dict[str, Any]:
    path = Path("/etc/celery-pi/settings.json")
    return dict(json.loads(path.read_text())) if path.exists() else {}


# -- the steps


def steps() -> Iterator[Step]:
    """All that is left to do, in its order."""
    ours, packages, envs = made(), installed(), env_paths()
    runs = run("systemctl", "is-active", REDIS, check=False) == "active\n"
    if runs and PROGRAM.exists():
        yield Step("make a backup, which stays in /var/backups/celery-pi", backup)
    if units := our_units():
        yield Step(f"stop {', '.join(units)}; the worker ends its tasks first", stop_ours)
    if runs and lines(USERS_BEFORE):
        yield Step("let into Redis whom it let in before", let_in)
    for env in filter(env_differs, envs):
        units = [str(unit) for unit in settings().get("app_units") or () if is_current(env)]
        again = f", and have {', '.join(units)} read it" if units else ""
        yield Step(
            f"put the lines of before back into {env}{again}", partial(restore_env, env, units)
        )
    outside = [path for path in kept() if path not in envs]
    if outside:
        names = ", ".join(map(str, outside))
        yield Step(f"put back as it was: {names}", lambda: put_all_back(outside))
    stays = "redis-server" not in packages
    redis = [path for path in ours if stays and REDIS_DROPINS in path.parents]
    others = [path for path in ours if path not in redis and not {*path.parents} & {LIBRARY, ETC}]
    if others:
        yield Step(f"remove {len(others)} files of celery-pi's own", lambda: remove(others))
    if redis:
        yield Step(
            "start Redis with its own configuration; waiting tasks stay in it",
            lambda: switch_redis(redis),
        )
    readers = {
        unit
        for start, unit in READERS.items()
        if any(str(path).startswith(start) for path in (*ours, *kept()))
    }
    yield Step(
        "have systemd and what runs read their configuration again", lambda: read_again(readers)
    )
    if back := earlier_units():
        names = ", ".join(unit for unit, *_ in back)
        yield Step(f"start again what ran before: {names}", start_earlier)
    for record in sorted(BEFORE.glob("python/*")):
        venv, changed = python_changes(record)
        if changed or Path(venv, RECORD).exists():
            text = f"put the Python packages in {venv} back: {' '.join(changed) or 'none'}"
            yield Step(text, partial(pip, venv, changed))
    if packages:
        yield Step(f"remove the packages that a deploy installed: {', '.join(packages)}", purge)
    yield Step("remove celery-pi's own directories and users; the backups stay", forget)


def backup() -> None:
    """Nothing of the app's is touched afterwards, so one that cannot be made keeps nobody here."""
    try:
        run(str(PROGRAM), "backup", timeout=PATIENCE)
    except CannotLeave as trouble:
        print(f"   no backup was made: {trouble}")


def stop_ours() -> None:
    for unit in our_units():
        run("systemctl", "disable", "--quiet", unit, check=False)
        run("systemctl", "stop", unit, timeout=PATIENCE)


def as_admin(*words: str, stdin: str = "") -> str:
    return run(f"{LIBRARY}/redis-cli", "admin", *words, timeout=PATIENCE, stdin=stdin)


def let_in() -> None:
    """The site's processes may have their old URL again while nobody has restarted anything."""
    for line in lines(USERS_BEFORE):
        name, rules = line.split(" ", 2)[1:]
        # Its hashes are in no list of processes.
        reply = as_admin(stdin=f"ACL SETUSER {name} reset {rules}\n").strip()
        if reply != "OK":
            raise CannotLeave(f"Redis does not let {name} in: {reply}")


def switch_redis(ours: list[Path]) -> None:
    """What the server holds is in dump.rdb, which it writes when it ends too, and no append-only
    file is taken for newer."""
    if run("systemctl", "is-active", REDIS, check=False) == "active\n":
        if as_admin("SAVE").strip() != "OK":
            raise CannotLeave("Redis could not save its data; see: journalctl -u redis-server")
        run("systemctl", "stop", REDIS, timeout=PATIENCE)
    configured = privileges.read("redis", "/etc/redis/redis.conf")
    if not re.search(rb"^appendonly\s+yes", configured, re.MULTILINE):
        gone = ("/usr/bin/rm", "-rf", "--", str(DATA / "appendonlydir"))
        privileges.run("redis", gone, timeout=PATIENCE)
    remove(ours)
    run("systemctl", "daemon-reload")
    run("systemctl", "start", REDIS, timeout=PATIENCE)


def env_paths() -> list[Path]:
    """Each `.env` that a deploy has changed: of the app, and of where it was before."""
    app = settings().get("app_dir")
    current = [Path(str(app), ".env")] if app else []
    return sorted({*(path for path in kept() if path.name == ".env"), *current})


def is_current(env: Path) -> bool:
    """Whether it is the app's, as it was deployed last."""
    return str(env.parent) == settings().get("app_dir")


def env_owner(env: Path) -> list[str]:
    """Mode, user and group of before."""
    for line in lines(BEFORE / "owners"):
        mode, user, group, path = line.split(" ", 3)
        if path == str(env):
            return [mode, user, group]
    return []


def app_user(env: Path) -> str:
    """Who reads it."""
    if is_current(env):
        return str(settings()["app_user"])
    noted = env_owner(env)
    if noted and is_believed(noted[1], env):
        return noted[1]
    return privileges.sole_owner(str(env)) or "nobody"


def is_believed(user: str, env: Path) -> bool:
    """Whether the file may have been that user's when a deploy noted its owner: who can change the
    way there could have led the deploy to another's."""
    users = (settings().get("app_user"), privileges.sole_owner(str(env)))
    return user in users or is_roots_alone(env)


def env_text(env: Path) -> tuple[bytes, bytes]:
    """Its text now, and as it is to be."""
    now = privileges.read(app_user(env), str(env))
    copy = BEFORE / "files" / str(env).lstrip("/")
    return now, earlier_text(now, copy.read_bytes() if copy.exists() else b"")


def env_differs(env: Path) -> bool:
    try:
        now, earlier = env_text(env)
    except FileNotFoundError:
        return False
    return now != earlier


def earlier_text(now: bytes, before: bytes) -> bytes:
    """Our variables as they were, or gone; all else as it is now."""
    old: dict[bytes, list[bytes]] = {}
    for line in before.splitlines(keepends=True):
        if match := OURS_IN_ENV.match(line):
            old.setdefault(match[1], []).append(line)
    result = []
    for line in now.splitlines(keepends=True):
        if line.startswith(HEADING):
            continue
        match = OURS_IN_ENV.match(line)
        result += old.pop(match[1], []) if match else [line]
    text = b"".join([*result, *(line for group in old.values() for line in group)])
    # The end of the last line, which we had to give it.
    return text[:-1] if text[:-1] == before else text


def restore_env(env: Path, site: list[str]) -> None:
    _, earlier = env_text(env)
    state = env.stat()
    app = app_user(env)
    mode, user, group = env_owner(env) or [f"{state.st_mode:o}", app, app]
    if not is_believed(user, env):
        user, group = app, app
    privileges.replace(str(env), earlier, user=user, group=group, mode=int(mode, 8) & 0o777)
    for unit in site:
        verb = "reload" if unit == "apache2.service" else "restart"  # as a deploy does it
        if run("systemctl", "is-active", unit, check=False) == "active\n":
            run("systemctl", verb, unit)


def put_all_back(paths: list[Path]) -> None:
    for path in paths:
        put_back(path)


def put_back(path: Path) -> None:
    copy = BEFORE / "files" / str(path).lstrip("/")
    if not is_roots_alone(path):
        raise CannotLeave(
            f"others than root may change the way to {path}: its copy stays in {copy}"
        )
    new = path.with_name(f"{path.name}.celery-pi-back")
    run("cp", "-a", "-T", "--", str(copy), str(new))
    new.replace(path)


def remove(paths: list[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            user = privileges.owner(str(path))  # an environment lies where the app may write
            privileges.run(user, ("/usr/bin/rm", "-rf", "--", str(path)), timeout=PATIENCE)
        else:
            path.unlink(missing_ok=True)
    for parent in sorted({path.parent for path in paths}, reverse=True):
        if parent.name.endswith(".d") or "celery-pi" in str(parent):
            run("rmdir", "--ignore-fail-on-non-empty", str(parent), check=False)


def read_again(readers: set[str]) -> None:
    run("systemctl", "daemon-reload")
    for unit in sorted(readers):
        if run("systemctl", "is-active", unit, check=False) == "active\n":
            run("systemctl", "restart", unit, timeout=PATIENCE)


def start_earlier() -> None:
    run("systemctl", "daemon-reload")
    for unit, enabled, active in earlier_units():
        if enabled:
            run("systemctl", "enable", "--quiet", unit, check=False)
        if active:
            run("systemctl", "start", unit, timeout=PATIENCE)


def python_changes(record: Path) -> tuple[str, list[str]]:
    """The environment, and the words for pip: what is to go as -NAME, what is to be as NAME==V."""
    venv, *before = lines(record)
    python = Path(venv, "bin/python")
    if not python.exists():
        return venv, []
    earlier = dict(line.split("==", 1) for line in before)
    now = {}
    # After an upgrade of Debian, those of the Python before are there too; pip sees none of them.
    packages = Path(venv, "lib", python.resolve().name, "site-packages")
    for info in packages.glob("*.dist-info"):
        name, _, version = info.name.removesuffix(".dist-info").partition("-")
        now[re.sub(r"[-_.]+", "-", name).lower()] = version
    gone = [f"-{name}" for name in now if name not in earlier]
    return venv, gone + [
        f"{name}=={version}" for name, version in earlier.items() if now.get(name) != version
    ]


def pip(venv: str, changes: list[str]) -> None:
    run_as, user, python = privileges.run, privileges.owner(venv), f"{venv}/bin/python"
    options = ("--no-input", "--disable-pip-version-check", "--quiet")
    removed = [change[1:] for change in changes if change.startswith("-")]
    installed_again = [change for change in changes if not change.startswith("-")]
    if removed:
        run_as(
            user,
            (python, "-I", "-m", "pip", "uninstall", "-y", *options[1:], *removed),
            timeout=PATIENCE,
        )
    if installed_again:
        words = (
            python,
            "-I",
            "-m",
            "pip",
            "install",
            "--no-deps",
            "--no-cache-dir",
            *options,
            *installed_again,
        )
        run_as(user, words, timeout=PATIENCE)
    run_as(user, ("/usr/bin/rm", "-f", f"{venv}/{RECORD}"), timeout=60)


def purge() -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "yes"}
    apt = ("apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300")
    packages = [*installed(), *came_along(installed())]
    run(*apt, "purge", *packages, timeout=PATIENCE, env=environment)
    # One whose unit was running without being stopped by its package.
    output = run("systemctl", "list-units", "--plain", "--no-legend", "--state=running")
    for line in output.splitlines():
        unit, loaded, *_ = line.split()
        if loaded == "not-found":
            run("systemctl", "stop", unit, check=False)


def came_along(ours: list[str]) -> list[str]:
    """Packages that were not there before us, that nobody has installed by name, and without which
    nothing else would have to go."""
    before = set(lines(BEFORE / "packages"))
    if not before:
        return []
    automatic = run("apt-mark", "showauto").split()
    candidates = [name for name in automatic if name not in before and name not in ours]
    lines_of_plan = run("apt-get", "-s", "purge", *ours, *candidates, check=False).splitlines()
    removed = {line.split()[1] for line in lines_of_plan if line.startswith(("Purg ", "Remv "))}
    return candidates if removed <= {*ours, *candidates} else []


def forget() -> None:
    """Last of all: without it, nothing is known of what was before."""
    for user in USERS:
        if run("getent", "passwd", user, check=False):
            run("userdel", user)
    for directory in (*DIRECTORIES, LIBRARY, STATE):
        shutil.rmtree(directory, ignore_errors=True)
    PROGRAM.unlink(missing_ok=True)
    run("systemctl", "daemon-reload")


def somebody_deploys() -> bool:
    beat = Path("/run/celery-pi/beat")
    if not beat.exists():
        return False
    up = float(Path("/proc/uptime").read_text().split()[0])
    words = beat.read_text().split()
    return len(words) == 2 and words[1].isdigit() and 0 <= up - int(words[1]) < LEASE


def main() -> int:
    parser = argparse.ArgumentParser(description="take celery-pi off")
    parser.add_argument("--yes", action="store_true", help="do it; without it, only say what")
    arguments = parser.parse_args()
    if not STATE.exists() and not LIBRARY.exists():
        return 0
    if arguments.yes and somebody_deploys():
        print(
            "celery-pi: somebody deploys just now: try again when that has ended", file=sys.stderr
        )
        return 1
    planned = list(steps())
    for number, step in enumerate(planned, 1):
        print(f"{number}. {step.text}", flush=True)
        if arguments.yes:
            step.do()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (CannotLeave, privileges.Refused, OSError, subprocess.SubprocessError) as error:
        sys.exit(f"celery-pi: {error}; run it again when that is put right")
