"""Run on the machine, as root, by its own Python: writes what is there to standard output as JSON.

Paths that are not to be looked at come as arguments. It changes nothing, access times at most.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "device",
    stat.S_IFCHR: "device",
}


def main() -> None:
    left_out = set(sys.argv[1:])
    json.dump({name: look(left_out) for name, look in LOOKS.items()}, sys.stdout)


def files(left_out: set[str], root: str = "/") -> dict[str, str]:
    """Everything below it, each in the words of `describe`."""
    found = {}
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        try:
            entries = list(os.scandir(directory))
        except FileNotFoundError:
            continue  # it has gone meanwhile
        for entry in entries:
            if entry.path in left_out or os.path.ismount(entry.path):
                continue
            described = describe(entry.path)
            if described:
                found[entry.path] = described
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
    return found


def describe(path: str) -> str:
    """Kind, mode and owner; size and digest of a file, target of a link; what else hangs on it."""
    try:
        seen = os.lstat(path)
        kind = KINDS[stat.S_IFMT(seen.st_mode)]
        words = [kind, f"{stat.S_IMODE(seen.st_mode):04o}", f"{seen.st_uid}:{seen.st_gid}"]
        if kind == "link":
            words.append(f"-> {os.readlink(path)}")  # noqa: PTH115
        elif kind == "file":
            words += [str(seen.st_size), digest(path)]
        names = sorted(os.listxattr(path, follow_symlinks=False))
        words += [
            f"{name}={os.getxattr(path, name, follow_symlinks=False).hex()}" for name in names
        ]
    except FileNotFoundError:
        return ""
    return " ".join(words)


def digest(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME)
    with os.fdopen(fd, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def packages(_: set[str]) -> dict[str, str]:
    shown = said(
        "dpkg-query", "-W", "-f=${Package}:${Architecture}|${Version} ${db:Status-Status}\n"
    )
    found = dict(line.split("|", 1) for line in shown)
    found |= {f"{name} (asked for)": "yes" for name in said("apt-mark", "showmanual")}
    found |= {f"{name} (held)": "yes" for name in said("apt-mark", "showhold")}
    return found


def units(_: set[str]) -> dict[str, str]:
    """State of every unit, and of those that are loaded and last, their file and drop-ins."""
    found = {}
    for line in said("systemctl", "list-unit-files", "--no-legend", "--plain"):
        name, state, *_preset = line.split()
        found[name] = state
    kinds = "--type=service,socket,timer,path,mount,automount"
    for line in said("systemctl", "list-units", "--all", "--no-legend", "--plain", kinds):
        name, load, active, sub, *_said = line.split()
        if ".mount" not in name or "/" not in name:
            found[f"{name} (runs)"] = f"{load} {active} {sub}"
    return found


def processes(_: set[str]) -> dict[str, str]:
    """Main process of each service that has one: another number is another process."""
    found: dict[str, str] = {}
    block: dict[str, str] = {}
    for line in [*said("systemctl", "show", "--type=service", "-p", "Id,MainPID", "*"), ""]:
        key, _equals, text = line.partition("=")
        if key:
            block[key] = text
            continue
        if block.get("MainPID", "0") != "0":
            found[block["Id"]] = block["MainPID"]
        block = {}
    return found


def listeners(_: set[str]) -> dict[str, str]:
    found = {}
    for line in said("ss", "-Hltunp"):
        protocol, _state, _received, _sent, address, _peer, *users = line.split()
        names = (
            {part.split('"')[1] for part in users[0].split("(") if '"' in part} if users else set()
        )
        found[f"{protocol} {address}"] = " ".join(sorted(names))
    return found


def firewall(_: set[str]) -> dict[str, str]:
    found = {"status": "\n".join(said("ufw", "status", "verbose"))}
    found["rules"] = "\n".join(said("ufw", "show", "added"))
    return found


def bans(_: set[str]) -> dict[str, str]:
    """fail2ban's jails as it runs them, and how long they ban."""
    names = [line for line in said("fail2ban-client", "status") if "Jail list" in line]
    jails = names[0].partition(":")[2].replace(",", " ").split() if names else []
    return {jail: " ".join(said("fail2ban-client", "get", jail, "bantime")) for jail in jails}


def said(*argv: str) -> list[str]:
    """What a program says; nothing where there is none, as before it is installed."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    return done.stdout.splitlines()


LOOKS: dict[str, Callable[[set[str]], dict[str, str]]] = {
    "file": files,
    "package": packages,
    "unit": units,
    "process": processes,
    "listener": listeners,
    "firewall": firewall,
    "ban": bans,
}

if __name__ == "__main__":
    main()
