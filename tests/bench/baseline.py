"""The least that a deploy can cost: one script, which is told everything and asks nothing."""

from __future__ import annotations

import base64
from pathlib import Path

from celery_pi.fact_cache import FILE, session_program
from celery_pi.settings import Settings
from tests.bench.reference import BROKER

# One installation, one archive, one start of everything; no question, no check, no way back.
_FIRST = r"""
set -e
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=yes
exec </dev/null
apt-get -q -y update
apt-get -q -y install logrotate ufw redis-server python3-venv distro-info-data nginx openssl \
  fail2ban nftables python3-systemd unattended-upgrades needrestart
base64 -d /tmp/files.base64 | tar --extract --directory=/ --preserve-permissions
systemd-sysusers /etc/sysusers.d/celery-flower.conf
mkdir -p -m 0700 /var/backups/celery-pi
/usr/lib/systemd/systemd-sysctl /etc/sysctl.d/60-celery-pi.conf
app=/var/www/observations_nids
runuser -u pi -- python3 -m venv $app/venv
runuser -u pi -- $app/venv/bin/pip install -q --no-cache-dir --disable-pip-version-check \
  PINS \
  -r $app/requirements-prod.txt
cat /tmp/broker.env >>$app/.env
chown www-data:www-data $app/.env
chmod 600 $app/.env
/usr/local/lib/celery-pi/nginx-certificate
/usr/local/lib/celery-pi/nginx-login
ufw limit proto tcp to any port 22 comment celery-pi
ufw allow proto tcp to any port 80 comment celery-pi
ufw allow proto tcp to any port 443 comment celery-pi
ufw --force enable
systemctl daemon-reload
systemctl restart systemd-journald apt-daily.timer apt-daily-upgrade.timer redis-server
systemctl enable redis-memory celery-worker celery-beat celery-flower \
  celery-pi-backup.timer celery-pi-drill.timer
systemctl restart redis-memory celery-worker celery-beat celery-flower \
  nginx fail2ban celery-pi-backup.timer celery-pi-drill.timer
"""

# What our deploy that changes nothing asks, and asks in one round trip.
NO_OP = ("sh", "-c", session_program("facts", FILE).get_raw_value())


def first_script(files: Path) -> bytes:
    """The script of a first deploy, with all files in it."""
    archive = base64.encodebytes((files / "files.tar").read_bytes())
    parts = {"files.base64": archive, BROKER: (files / BROKER).read_bytes()}
    written = b"umask 077\n" + b"".join(
        b"cat >/tmp/%s <<'celery-pi-end'\n%scelery-pi-end\n" % (name.encode(), content)
        for name, content in parts.items()
    )
    # In a function, which is read as a whole before it closes the input it came by.
    return (
        written
        + b"umask 022\nfirst() {"
        + _FIRST.replace("PINS", " ".join(Settings().app_pins)).encode()
        + b"}\nfirst\n"
    )
