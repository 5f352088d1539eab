"""What runs on the machine that deploys.

`settings`, `component` and `preflight` are what every task begins with; `facts`, `operations` and
`shell` what it is made of; `deploys` makes one deploy of a run of pyinfra, and `plan` shows
beforehand what it changes. `connector` and `fact_cache` make it quick. `on_the_pi` holds programs
that are sent along and run there.

As soon as pyinfra imports any part of it, a Pi's output is made printable before it is shown.

The package of the tools on the Pi is on the path too, at its end. A deploy uses its editor of env
files, its URLs of Redis and its reading of sizes, so that deploy and doctor cannot differ. These
modules import the standard library alone.
"""

import sys
from pathlib import Path

from celery_pi.terminal import protect

sys.path.append(str(Path(__file__).parents[1] / "packages/celery-pi-tools/src"))
protect()
