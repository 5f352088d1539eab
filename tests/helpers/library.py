"""The programs and modules of the Pi's own tools, `files/usr/local/lib/celery-pi`."""

from __future__ import annotations

from celery_pi.render import ROOT

LIBRARY = ROOT / "files/usr/local/lib/celery-pi"
