"""What runs on the machine that deploys.

`settings`, `component` and `preflight` are what every task begins with; `facts`, `operations` and
`shell` what it is made of; `deploys` makes one deploy of a run of pyinfra, and `plan` shows
beforehand what it changes. `connector` and `fact_cache` make it quick. `on_the_pi` holds programs
that are sent along and run there.

As soon as pyinfra imports any part of it, a Pi's output is made printable before it is shown.

The two packages for the Pi are on the path too, at its end. A deploy uses the tools' editor of env
files, URLs of Redis and reading of sizes, so that deploy and doctor cannot differ, and the guard's
tested sets of versions. These modules import the standard library alone.
"""

import sys
from pathlib import Path

from celery_pi.terminal import protect

PACKAGES = Path(__file__).parents[1] / "packages"
sys.path += [str(PACKAGES / name / "src") for name in ("celery-pi-tools", "celery-redis-guard")]
protect()
