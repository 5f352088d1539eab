"""The command `celery-pi` on the Pi."""

from celery_pi.component import Component, deploys
from celery_pi.operations.config_files import ConfigFile, config_files
from celery_pi.operations.debian_packages import debian_packages
from celery_pi.operations.extra_files import extra_files_absent
from celery_pi.render import from_file, from_package, from_template
from celery_pi.settings import Settings

PROGRAM = "/usr/local/bin/celery-pi"
LIBRARY = "/usr/local/lib/celery-pi"
COMMAND = Component[Settings]("Command", packages=("distro-info-data",))

TOOLS = f"{LIBRARY}/tools"
FILES = from_package("celery-pi-tools", to=TOOLS)
# Where its modules and programs were before they became a package.
FORMER = [
    f"{LIBRARY}/{name}"
    for name in (
        *("celery_pi_backup", "celery_pi_checks", "celery_pi_doctor", "__pycache__"),
        *("celery_pi_privileges.py", "celery_pi_text.py", "take-rotated"),
        *("backup", "deploys", "doctor", "drill", "maintenance", "restore", "set-aside"),
    )
]


@deploys(COMMAND)
def deploy(settings: Settings) -> None:
    """`celery-pi` is on the Pi, and knows what was deployed."""
    debian_packages(name="Install what it reads", packages=COMMAND.packages)
    config_files(
        name="Install celery-pi",
        files=[
            *FILES,
            from_file(PROGRAM, mode="0755"),
            from_template("/etc/celery-pi/settings.json", settings=settings),
        ],
    )


@deploys(COMMAND)
def prune(_: Settings) -> None:
    """Of modules and programs that nothing starts any more, nothing is left."""
    extra_files_absent(
        name="Remove tools of earlier versions",
        directory=TOOLS,
        files=[file.path for file in FILES],
        former=FORMER,
    )


def tool(module: str) -> ConfigFile:
    """That module of the package."""
    path = f"{TOOLS}/celery_pi_tools/{module}.py"
    return next(file for file in FILES if file.path == path)
