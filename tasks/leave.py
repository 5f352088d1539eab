"""The way back: celery-pi is taken off, and what was there before is as it was: `make leave`."""

from pyinfra.api import deploy as named

from celery_pi.operations.leave import leave
from celery_pi.operations.ufw import no_firewall


@named("Leave")
def deploy() -> None:
    """Whatever has become of the app or of a deploy, so nothing of them is checked first."""
    no_firewall(name="Give the firewall back")
    leave(name="Take celery-pi off")
