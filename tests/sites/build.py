"""Machines as their owners run them, with nothing on them that is ours.

    python -m tests.sites.build NAME [--without-host]

brings one up; it is kept as an image, and made again only when what it is made of has changed.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import ssl
from collections import Counter
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

from tests.virtual_pi import VirtualPi, VirtualPiError
from tests.virtual_pi.archive import Entry, pack
from tests.virtual_pi.console import step
from tests.virtual_pi.engine import connect
from tests.virtual_pi.host import ensure_host
from tests.virtual_pi.image import ensure_image, image_name
from tests.virtual_pi.platforms import native_platform
from tests.virtual_pi.rootfs import cache_directory

SOURCE = Path(__file__).parent / "observations_nids"
APP = "/var/www/html/Observations_Nids"
MODULE = "observations_nids"
DATABASE = "observations_nids"
NAMES = ("nids.example", "raspberrypi", "raspberrypi.local")
OF_THE_OWNER = "www-data:www-data"
FILTER = "/etc/fail2ban/filter.d/redis-auth.conf"
RUNS = f"{APP}/media/runs.txt"
BUILD_SECONDS = 600

# Each stands in one file alone: whoever is shown it has been shown that file.
SECRETS = {
    ".env": "s1te-s3cret-key-of-the-stand-in",
    ".git/config": "git-token-of-the-owner-5772156649",
    "observations_nids/settings.py": "MARKER-OF-SETTINGS-PY-1618033988",
    "db.sqlite3": "MARKER-OF-THE-DATABASE-1732050807",
    "sauvegarde.sql": "MARKER-OF-THE-DUMP-1414213562",
}
GIT = {
    "HEAD": "ref: refs/heads/main\n",
    "config": '[core]\n\trepositoryformatversion = 0\n[remote "origin"]\n'
    f"\turl = https://owner:{SECRETS['.git/config']}@git.example/observations_nids.git\n",
}


@dataclass(frozen=True)
class Run:
    """How often a task has begun, and how often it has ended."""

    begun: int
    ended: int


@dataclass(frozen=True)
class Site:
    """A machine with a site on it, seen from beside it."""

    pi: VirtualPi

    def ask(self, path: str, *, tls: bool = False, timeout: float = 30) -> tuple[int, str]:
        """Status and text of the site's answer. Raises OSError or HTTPException without one."""
        return get(self.pi.address, path, tls=tls, timeout=timeout)

    def runs(self) -> dict[str, Run]:
        """Of every task that has begun, by its id; told by the tasks themselves."""
        told = self.pi.run("sh", "-c", '[ ! -e "$1" ] || cat -- "$1"', "sh", RUNS).stdout
        lines = Counter(tuple(line.split()[:2]) for line in told.splitlines())
        tasks = {task for _, task in lines}
        return {task: Run(lines["begun", task], lines["ended", task]) for task in tasks}

    def rows(self) -> Counter[str]:
        """Number of rows in MariaDB that each task has written."""
        query = "SELECT task FROM observations_observation"
        told = self.pi.run("mariadb", "--batch", "--skip-column-names", DATABASE, "-e", query)
        return Counter(told.stdout.split())


def get(address: str, path: str, *, tls: bool, timeout: float = 30) -> tuple[int, str]:
    """Status and text of an answer; any certificate will do, as the site's signs itself."""
    if not address:  # which would be this host
        raise ConnectionError("the machine has no address")
    connection: HTTPConnection = (
        HTTPSConnection(address, timeout=timeout, context=ssl._create_unverified_context())
        if tls
        else HTTPConnection(address, timeout=timeout)
    )
    try:
        connection.request("GET", path, headers={"Host": NAMES[0]})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def build(name: str, *, host_in_filter: bool = True) -> Site:
    """Bring up the machine of that name, anew.

    `host_in_filter` is whether the owner's fail2ban filter has `<HOST>`, which the guide's lacks:
    without it fail2ban does not start.
    """
    pi = VirtualPi(name, native_platform(), ensure_site(host_in_filter=host_in_filter))
    pi.down()
    try:
        pi.up()
    except VirtualPiError as error:
        if host_in_filter or str(error) != f"{name} has failed units: fail2ban.service.":
            raise
    return Site(pi)


def ensure_site(*, host_in_filter: bool = True) -> str:
    """Name of the image of that machine, which is made if there is none of the present inputs."""
    platform = native_platform()
    # Two processes at once would make it twice.
    with (cache_directory() / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ensure_host(platform)
        base = ensure_image(platform)
        entries = [*_project(), *_machine(host_in_filter=host_in_filter)]
        tag = f"observations-{_digest(base, entries)}"
        return f"{base}:{tag}" if _is_there(f"{base}:{tag}") else _made(base, tag, entries)


def _made(base: str, tag: str, entries: list[Entry]) -> str:
    pi = VirtualPi(f"{base}-{tag}", native_platform())
    pi.down()
    try:
        with step(f"Building the site {tag}", "about 1 minute"):
            pi.up()
            pi.unpack(pack(entries))
            setup = (SOURCE / "setup.sh").read_bytes()
            pi.run("sh", "-s", input=setup, timeout=BUILD_SECONDS)
            return pi.snapshot(tag)
    finally:
        pi.down()


def _project() -> list[Entry]:
    """The owner's project, where he has put it; with a copy of its history, as git leaves it."""
    entries = [Entry("/var/www", "root:root", 0o755), Entry("/var/www/html", "root:root", 0o755)]
    entries += [Entry(APP, OF_THE_OWNER, 0o755)]
    source = SOURCE / "app"
    for path in sorted(source.rglob("*")):
        if "__pycache__" in path.parts:
            continue
        inside = path.relative_to(source)
        name = ".env" if inside.name == "env.example" else str(inside)
        content = path.read_bytes() if path.is_file() else None
        mode = 0o755 if content is None else 0o644
        entries.append(Entry(f"{APP}/{name}", OF_THE_OWNER, mode, content))
    entries.append(Entry(f"{APP}/.git", OF_THE_OWNER, 0o755))
    entries += [
        Entry(f"{APP}/.git/{name}", OF_THE_OWNER, 0o644, text.encode())
        for name, text in GIT.items()
    ]
    return entries


def _machine(*, host_in_filter: bool) -> list[Entry]:
    """Files of his outside the project."""
    source = SOURCE / "machine"
    entries = []
    for path in sorted(source.rglob("*")):
        target = f"/{path.relative_to(source)}"
        content = path.read_bytes() if path.is_file() else None
        if target == FILTER and content is not None and not host_in_filter:
            content = content.replace(b"<HOST>.*", b"")
        entries.append(Entry(target, "root:root", 0o755 if content is None else 0o644, content))
    return entries


def _digest(base: str, entries: list[Entry]) -> str:
    """One value that changes with everything that the machine is made of."""
    parts = [connect().images.get(base).id or "", (SOURCE / "setup.sh").read_text()]
    parts += [f"{e.path} {e.owner} {e.mode:o} {(e.content or b'').hex()}" for e in entries]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _is_there(image: str) -> bool:
    return any(image in found.tags for found in connect().images.list(name=image))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.sites.build", description=__doc__)
    parser.add_argument("name", nargs="?", default=f"{image_name(native_platform())}-site")
    parser.add_argument("--without-host", action="store_true", help="the guide's filter as it is")
    arguments = parser.parse_args()
    site = build(arguments.name, host_in_filter=not arguments.without_host)
    print(f"{site.pi.name}: http://{site.pi.address}/")


if __name__ == "__main__":
    main()
