"""The command `celery-pi` on the Pi."""

from celery_pi.component import Component, deploys
from celery_pi.operations.config_files import config_files
from celery_pi.operations.debian_packages import debian_packages
from celery_pi.render import ROOT, from_file, from_template
from celery_pi.settings import Settings
from tasks import backup

PROGRAM = "/usr/local/bin/celery-pi"
LIBRARY = "/usr/local/lib/celery-pi"
COMMAND = Component[Settings]("Command", packages=("distro-info-data",))

# What each is for stands in its first lines.
CHECKS = [
    from_file(f"{LIBRARY}/celery_pi_checks/{path.name}")
    for path in sorted((ROOT / f"files{LIBRARY}/celery_pi_checks").glob("*.py"))
]

DOCTOR = [
    from_file(f"{LIBRARY}/celery_pi_doctor/{module}.py")
    for module in (
        *("__init__", "registry", "examination", "report", "act", "look", "queues"),
        *("disk", "clock", "packages", "processes", "permissions"),
        *("redis_server", "redis_settings", "redis_memory", "env", "app"),
        *("services", "worker", "tasks", "leftovers", "certificates", "restarts"),
        "drift",
    )
]


@deploys(COMMAND)
def deploy(settings: Settings) -> None:
    """`celery-pi` is on the Pi, and knows what was deployed."""
    debian_packages(name="Install what it reads", packages=COMMAND.packages)
    config_files(
        name="Install celery-pi",
        files=[
            from_file(PROGRAM, mode="0755"),
            from_file(f"{LIBRARY}/prove_task.py"),
            from_file(f"{LIBRARY}/check_app.py"),
            from_file(f"{LIBRARY}/set-aside", mode="0755"),
            from_file(f"{LIBRARY}/deploys", mode="0755"),
            from_file(f"{LIBRARY}/maintenance", mode="0755"),
            from_file(f"{LIBRARY}/doctor", mode="0755"),
            *backup.PROGRAMS,
            *CHECKS,
            *DOCTOR,
            from_template("/etc/celery-pi/settings.json", settings=settings),
        ],
    )
