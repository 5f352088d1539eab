"""Celery Beat, which sends the app's periodic tasks."""

from celery_pi.component import Component, Unit, deploys
from celery_pi.operations.config_files import config_files
from celery_pi.operations.service import CHECK_UNIT, service
from celery_pi.render import from_file, from_template
from celery_pi.settings import Settings
from tasks import app
from tasks.worker import LAUNCHER

UNIT = "celery-beat.service"
CLOCK_UNIT = "celery-beat-clock.service"
BEAT = Component[Settings](
    "Beat",
    units=(
        Unit(
            UNIT,
            "periodic tasks are not sent",
            drop_ins=("sandbox.conf",),
            needs=("Redis", "App"),
            uses_data=True,
        ),
        Unit(CLOCK_UNIT, "Beat does not wait for the right time", root=True, daemon=False),
    ),
)
CLOCK = [
    from_file("/usr/local/lib/celery-pi/clock-is-set", mode="0755"),
    from_file(f"/etc/systemd/system/{CLOCK_UNIT}", check=CHECK_UNIT),
]


@deploys(BEAT)
def deploy(settings: Settings) -> None:
    """One Beat runs, by the right time, and keeps its schedule in a directory of its own."""
    unit = from_template(f"/etc/systemd/system/{UNIT}", check=CHECK_UNIT, settings=settings)
    sandbox = from_template(f"/etc/systemd/system/{UNIT}.d/sandbox.conf", settings=settings)
    # Before the units that are checked and name them.
    config_files(name="Configure", files=[*CLOCK, *LAUNCHER, unit, sandbox])
    ours = [file.path for file in (CLOCK[-1], *LAUNCHER, unit, sandbox)]
    service(name="Run", unit=UNIT, watch=[*ours, *app.watched(settings)])
