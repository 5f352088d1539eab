"""The kernel, as Redis needs it."""

from pyinfra import host

from celery_pi.component import Component, deploys
from celery_pi.operations.config_files import config_files
from celery_pi.operations.kernel import kernel_settings
from celery_pi.preflight import is_container
from celery_pi.render import from_file, from_template
from celery_pi.settings import Settings

KERNEL = Component[Settings]("Kernel")


@deploys(KERNEL)
def deploy(_: Settings) -> None:
    """Redis can save when memory is more than half full, and is not slowed by huge pages."""
    in_container = is_container(host)
    sysctl = from_template("/etc/sysctl.d/60-celery-pi.conf", in_container=in_container)
    tmpfiles = from_file("/etc/tmpfiles.d/celery-pi-kernel.conf")
    config_files(name="Configure", files=[sysctl] if in_container else [sysctl, tmpfiles])
    kernel_settings(
        name="Apply", sysctl=sysctl.path, tmpfiles=tmpfiles.path, in_container=in_container
    )
