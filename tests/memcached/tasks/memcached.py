"""memcached, a cache for the app, on loopback only."""

from typing import Annotated

from pydantic import Field

from celery_pi.component import Component, Unit, deploys
from celery_pi.operations.config_files import config_files
from celery_pi.operations.debian_packages import debian_packages
from celery_pi.operations.service import service
from celery_pi.render import from_template
from celery_pi.settings import Port, Settings

UNIT = "memcached.service"


class MemcachedSettings(Settings):
    """Settings of this component."""

    memcached: bool = True
    """Whether there is memcached."""
    memcached_port: Port = 11211
    """TCP port, on loopback only."""
    memcached_megabytes: Annotated[int, Field(ge=1, le=1024)] = 64
    """Memory for what is cached, in MB; more would be missing to the worker."""


MEMCACHED = Component[MemcachedSettings](
    "memcached",
    enabled=lambda settings: settings.memcached,
    packages=("memcached",),
    no_start=(UNIT,),
    units=(Unit(UNIT, "the app has no cache", drop_ins=("celery-pi.conf",), debian=True),),
)


@deploys(MEMCACHED)
def deploy(settings: MemcachedSettings) -> None:
    """memcached runs, in a sandbox, and only this machine reaches it."""
    debian_packages(
        name="Install memcached", packages=MEMCACHED.packages, no_start=MEMCACHED.no_start
    )
    drop_in = from_template(f"/etc/systemd/system/{UNIT}.d/celery-pi.conf", settings=settings)
    config_files(name="Configure", files=[drop_in])
    service(name="Run", unit=UNIT, watch=[drop_in.path])
