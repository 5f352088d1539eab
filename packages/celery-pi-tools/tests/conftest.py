"""A machine on which every component was deployed.

A module of checks registers one for each unit of the manifest when it is imported. So the manifest
stands before the first test module does.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from celery_pi_tools import manifest
from tests.helpers.manifest import manifest_text

MACHINE = tempfile.TemporaryDirectory(prefix="celery-pi-tools.")
manifest.FILE = Path(MACHINE.name, "manifest.json")
manifest.FILE.write_text(manifest_text())
