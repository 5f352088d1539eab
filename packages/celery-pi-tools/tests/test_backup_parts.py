"""Parts of backup and restore that need no Redis: `.env`, MariaDB, restic, what `status` tells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from celery_pi.settings import Settings
from celery_pi_tools import privileges
from celery_pi_tools.backup import app, archive
from celery_pi_tools.backup.common import BackupError
from celery_pi_tools.checks import backups
from celery_pi_tools.system import System
from tests.helpers.fake import ME, Programs, as_root
from tests.helpers.library import LIBRARY

pytestmark = pytest.mark.fast

NAME = "2026-11-24T020000Z.tar.gz"


# -- .env


@pytest.mark.parametrize(
    ("text", "current", "wanted"),
    [
        (b"A=1\n", b"", b"A=1\n"),
        (b"A=1\nCELERY_BROKER_URL=x\n", b"CELERY_BROKER_URL=y\n", b"A=1\nCELERY_BROKER_URL=y\n"),
        (b"CELERY_BROKER_URL=x\nA=1", b"A=2\n", b"A=1"),
        (b"A=1", b"CELERY__RESULT_BACKEND=y\n", b"A=1\nCELERY__RESULT_BACKEND=y\n"),
        (
            b"# CELERY_KEY_PREFIX=\n",
            b"CELERY_KEY_PREFIX=b:\n",
            b"# CELERY_KEY_PREFIX=\nCELERY_KEY_PREFIX=b:\n",
        ),
        (
            b"export CELERY_BROKER_URL =x\nA=1\n",
            b"CELERY_BROKER_URL=y\n",
            b"CELERY_BROKER_URL=y\nA=1\n",
        ),
        (b"CELERY_BROKER_URLS=x\n", b"CELERY_BROKER_URLS=y\n", b"CELERY_BROKER_URLS=x\n"),
    ],
)
def test_variables_of_ours_stay_this_machines(text: bytes, current: bytes, wanted: bytes) -> None:
    assert app.with_ours(text, current) == wanted


# -- MariaDB


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    return Programs(tmp_path, monkeypatch)


def settings(**given: Any) -> dict[str, Any]:
    return Settings(**{"app_user": "www-data", **given}).model_dump(mode="json")


def found_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins are on the path of whatever works as another user, root included."""
    monkeypatch.setattr(privileges, "PATH", os.environ["PATH"])


@as_root
def test_mariadb_is_dumped_and_restored_without_a_password(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs.add("mariadb-dump", "echo 'CREATE TABLE birds'; echo '-- Dump completed on 2026'")
    programs.add("mariadb", f"cat >{tmp_path}/restored")
    found_by_all(monkeypatch)
    told = settings(backup_app=False, backup_mariadb="nids")
    ((name, file),) = app.gather(told, tmp_path)
    assert name == "mariadb/nids.sql"
    app.check(name, file, told)
    app.put(name, file, told)
    assert (tmp_path / "restored").read_text() == file.read_text()
    options = "--single-transaction --routines --triggers --events"
    assert programs.calls() == [
        f"mariadb-dump {options} -- nids",
        "mariadb --sandbox --database=nids",
    ]


@as_root
def test_mariadb_that_fails_or_ends_early_is_a_trouble(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found_by_all(monkeypatch)
    told = settings(backup_app=False, backup_mariadb="nids")
    programs.add("mariadb-dump", "echo half; echo 'Unknown database' >&2; exit 2")
    with pytest.raises(privileges.Refused, match=r"^mariadb-dump: Unknown database$"):
        list(app.gather(told, tmp_path))
    (tmp_path / "half.sql").write_text("CREATE TABLE birds")
    with pytest.raises(BackupError, match="is not a whole dump"):
        app.check("mariadb/nids.sql", tmp_path / "half.sql", told)


# -- SQLite


def test_database_that_is_damaged_is_told(tmp_path: Path) -> None:
    script = [sys.executable, str(app.SQLITE), "check"]
    (tmp_path / "none").write_text("no database at all, but long enough to look like one" * 20)
    done = subprocess.run(
        [*script, str(tmp_path / "none")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "not a database" in done.stderr


# -- the archive


def test_archive_holds_what_was_put_in_and_says_when_not(tmp_path: Path) -> None:
    file, member = tmp_path / NAME, tmp_path / "dump.rdb"
    member.write_bytes(os.urandom(3000))
    described = {
        **{"host": "pi", "made": 0, "versions": {"redis": "7.0.15"}},
        "redis": {"databases": {}, "digest": "0" * 40},
        "members": [archive.described(member, "redis/dump.rdb")],
    }
    archive.write(file, described, {"redis/dump.rdb": member})
    into = tmp_path / "into"
    into.mkdir()
    assert archive.unpack(file, into, {"redis/dump.rdb"})["host"] == "pi"
    assert (into / "redis/dump.rdb").read_bytes() == member.read_bytes()
    assert subprocess.run(["gzip", "-t", file], check=False).returncode == 0
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(BackupError, match=r"damaged|is no backup of celery-pi"):
            archive.check_trailer(file)
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(BackupError, match=r"cut off|damaged|is no backup of celery-pi"):
            archive.check_trailer(file)
    file.write_bytes(whole + b"x")
    with pytest.raises(BackupError):
        archive.check_trailer(file)


# -- off-site


@pytest.fixture
def off_site(programs: Programs, tmp_path: Path) -> Any:
    """The script with a place of its own, and a restic that has files for its repository."""
    text = (LIBRARY / "backup-off-site").read_text()
    script, place = tmp_path / "off-site", tmp_path / "backups"
    script.write_text(text.replace("/var/backups/celery-pi", str(place)))
    place.mkdir()
    programs.add(
        "restic",
        f"""cd {tmp_path}
case $1 in
  cat) [ -e config ] ;;
  init) [ ! -e unreachable ] && touch config || {{ echo Fatal: no route to host >&2; exit 1; }} ;;
  backup) cat >taken ;;
esac""",
    )

    def run() -> tuple[int, str]:
        environment = {**os.environ, "KEEP": "7"}
        done = subprocess.run(
            ["sh", script], env=environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_newest_is_taken_off_site_into_a_repository_that_is_made_once(
    off_site: Any, programs: Programs, tmp_path: Path
) -> None:
    for day in ("23", "24"):
        (tmp_path / f"backups/2026-11-{day}T020000Z.tar.gz").write_text(day)
    for _ in range(2):
        assert off_site()[0] == 0
    assert (tmp_path / "taken").read_text() == "24"
    verbs = [call.split()[1] for call in programs.calls()]
    assert verbs == ["cat", "init", "backup", "forget", "cat", "backup", "forget"]


def test_repository_that_is_out_of_reach_is_told_in_one_sentence(
    off_site: Any, tmp_path: Path
) -> None:
    assert off_site() == (1, "celery-pi: there is no backup to take away\n")
    (tmp_path / "backups" / NAME).touch()
    (tmp_path / "unreachable").touch()
    assert off_site() == (1, "celery-pi: restic init: Fatal: no route to host\n")


# -- what status and audit tell


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Directories of the checks' own; deployed just now."""
    for name in ("PLACE", "STATE"):
        (tmp_path / name).mkdir(mode=0o700)
        monkeypatch.setattr(backups, name, tmp_path / name)
    (tmp_path / "unit").touch()
    monkeypatch.setattr(backups, "UNIT", tmp_path / "unit")
    return tmp_path


def made(place: Path, hours: float) -> None:
    (place / "PLACE" / NAME).touch(mode=0o600)
    os.utime(place / "PLACE" / NAME, (0, time.time() - hours * 3600))


def noted(place: Path, name: str, hours: float, **told: Any) -> None:
    text = json.dumps({"time": time.time() - hours * 3600, "said": "so it was", **told})
    (place / f"STATE/{name}.json").write_text(text)


def state(check: str, **given: Any) -> str:
    result = getattr(backups, check)(System(settings(**given)))
    return result.level if result else ""


@pytest.mark.parametrize(
    ("hours", "deployed", "wanted"),
    [(None, 0, "warn"), (None, 27, "wrong"), (1, 99, "ok"), (25, 99, "ok"), (27, 99, "wrong")],
)
def test_backup_that_is_late_is_wrong(
    place: Path, hours: float | None, deployed: float, wanted: str
) -> None:
    os.utime(place / "unit", (0, time.time() - deployed * 3600))
    if hours is not None:
        made(place, hours)
    assert state("newest") == wanted
    assert state("newest", backup=False) == ("ok" if hours else "")


def test_try_that_failed_since_then_is_wrong(place: Path) -> None:
    noted(place, "backup", 1, well=False)
    assert state("newest") == "wrong"
    made(place, 2)
    assert state("newest") == "wrong"
    made(place, 0.5)
    assert state("newest") == "ok"


@pytest.mark.parametrize(
    ("well", "days", "wanted"), [(True, 7, "ok"), (True, 9, "wrong"), (False, 0, "wrong")]
)
def test_drill_that_is_red_or_late_is_wrong(
    place: Path, well: bool, days: float, wanted: str
) -> None:
    assert state("drill") == ""
    made(place, 1)
    assert state("drill") == "warn"
    os.utime(place / "unit", (0, time.time() - 9 * 86400))
    assert state("drill") == "wrong"
    noted(place, "drill", days * 24, well=well)
    assert state("drill") == wanted


@pytest.mark.skipif(ME != "root", reason="they are root's")
def test_backup_that_others_can_read_is_wrong(place: Path) -> None:
    system = System(settings())
    made(place, 1)
    assert backups.private(system).level == "ok"
    (place / "PLACE" / NAME).chmod(0o640)
    assert backups.private(system).values == {"files": [NAME]}


@pytest.mark.parametrize(("second", "wanted"), [("active", "ok"), ("inactive", "wrong")])
def test_timer_that_does_not_run_is_wrong(programs: Programs, second: str, wanted: str) -> None:
    programs.add("systemctl", f"echo active; echo; echo {second}")
    assert backups.timers(System(settings())).level == wanted
    assert backups.timers(System(settings(backup=False))).level == "warn"
