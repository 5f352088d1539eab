"""Puts traps below every directory that another user can write, and takes them away again.

    python3 -m tests.root_jobs.traps find              JSON: user and path of each directory
    python3 -m tests.root_jobs.traps put KIND <PLACES   JSON there: user, directory, and names or []
    python3 -m tests.root_jobs.traps mend

What he finds there, and what he could make there, becomes a trap, as its owner could have made it;
what was there is kept aside. Runs on the machine; standard library only.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from pwd import getpwnam
from typing import Any

from tests.root_jobs.canaries import DEVICE, PLACES

ASIDE = Path("/root/celery-pi-walk.aside")
KEPT = ASIDE / "kept.json"
NOT_HERE = ("/proc", "/sys", "/dev", "/tmp", "/var/tmp", "/run/user", "/home")  # noqa: S108
# Packages of Python: hundreds of directories, which only processes of the app's go into.
NOT_BELOW = ("*/venv/lib", "*/__pycache__")
SPARSE = 8 * 2**30
ESCAPES = "\x1b]0;celery-pi-walk\x07\ncelery-pi: all is well"
NEW = f"{ESCAPES}.log"
# What is not always there.
MISSING = (
    *("db.sqlite3", "db.sqlite3-wal", "db.sqlite3-journal", "x.log", "x.log.1", "x.pid"),
    *("celery.pid", "schedule", "dump.rdb", "damaged.aof", "damaged.log", "appendonlydir.new"),
    *("appendonlydir.celery-pi", "appendonly.aof.manifest.celery-pi", "celery-pi.conf"),
)
KINDS = ("file", "directory", "fifo", "device", "sparse", "escapes")
MIXED = "mixed"  # one kind after the other


def find() -> list[dict[str, str]]:
    """Directories that a user of ours can write, each with the first that can; not what is
    everybody's, where nobody can take the place of another's file."""
    found: dict[str, str] = {}
    for user in _users():
        pruned = [word for path in NOT_HERE for word in ("-path", path, "-o")]
        pruned += [word for path in NOT_BELOW for word in ("-path", path, "-o")][:-1]
        command = ["find", "/", "/run", "(", *pruned, ")", "-prune", "-o"]
        command[1:1] = ["-P"]
        command += ["-xdev", "-type", "d", "-writable", "!", "-perm", "-1002", "-print0"]
        done = subprocess.run(
            ["runuser", "-u", user, "--", *command], capture_output=True, check=False, cwd="/"
        )
        for path in done.stdout.decode().split("\0")[:-1]:
            found.setdefault(path, user)
    return [{"user": user, "directory": path} for path, user in sorted(found.items())]


def _users() -> list[str]:
    """The owner of the code, and who any of our services runs as."""
    shown = ["systemctl", "show", "-P", "User", "redis-server", "celery-worker", "celery-flower"]
    done = subprocess.run(shown, capture_output=True, text=True, check=True)
    return [*dict.fromkeys([*done.stdout.split(), "pi"])]


def put(kind: str, places: list[dict[str, Any]]) -> list[str]:
    """Paths of the traps of that kind."""
    ASIDE.mkdir(mode=0o700)
    kept: list[dict[str, Any]] = []
    paths: list[str] = []
    try:
        for place in places:
            directory = Path(place["directory"])
            if not directory.is_dir() or directory.is_symlink():
                continue  # within one that has become a trap
            before = sorted(path.name for path in directory.iterdir())
            names = place.get("names") or [*_replaceable(directory, kind), *MISSING, NEW]
            kept.append({"directory": str(directory), "before": before, "aside": {}})
            for name in dict.fromkeys(names):
                path = directory / name
                if name in before:
                    aside = ASIDE / f"{len(kept)}-{len(kept[-1]['aside'])}"
                    subprocess.run(["mv", "-T", "--", path, aside], check=True)
                    kept[-1]["aside"][name] = str(aside)
                _make(kind, path, len(paths))
                who = getpwnam(place["user"])
                os.chown(path, who.pw_uid, who.pw_gid, follow_symlinks=False)
                paths.append(str(path))
    finally:
        KEPT.write_text(json.dumps(kept))
    return paths


def _replaceable(directory: Path, kind: str) -> list[str]:
    """What is there: files, and where the trap leads into a directory, those as well. Sockets stay,
    by which all would be down and nothing else looked for."""
    kinds = (stat.S_IFREG, stat.S_IFLNK, *([stat.S_IFDIR] if kind == "directory" else []))
    found = sorted(directory.iterdir())
    return [path.name for path in found if stat.S_IFMT(path.lstat().st_mode) in kinds]


def _make(kind: str, path: Path, number: int) -> None:
    canary = PLACES[number % len(PLACES)]
    if kind == MIXED:
        number //= len(PLACES)  # so that each kind comes to each place
        kind = KINDS[number % len(KINDS)]
    if kind == "fifo":
        os.mkfifo(path, 0o666)
    elif kind == "sparse":
        with path.open("xb") as file:
            file.truncate(SPARSE)
        path.chmod(0o644)
    else:
        target = {
            **{"file": str(canary / "file"), "directory": str(canary / "directory")},
            **{"device": str(DEVICE), "escapes": f"/nowhere/{ESCAPES}"},
        }[kind]
        path.symlink_to(target)


def mend() -> None:
    """All is there again, and nothing else; sockets, which servers make anew, are left."""
    for place in reversed(json.loads(KEPT.read_text())):
        directory = Path(place["directory"])
        if not directory.exists():
            continue  # of a service that has been stopped, which makes it anew
        for path in directory.iterdir():
            if path.name not in place["before"] or path.name in place["aside"]:
                if path.is_socket():
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        for name, aside in place["aside"].items():
            subprocess.run(["mv", "-T", "--", aside, directory / name], check=True)
    shutil.rmtree(ASIDE)


def main(task: str, *words: str) -> None:
    if task == "mend":
        mend()
    else:
        print(json.dumps(find() if task == "find" else put(words[0], json.load(sys.stdin))))


if __name__ == "__main__":
    main(*sys.argv[1:])
