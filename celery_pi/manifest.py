"""`/etc/celery-pi/manifest.json` on the Pi: what the deploys have put there, for the tools on it.

    {"components": {"Beat": {"enabled": true, "units": [{"name": "celery-beat.service", "why": …,
       "root": false, "exposure": 2.0, "daemon": true, "needs": […], "uses_data": true}],
       "ports": ["80/tcp"], "secrets": [{"path": …, "mode": "600", "owner": …, "group": …,
       "once": true}]}, …},
     "files": {"/etc/…": {"mode": "644", "owner": "root", "group": "root", "sha256": "…"}, …}}

Components are in the order in which they are deployed, in which their units start. `sha256` is null
for a secret, and a file that is made `once` has none. A deploy of everything writes the manifest
anew. One of a single component replaces what is written of that component and of the files that it
has; the rest stays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from pyinfra.api import StringCommand
from pyinfra.api.exceptions import PyinfraError

from celery_pi.shell import assign, script

if TYPE_CHECKING:
    from pyinfra.api.host import Host

FILE = "/etc/celery-pi/manifest.json"
LEGACY = "/var/lib/celery-pi/declared"  # of deploys before 2026-12: a line for each file
NOTED = "celery_pi_components"
ALL = "celery_pi_all_components"

READ = r"""
if [ -e "$file" ]; then cat "$file"; elif [ -e "$legacy" ]; then cat "$legacy"; fi
"""

WRITE = script("manifest_write")

Manifest = dict[str, dict[str, Any]]
FileStates = Mapping[str, "list[str] | None"]
"""Mode, owner, group and SHA-256 (a dash for a secret) by path; None for what is to be absent."""


def note(host: Host, name: str, stated: Mapping[str, Any]) -> None:
    """Note, while planning, what a component of this run states of itself."""
    noted(host).pop(name, None)  # the last of its tasks decides its place in the order
    noted(host)[name] = dict(stated)


def noted(host: Host) -> dict[str, dict[str, Any]]:
    """What the components of this run state, by their names, in their order."""
    return cast("dict[str, dict[str, Any]]", host.connector_data.setdefault(NOTED, {}))


def read() -> StringCommand:
    """Command that prints the manifest; of a Pi that has none yet, the list of older deploys."""
    return StringCommand(assign(file=FILE, legacy=LEGACY), READ)


def write() -> StringCommand:
    """Command that replaces the manifest by its standard input."""
    return StringCommand(assign(file=FILE, legacy=LEGACY), WRITE)


def update(host: Host, old: str, files: FileStates, whole: bool) -> str:
    """Text of the manifest after this run, which has these files; `old` is what `read` printed.

    `whole` is whether the run had all components that are to be there.
    """
    return merged(
        {} if whole else parsed(old, host.connector_data.get(ALL, {})), noted(host), files
    )


def parsed(text: str, components: Mapping[str, Any]) -> Manifest:
    """What `read` prints. The list of older deploys names files alone; they had these components.

    Raises PyinfraError for a manifest that is damaged; a deploy of everything does not read it.
    """
    if not text or text.startswith("{"):
        try:
            return cast("Manifest", json.loads(text or "{}"))
        except ValueError as error:
            raise PyinfraError(
                f"{FILE} is damaged ({error}); `make deploy` writes it anew"
            ) from error
    lines = (line.split("\t") for line in text.splitlines())
    files = {path: _file(state) for path, *state in lines}
    return {"components": dict(components), "files": files}


def merged(old: Manifest, components: Mapping[str, Any], files: FileStates) -> str:
    """Text of a manifest in which these components and files replace those of the same name."""
    all_files = {**old.get("files", {}), **{path: _file(state) for path, state in files.items()}}
    new = {
        "components": {**old.get("components", {}), **components},
        "files": {path: state for path, state in sorted(all_files.items()) if state},
    }
    return json.dumps(new, indent=1) + "\n"


def _file(state: list[str] | None) -> dict[str, str | None] | None:
    if not state:
        return None
    mode, owner, group, digest = state
    sha256 = None if digest == "-" else digest
    return {"mode": mode, "owner": owner, "group": group, "sha256": sha256}
