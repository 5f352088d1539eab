"""What our deploy has left on a machine, for the other competitors to bring to theirs."""

from __future__ import annotations

import re
from pathlib import Path

from tests.helpers.harness import APP, run
from tests.virtual_pi import VirtualPi

BROKER = "broker.env"  # the lines of `.env` that are the deploy's
LIVE = "etc/celery-pi/redis-live.conf"
_ARCHIVE = r"""
manifest=/etc/celery-pi/manifest.json
{ python3 -c "import json; print(*json.load(open('$manifest'))['files'], sep='\\n')" | sed 's|^/||'
  cd /; ls -d etc/celery-pi/secrets/*
} | sort -u | tar --create --directory=/ --files-from=- | base64
"""


def take_files(pi: VirtualPi, directory: Path) -> None:
    """The files of a deployed machine, with their modes, and the lines of its `.env`.

    Secrets are among them: the machine is thrown away, and so is the directory.
    """
    directory.mkdir(mode=0o700)
    coded = directory / "files.base64"
    coded.write_text(pi.run("sh", "-c", _ARCHIVE).stdout)
    script = """cd "$1" && base64 -d files.base64 >files.tar && tar -xpf files.tar &&
      tar -cf library.tar -C usr/local/lib celery-pi"""
    assert run("sh", "-c", script, "take", directory).status == 0
    coded.unlink()
    asked = pi.run("sh", "-c", f"grep -E '^CELERY_+(BROKER|RESULT|KEY)' {APP}/.env").stdout
    (directory / BROKER).write_text(asked)
    live = (directory / LIVE).read_text()
    changing = re.sub(r"(?m)^maxmemory \d+$", "maxmemory {{ maxmemory }}", live)
    assert changing != live
    (directory / f"{LIVE}.j2").write_text(changing)
