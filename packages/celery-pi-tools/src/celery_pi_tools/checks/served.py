"""Managed by celery-pi. Whether a web server of this machine serves what is nobody's to read.

Every TCP server that answers HTTP is asked, by every name and by its bare addresses, for `.env`,
`.git/config`, the settings, the database and a backup. What comes is compared with the files.
"""

from __future__ import annotations

import base64
import json
import os
import platform
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from celery_pi_tools.checks import backups, http_probe
from celery_pi_tools.checks.registry import Finding, check, ok, warn, wrong
from celery_pi_tools.commands import CannotRead, output
from celery_pi_tools.privileges import PYTHON, Refused, attempt, is_roots_alone, read, user_name
from celery_pi_tools.system import System

SECONDS = 60  # for all questions together
SQLITE = b"SQLite format 3\0"  # the rest of a database changes while it is used
NAMES = 24  # names that are asked for, at most
ADDRESSES = 6  # addresses of this machine, at most
# Servers of other protocols, which may count what they do not understand as an attack.
NO_HTTP = {
    *("sshd", "dropbear", "redis-server", "mariadbd", "mysqld", "postgres", "memcached"),
    *("exim4", "master", "systemd-resolve", "dnsmasq", "named", "smbd", "mosquitto", "rpcbind"),
}
SSH = 22  # which systemd may hold for sshd
SOCKET = re.compile(r'(\S+):(\d+)\s+\S+(?:\s+users:\(\("([^"]*)")?')
NGINX_NAMES = re.compile(r"^\s*server_name\s+([^;]+);", re.MULTILINE)
APACHE_NAMES = re.compile(
    r"^\s*(?:port \d+ namevhost|alias|wild alias)\s+(\S+)|^\S+:\d+\s+(\S+) \(", re.MULTILINE
)
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,250}[A-Za-z0-9])?")
DEFAULT = Path("/etc/nginx/sites-enabled/default")
CLOSE = (
    "give that server a root in which the app is not, or have it refuse the file (nginx: location "
    "~ /\\. { return 404; }, Apache: <FilesMatch> with Require all denied)"
)
THEN = "then make rotate, and new values for all else that was to be read"


@check("Web", "Files of the app over HTTP", "audit")
def served(system: System) -> Finding:
    listening = sockets(output("ss", "-Hltnp"))
    private_files = list(files(system))
    request = {
        "servers": list(servers(listening)),
        "names": names(system, {process for _, _, process in listening}),
        "files": private_files,
        "seconds": SECONDS,
    }
    reply = probe(request)
    values = {key: reply[key] for key in ("found", "servers", "asked", "unanswered")}
    if reply["found"]:
        return wrong(described(reply["found"], listening), remedy(), **values)
    if reply["unanswered"]:
        total = reply["asked"] + reply["unanswered"]
        evidence = f"{reply['unanswered']} of {total} questions were not answered; the others well"
        return warn(evidence, "see what is slow: ss -ltnp; audit again", **values)
    if not reply["servers"]:
        return ok("no server answers HTTP", **values)
    what = ", ".join(file["what"] for file in private_files)
    return ok(f"none of {len(reply['servers'])} addresses serves {what}", **values)


def probe(request: dict[str, Any]) -> dict[str, Any]:
    """The answers to the questions, which the user nobody asks. Raises CannotRead."""
    command = (PYTHON, "-I", "-S", http_probe.__file__)
    stdin = json.dumps(request).encode()
    done = attempt("nobody", command, input=stdin, timeout=SECONDS + 15)
    if done.status:
        raise CannotRead(f"the questions end with {done.last_words}", "deploy again")
    reply: dict[str, Any] = json.loads(done.out)
    return reply


def described(hits: Sequence[dict[str, Any]], listening: Sequence[tuple[str, int, str]]) -> str:
    """Each thing that was served, once, with one URL."""
    first = {each["what"]: each for each in reversed(hits)}
    parts = [
        f"{process(each['port'], listening)} serves {what} at {each['url']}"
        for what, each in sorted(first.items())
    ]
    more = len(hits) - len(first)
    return "; ".join(parts) + (f"; and at {more} more" if more else "")


def process(port: int, listening: Sequence[tuple[str, int, str]]) -> str:
    return next((who for _, other, who in listening if other == port and who), f"port {port}")


def remedy() -> str:
    debians = f"rm {DEFAULT}, if that is Debian's default site; systemctl reload nginx; else "
    return f"{debians if os.path.lexists(DEFAULT) else ''}{CLOSE}; {THEN}"


# -- the servers


def sockets(listing: str) -> list[tuple[str, int, str]]:
    """Address, port and process of each TCP socket that listens, of what `ss -Hltnp` prints."""
    lines = (SOCKET.search(line) for line in listing.splitlines())
    listening = [(match[1], int(match[2]), match[3] or "") for match in lines if match]
    return [each for each in listening if each[2] not in NO_HTTP and each[1] != SSH]


def servers(listening: Sequence[tuple[str, int, str]]) -> Iterator[tuple[str, int]]:
    """Address and port of each server, once; one that listens everywhere has each address."""
    own = output("hostname", "-I").split()[:ADDRESSES]
    four = ["127.0.0.1", *(address for address in own if ":" not in address)]
    six = ["::1", *(address for address in own if ":" in address)]
    seen: set[tuple[str, int]] = set()
    for address, port, _ in listening:
        bare = address.strip("[]").replace("]", "")
        everywhere = {"0.0.0.0": four, "::": six, "*": [*four, *six]}  # noqa: S104
        for each in everywhere.get(bare, [bare]):
            if (each, port) not in seen:
                seen.add((each, port))
                yield each, port


def names(system: System, processes: set[str]) -> list[str]:
    """Host names to try: this machine's, and those in the configuration of its web servers."""
    node = platform.node()
    candidates = [node, f"{node}.local", "localhost", *system.settings["nginx_names"]]
    if "nginx" in processes:
        candidates += nginx_names(output("nginx", "-T"))
    if "apache2" in processes:
        candidates += apache_names(output("apachectl", "-S"))
    return list(dict.fromkeys(name.lower() for name in candidates if NAME.fullmatch(name)))[:NAMES]


def nginx_names(configuration: str) -> list[str]:
    return [plain(name) for names in NGINX_NAMES.findall(configuration) for name in names.split()]


def apache_names(listing: str) -> list[str]:
    return [plain(name or other) for name, other in APACHE_NAMES.findall(listing)]


def plain(name: str) -> str:
    """A name that matches the pattern; a regular expression stays, and is dropped later."""
    return name.replace("*", "www") if name.startswith("*.") else name.removeprefix(".")


# -- the files


def files(system: System) -> Iterator[dict[str, Any]]:
    """Each file that must not be served: how to recognise it, and its possible paths in a URL."""
    root = system.settings["app_dir"]
    for what, path in private(system):
        content = contents(path, system)
        if content is not None and content.strip():
            yield file_entry(what, path, root, content)
    for path in (f"{root}/{name}" for name in system.settings["backup_databases"]):
        if os.path.lexists(path):
            start = base64.b64encode(SQLITE).decode()
            yield {"what": "the database", "paths": ways(path, root), "start": start}
    if newest := newest_backup():
        with newest.open("rb") as file:
            yield file_entry("a backup", str(newest), root, file.read(http_probe.LONGEST))


def private(system: System) -> Iterator[tuple[str, str]]:
    root, module = system.settings["app_dir"], system.settings["app_module"].replace(".", "/")
    yield "the app's .env", f"{root}/.env"
    yield ".git/config", f"{root}/.git/config"
    for settings in (f"{module}/settings.py", f"{module}/settings/__init__.py"):
        yield settings, f"{root}/{settings}"


def file_entry(what: str, path: str, root: str, content: bytes) -> dict[str, Any]:
    start = content[: http_probe.LONGEST]
    digest = http_probe.digest(start)
    return {"what": what, "paths": ways(path, root), "length": len(start), "digest": digest}


def ways(path: str, root: str) -> list[str]:
    """Paths in a URL, for the path itself and for the target of a link."""
    real = os.path.realpath(path)
    both = [*http_probe.paths(path, root), *http_probe.paths(real, os.path.realpath(root))]
    return list(dict.fromkeys(both))


def contents(path: str, system: System) -> bytes | None:
    """Content as the app's user or the owner of the app's directory reads it; None if missing."""
    refused: Refused | None = None
    owner = user_name(os.stat(system.settings["app_dir"]).st_uid)  # noqa: PTH116
    for who in dict.fromkeys((system.settings["app_user"], owner)):
        if who == "root" and not is_roots_alone(path):
            continue
        try:
            return read(who, path)
        except FileNotFoundError:
            return None
        except Refused as error:
            refused = error
    if refused:
        raise refused
    return None


def newest_backup() -> Path | None:
    archives = sorted(backups.PLACE.glob(backups.PATTERN))
    return archives[-1] if archives else None
