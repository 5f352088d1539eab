"""What was on the machine before us: kept there, so that nothing of the owner's is lost.

In /var/lib/celery-pi/before, which only root enters: `files/` holds a copy of each file that a
deploy has changed or removed and that was not ours, under its own path; `ours` lists the paths
where nothing was. Both are written before the change, once, and `make leave` goes by them.
`installed` names the Debian packages that were not there and that a deploy has installed.
"""

from __future__ import annotations

from celery_pi.shell import script

DIRECTORY = "/var/lib/celery-pi/before"

IS_OURS = script("is_ours")
KEEP = script("is_ours", "keep")

INSTALLED = f"{DIRECTORY}/installed"
HISTORY = "/var/log/apt/history.log"  # which logrotate keeps for a year

INSTALLED_BY_US = script("installed_by_us")
NOTE_INSTALLED = script("note_installed")
