"""Backup, restore and drill as they lie on the Pi, against a real Redis of this machine's own, with
stand-ins for systemd and for the way to log in. Needs root, to become others."""

from __future__ import annotations

import grp
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from celery_pi.render import ROOT
from celery_pi.settings import Settings
from tests.helpers.harness import wait_for
from tests.helpers.manifest import manifest_text

SOURCE = ROOT / "packages/celery-pi-tools/src"
PROGRAM = ROOT / "files/usr/local/bin/celery-pi"

USER = "nobody"
# What the units leave to root: three capabilities, the app's group, no network.
CONFINED = (
    *("unshare", "--net", "setpriv", "--bounding-set=-all,+chown,+setuid,+setgid"),
    *("--inh-caps=-all", f"--groups=0,{grp.getgrnam('nogroup').gr_gid}", "--no-new-privs"),
)

PYTHON = ("/usr/bin/python3", "-IBS")

# Where things lie on the Pi, and who owns them; in this order.
MOVED = {
    "/var/backups/celery-pi": "backups",
    "/var/lib/celery-pi": "state",
    "/etc/celery-pi/settings.json": "settings.json",
    "/etc/celery-pi/manifest.json": "manifest.json",
    "/etc/celery-pi/secrets": "secrets",
    "/run/redis-celery/redis.sock": "run/redis.sock",
    "/usr/local/lib/celery-pi/tools": "lib",
    "/var/lib/redis": "redis",
    "/var/tmp": "work",  # noqa: S108
    "/usr/local/sbin:/usr/local/bin": "bin",  # of the path that everybody gets
}
PASSWORD = "s3cret"  # noqa: S105
# The units that run are files; one word in `trouble` befalls the command that begins with it.
SYSTEMCTL = r"""#!/bin/sh
echo "$*" >>{0}/calls
[ -e {0}/trouble ] && case "$*" in
  "$(sed -n 1p {0}/trouble)"*) verb=$(sed -n 2p {0}/trouble); rm {0}/trouble; eval "$verb" ;;
esac
verb=$1
shift
[ "$1" != --no-block ] || shift
case "$verb $1" in
  "show -P") [ "$2" != NRestarts ] || exec echo 0
    [ -e "{0}/units/$3" ] && echo active || echo inactive; exit ;;
  "start redis-server.service") [ "$(redis-cli -s {0}/run/redis.sock ping)" = PONG ] && exit
    setpriv --reuid={1} --regid=$(id -g {1}) --clear-groups \
    redis-server --port 0 --unixsocket {0}/run/redis.sock --unixsocketperm 777 --dir {0}/redis \
    --appendonly yes --save '' --daemonize yes --repl-diskless-sync-delay 0 \
    --user backup on '>s3cret' +ping +info +sync +replconf \
    --user admin on '>s3cret' '~*' '&*' +@all \
    --pidfile {0}/run/redis.pid \
    --enable-debug-command yes --logfile {0}/redis/log >/dev/null; exit ;;
  "stop redis-server.service") redis-cli -s {0}/run/redis.sock shutdown nosave 2>/dev/null
    for _ in $(seq 100); do [ -S {0}/run/redis.sock ] || exit 0; sleep 0.05; done; exit 1 ;;
esac
for unit; do [ $verb = start ] && touch {0}/units/$unit || rm -f {0}/units/$unit; done
"""


class Lab:
    """A machine with its data; its Redis is started by `start`."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        self.backups, self.state = root / "backups", root / "state"
        for name in ("bin", "lib", "app", "units", "redis", "run", "work", "state", "secrets"):
            (root / name).mkdir(parents=True)
        for path in (root, root / "app", root / "redis", root / "work"):
            path.chmod(0o755)
        for name in ("app", "redis", "run"):
            shutil.chown(root / name, USER)
        self.set(**settings)
        self._install()

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self.root}/bin:{os.environ['PATH']}"}

    def set(self, **settings: Any) -> None:
        wanted = {"app_dir": str(self.root / "app"), "app_user": USER, **settings}
        (self.root / "settings.json").write_text(Settings(**wanted).model_dump_json())
        (self.root / "manifest.json").write_text(manifest_text())

    def _install(self) -> None:
        for file in SOURCE.rglob("*.py"):
            target = self.root / "lib" / file.relative_to(SOURCE)
            target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            target.write_text(self._moved(file.read_text()))
        program = self.root / "bin/celery-pi"
        program.write_text(self._moved(PROGRAM.read_text()))
        path = self.root / "bin/systemctl"
        path.write_text(SYSTEMCTL.replace("{0}", str(self.root)).replace("{1}", USER))
        path.chmod(0o755)
        for user in ("backup", "admin"):
            (self.root / f"secrets/redis_{user}_password").write_text(f"{PASSWORD}\n")
        server = shutil.which("redis-check-rdb")  # Debian's redis-tools has it by this name only
        assert server
        (self.root / "bin/redis-server").symlink_to(server)
        for path in (self.root / "lib", self.root / "bin"):
            path.chmod(0o755)

    def _moved(self, text: str) -> str:
        for path, ours in MOVED.items():
            text = text.replace(path, str(self.root / ours))
        return text.replace('USER = "redis"', f'USER = "{USER}"')

    def start(self) -> None:
        self.systemctl("start", "redis-server.service")
        for unit in ("celery-worker.service", "celery-beat.service"):
            (self.root / "units" / unit).touch()
        self.wait()

    def wait(self) -> None:
        wait_for("Redis answers", lambda: self.redis("ping") == "PONG")

    def stop(self) -> None:
        self.systemctl("stop", "redis-server.service")

    def kill(self) -> None:
        """Ends a server that would not end by itself."""
        noted = self.root / "run/redis.pid"
        if noted.exists():
            with suppress(ProcessLookupError):
                os.kill(int(noted.read_text()), signal.SIGKILL)
        (self.root / "run/redis.sock").unlink(missing_ok=True)

    def systemctl(self, *words: str) -> None:
        subprocess.run([self.root / "bin/systemctl", *words], check=True, env=self.environment)
        (self.root / "calls").unlink()

    def trouble(self, command: str, script: str) -> None:
        """The next systemctl command that begins so runs the script first."""
        (self.root / "trouble").write_text(f"{command}\n{script}\n")

    def break_once(self, module: str, step: str) -> None:
        """The first time that the program comes to the step, it fails."""
        path, mark = self.root / "lib/celery_pi_tools" / module, self.root / "state/broken"
        text = path.read_text()
        assert text.count(step) == 1
        text += (
            f"\n\nimport os\n\ndef _break() -> None:\n    if not os.path.exists({str(mark)!r}):\n"
        )
        text += f"        open({str(mark)!r}, 'w').close()\n        raise BackupError('once')\n"
        path.write_text(text.replace(step, f"_break()\n        {step}"))

    def redis(self, *words: str) -> str:
        asked = ["redis-cli", "-s", str(self.root / "run/redis.sock"), *words]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    def run(
        self, program: str, *words: str | Path, within: Sequence[str] = (), **given: Any
    ) -> tuple[int, str]:
        """Exit status, and what it says; `within` is a command that runs it."""
        done = subprocess.run(
            [*within, *PYTHON, self.root / "bin/celery-pi", program, *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            **given,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert list((self.root / "work").iterdir()) == [], "it leaves nothing behind"
        return done.returncode, (done.stdout + done.stderr).strip()

    def make(self, *words: str) -> Path:
        """A backup, which must succeed."""
        status, said = self.run("backup", *words)
        assert status == 0, said
        return sorted(self.backups.glob("*Z.tar.gz"))[-1]

    def files(self) -> list[Path]:
        return sorted(self.backups.iterdir()) if self.backups.exists() else []

    def noted(self, name: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self.state / f"{name}.json").read_text())
        return told

    def write(self, *rows: str, name: str = "db.sqlite3", mode: str = "wal") -> None:
        """Rows for the app's database."""
        path = self.root / "app" / name
        database = sqlite3.connect(path)
        database.execute(f"PRAGMA journal_mode={mode}")
        database.execute("CREATE TABLE IF NOT EXISTS birds (name TEXT)")
        database.executemany("INSERT INTO birds VALUES (?)", [(row,) for row in rows])
        database.commit()
        database.close()
        shutil.chown(path, USER)

    def rows(self, name: str = "db.sqlite3") -> list[str]:
        database = sqlite3.connect(self.root / "app" / name)
        found = [row[0] for row in database.execute("SELECT name FROM birds")]
        database.close()
        return found

    def change(self, module: str, old: str, new: str) -> None:
        """One passage of a program of ours is another one."""
        path = self.root / "lib/celery_pi_tools" / module
        text = path.read_text()
        assert text.count(old) == 1, f"{module} has {text.count(old)} times {old}"
        path.write_text(text.replace(old, new))


MakeLab = Callable[..., Lab]


@pytest.fixture
def labs() -> Iterator[MakeLab]:
    """Machines; below /tmp itself, because others than root must reach them."""
    made: list[Lab] = []

    def make(**settings: Any) -> Lab:
        made.append(Lab(Path(tempfile.mkdtemp()) / "lab", **settings))
        made[-1].root.parent.chmod(0o755)
        return made[-1]

    yield make
    for lab in made:
        lab.stop()
        shutil.rmtree(lab.root.parent)


@pytest.fixture
def lab(labs: MakeLab) -> Lab:
    """One with data of every kind."""
    lab = labs()
    lab.start()
    fill(lab)
    return lab


def fill(lab: Lab) -> None:
    lab.redis("rpush", "celery", "one", "two", "three")
    lab.redis("set", "celery-task-meta-1", "done", "px", "1500")
    lab.redis("set", "celery-task-meta-2", "done", "ex", "3600")
    lab.redis("hset", "unacked", "tag", "message", "tag2", "message2")
    lab.redis("sadd", "_kombu.binding.celery", "a", "b", "c")
    lab.redis("-n", "3", "set", "other", "database")
    lab.write("kestrel", "owl")
    (lab.root / "app/.env").write_text("SECRET=s3cret\nCELERY_BROKER_URL=redis://here\n")
    shutil.chown(lab.root / "app/.env", USER)
    (lab.root / "app/.env").chmod(0o600)


def state(lab: Lab) -> tuple[str, list[str], str]:
    """Of Redis what does not expire, the database and the variables."""
    lab.redis("del", "celery-task-meta-1", "celery-task-meta-2")
    return lab.redis("debug", "digest"), lab.rows(), (lab.root / "app/.env").read_text()
