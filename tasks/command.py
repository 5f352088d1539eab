"""The command `celery-pi` on the Pi."""

from celery_pi.component import component
from celery_pi.operations.config_files import config_files
from celery_pi.settings import Settings
from celery_pi.sources import from_file, from_template

PROGRAM = "/usr/local/bin/celery-pi"


@component("Command")
def deploy(settings: Settings) -> None:
    """`celery-pi` is on the Pi, and knows what was deployed."""
    config_files(
        name="Install celery-pi",
        files=[
            from_file(PROGRAM, mode="0755"),
            from_file("/usr/local/lib/celery-pi/prove_task.py"),
            from_file("/usr/local/lib/celery-pi/check_app.py"),
            from_file("/usr/local/lib/celery-pi/set-aside", mode="0755"),
            from_template("/etc/celery-pi/settings.json", settings=settings),
        ],
    )
