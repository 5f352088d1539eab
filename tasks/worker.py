"""The Celery worker, which runs the app's tasks."""

from celery_pi.component import component
from celery_pi.operations.config_files import config_files
from celery_pi.operations.service import CHECK_UNIT, service
from celery_pi.settings import Settings, size_in_bytes
from celery_pi.sources import from_file, from_template
from tasks import app, command

UNIT = "celery-worker.service"
LAUNCHER = from_file("/usr/local/lib/celery-pi/with-env-file", mode="0755")


@component("Worker")
def deploy(settings: Settings) -> None:
    """The worker takes tasks from the broker; its unit is up when it does."""
    unit = from_template(
        f"/etc/systemd/system/{UNIT}",
        check=CHECK_UNIT,
        settings=settings,
        max_memory_kib=size_in_bytes(settings.celery_max_memory_per_child) // 1024,
    )
    sandbox = from_template(f"/etc/systemd/system/{UNIT}.d/sandbox.conf", settings=settings)
    config_files(name="Configure", files=[LAUNCHER, unit, sandbox])
    service(
        name="Run",
        unit=UNIT,
        watch=[LAUNCHER.path, unit.path, sandbox.path, *app.watched(settings)],
        check=f"{command.PROGRAM} check",
        finishes=True,
    )
