"""The first step back: what later deploys brought goes. `make rollback` does all of them."""

import os

from pyinfra.api import DeployError

from celery_pi.component import component
from celery_pi.operations.later_files import later_files_absent
from celery_pi.settings import Settings

VARIABLE = "CELERY_PI_ROLLBACK_TO"


@component("Rollback")
def deploy(_: Settings) -> None:
    """No file of ours is there that came after the deploy that is gone back to."""
    to = os.environ.get(VARIABLE)
    if not to:
        raise DeployError(f"{VARIABLE} is not set: run `make rollback`")
    later_files_absent(name="Remove what only later deploys had", to=to)
