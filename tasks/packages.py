"""The Debian packages of all components."""

from celery_pi.component import deploys, enabled
from celery_pi.operations.debian_packages import debian_packages
from celery_pi.settings import Settings


@deploys("Packages")
def deploy(settings: Settings) -> None:
    """They are installed in one call of apt, which takes a second or two for each.

    No service that a component configures is started by that, so none runs as its package has it,
    nor before the firewall is up. A component that is deployed alone installs its own packages.
    """
    present = list(enabled(settings))
    for component in present:
        if component.before_packages:
            component.before_packages()
    debian_packages(
        name="Install",
        packages=list(dict.fromkeys(name for each in present for name in each.packages)),
        no_start=list(dict.fromkeys(unit for each in present for unit in each.no_start)),
    )
