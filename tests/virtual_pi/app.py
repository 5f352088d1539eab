"""The Django project on the virtual Pi, as a real Pi brings it before anything is deployed."""

import hashlib
from pathlib import Path

from tests.virtual_pi.archive import Entry, pack
from tests.virtual_pi.machine import VirtualPi

SOURCE = Path(__file__).parents[1] / "app"
TARGET = "/var/www/observations_nids"
_CODE_OWNER = "pi:www-data"
_ENV = "env.example"
_WRITABLE = ("media", "logs", "data")
_LOOK = 'stat --format=%n -- "$@" 2>&- ; sha256sum -- "$@" 2>&-'


def put_app(pi: VirtualPi, source: Path = SOURCE) -> None:
    """Lay out the project's code, its `.env` and the directories it writes to.

    Writes only files whose content differs; `.env` and directories only where they are missing.
    """
    wanted = [*_code(source), *_surroundings(source)]
    looked = pi.run("sh", "-c", _LOOK, "look", *(entry.path for entry in wanted), check=False)
    present = set(looked.stdout.splitlines())
    stale = [entry for entry in wanted if not _is_there(entry, present)]
    if stale:
        pi.unpack(pack(stale))


def _code(source: Path) -> list[Entry]:
    """The directories, parents first, and the files of the project."""
    entries = [Entry(TARGET, _CODE_OWNER, 0o2755)]
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        if inside.name == _ENV or not {"__pycache__", "venv", ".env"}.isdisjoint(inside.parts):
            continue
        if path.is_dir():
            entries.append(Entry(f"{TARGET}/{inside}", _CODE_OWNER, 0o2755))
        else:
            entries.append(Entry(f"{TARGET}/{inside}", _CODE_OWNER, 0o644, path.read_bytes()))
    return entries


def _surroundings(source: Path) -> list[Entry]:
    """What the project's owner makes on the Pi itself."""
    writable = [Entry(f"{TARGET}/{name}", "www-data:www-data", 0o750) for name in _WRITABLE]
    env = (source / _ENV).read_bytes()
    return [*writable, Entry(f"{TARGET}/.env", _CODE_OWNER, 0o640, env)]


def _is_there(entry: Entry, present: set[str]) -> bool:
    """Whether the machine has it; of the code, with the same content."""
    if entry.content is None or entry.path == f"{TARGET}/.env":
        return entry.path in present
    return f"{hashlib.sha256(entry.content).hexdigest()}  {entry.path}" in present
