"""The first step back: what later deploys brought goes. `make rollback` does all of them."""

import os

from pyinfra.api import DeployError

from celery_pi.component import deploys
from celery_pi.operations.prune_files import prune_files
from celery_pi.settings import Settings

VARIABLE = "CELERY_PI_ROLLBACK_TO"


@deploys("Rollback")
def deploy(_: Settings) -> None:
    """No file of ours is there that came after the deploy that is gone back to."""
    to = os.environ.get(VARIABLE)
    if not to:
        raise DeployError(f"{VARIABLE} is not set: run `make rollback`")
    prune_files(name="Remove what only later deploys had", to=to)
