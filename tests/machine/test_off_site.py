"""Backups that restic takes elsewhere: to another user of the same machine, by sftp."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.harness import deploy
from tests.helpers.status_output import CALM, ask
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

BACKUP = "celery-pi-backup.service"
PLACE = "/var/backups/celery-pi"
PASSWORD = "correct horse battery staple, and more"  # noqa: S105  of a repository that is gone soon
REPOSITORY = "sftp:pi@127.0.0.1:/home/pi/restic"
KEYS = """
set -e
umask 077
mkdir -p /root/.ssh
ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519 </dev/null
ssh-keyscan 127.0.0.1 >/root/.ssh/known_hosts 2>/dev/null
install -d -m 700 -o pi -g pi /home/pi/.ssh
install -m 600 -o pi -g pi /root/.ssh/id_ed25519.pub /home/pi/.ssh/authorized_keys
"""
RESTIC = (
    "env RESTIC_PASSWORD_FILE=/etc/celery-pi/secrets/restic_password "
    f"RESTIC_REPOSITORY={REPOSITORY} restic --no-cache "
)
GONE = f"rm -rf /home/pi/restic /home/pi/.ssh /root/.ssh {PLACE}/* /var/lib/celery-pi/backup.json"


def test_backup_is_taken_off_site_encrypted_and_comes_back(pi: VirtualPi, tmp_path: Path) -> None:
    pi.run(*CALM)
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    pi.run("sh", "-c", KEYS)
    given = {
        "backup_restic_repository": REPOSITORY,
        "backup_restic_password_file": str(password),
    }
    try:
        assert deploy(pi, **given).status == 0
        assert deploy(pi, **given).changed == set()
        for _ in range(2):  # the first makes the repository
            pi.run("systemctl", "start", BACKUP)
        assert "Failed" not in ask(pi).names("wrong")
        newest = pi.run("sh", "-c", f"ls {PLACE}/* | tail -n 1").stdout.strip()
        pi.run("sh", "-c", f"{RESTIC} dump latest /celery-pi.tar.gz >/root/back")
        pi.run("cmp", "/root/back", newest)
        pi.run("sh", "-c", f"{RESTIC} check --read-data")
        assert pi.run("grep", "-rl", "celery-pi", "/home/pi/restic", check=False).stdout == ""
        shown = pi.run("ps", "axeww").stdout + pi.run("journalctl", "-q", "-b").stdout
        assert PASSWORD not in shown
        pi.run("chmod", "000", "/home/pi/.ssh/authorized_keys")
        assert pi.run("systemctl", "start", BACKUP, check=False).returncode != 0
        assert "Failed" in ask(pi).names("wrong")
    finally:
        pi.run("sh", "-c", f"rm -f /root/back; {GONE}")
        pi.run(*CALM)
        assert deploy(pi).status == 0
    assert pi.run("test", "-e", "/etc/celery-pi/secrets/restic_password", check=False).returncode
