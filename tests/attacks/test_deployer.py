"""Who deploys: what a hostile Pi gets from that machine, and a hostile index from the Pi."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.attacks.attacker import APP, SECRET, Victim, roll_back, whole_record

pytestmark = pytest.mark.native


def rolled_back(victim: Victim, secret: Path) -> str:
    """The Pi's record of a deploy names a file of the deploying machine's, and is gone back to."""
    named = "backup_restic_password_file"
    given = json.loads(whole_record(victim))["given"] | {"backup_restic_repository": "/srv/restic"}
    done = roll_back(victim, whole_record(victim, given=given | {named: str(secret)}))
    found = victim.sh('grep -rls "$1" /etc/celery-pi; true', SECRET)
    assert done.status == 0 or named in done.output, done.output
    if found or done.status == 0:
        again = victim.deploy()
        assert again.status == 0, again.output
    return found


def test_no_file_of_the_deployers_is_sent_to_a_pi_that_names_it(
    victim: Victim, tmp_path: Path
) -> None:
    secret = tmp_path / "key"
    secret.write_text(f"{SECRET}\n")
    secret.chmod(0o600)
    victim.judge(rolled_back(victim, secret))


MARK = "/var/tmp/celery-pi-attack"  # noqa: S108  written by whoever builds it
BACKEND = f"""
import os
def build_wheel(*_, **__):
    open({MARK!r}, "w").write(str(os.getuid()))
    raise SystemExit(1)
def get_requires_for_build_wheel(*_, **__):
    open({MARK!r}, "w").write(str(os.getuid()))
    return []
prepare_metadata_for_build_wheel = build_wheel
"""
# A second index, such as piwheels, has a newer version of what only a dependency asks for.
INDEX = r"""
set -e
work=$(mktemp -d) name=python_dateutil-9999.0
mkdir -p "$work/$name" "$1/python-dateutil"
printf '%s' "$2" >"$work/$name/backend.py"
printf '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n' \
  >"$work/$name/pyproject.toml"
printf 'Metadata-Version: 2.2\nName: python-dateutil\nVersion: 9999.0\n' >"$work/$name/PKG-INFO"
tar -czf "$1/python-dateutil/$name.tar.gz" -C "$work" "$name"
echo "<a href=\"$name.tar.gz\">$name.tar.gz</a>" >"$1/python-dateutil/index.html"
chmod -R a+rX "$1"; rm -rf "$work"
printf '[global]\nextra-index-url = file://%s\n' "$1" >/etc/pip.conf
"""
FORGET = r"""
runuser -u pi -- "$1/venv/bin/python" -m pip uninstall -q -y python-dateutil
rm -f "$1/venv/.celery-pi"
"""


def installed(victim: Victim) -> str:
    """A dependency of ours that is to be installed is newer in an index of somebody else's."""
    index = "/srv/celery-pi-attack"
    with victim.kept("/etc/pip.conf", index, MARK):
        victim.sh(INDEX, index, BACKEND)
        victim.sh(FORGET, APP)
        outcome = victim.deploy("tasks.app.deploy")
        built = victim.sh('cat "$1" 2>/dev/null; true', MARK)
    assert victim.is_old or outcome.status == 0, outcome.output
    again = victim.deploy("tasks.app.deploy")
    assert again.status == 0, again.output
    return f"its code ran as user {built}" if built else ""


def test_no_package_comes_from_another_index_than_its_hash_says(victim: Victim) -> None:
    victim.judge(installed(victim))
