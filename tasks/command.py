"""The command `celery-pi` on the Pi."""

from celery_pi.component import component
from celery_pi.operations.absent_units import absent_units
from celery_pi.operations.config_files import ConfigFile, config_files
from celery_pi.operations.debian_packages import debian_packages
from celery_pi.operations.package_tree import absent_trees, package_tree
from celery_pi.settings import Settings
from celery_pi.sources import from_file, from_package, from_template

PROGRAM = "/usr/local/bin/celery-pi"
LIBRARY = "/usr/local/lib/celery-pi"
PACKAGES = ["distro-info-data"]

TOOLS = f"{LIBRARY}/tools"
FILES = from_package("celery-pi-tools", TOOLS)
# What earlier versions have installed.
EARLIER_TREES = [
    f"{LIBRARY}/{name}" for name in ("celery_pi_backup", "celery_pi_checks", "celery_pi_doctor")
]
EARLIER_FILES = [
    f"{LIBRARY}/{name}"
    for name in (
        *("backup", "deploys", "doctor", "drill", "maintenance", "restore", "set-aside"),
        *("take-rotated", "celery_pi_privileges.py", "celery_pi_text.py"),
    )
]


@component("Command")
def deploy(settings: Settings) -> None:
    """`celery-pi` is on the Pi, and knows what was deployed."""
    debian_packages(name="Install what it reads", packages=PACKAGES)
    install_tools()
    config_files(
        name="Install celery-pi",
        files=[
            from_file(PROGRAM, mode="0755"),
            from_file(f"{LIBRARY}/prove_task.py"),
            from_file(f"{LIBRARY}/check_app.py"),
            from_template("/etc/celery-pi/settings.json", settings=settings),
        ],
    )


@component("Command")
def retire(_: Settings) -> None:
    """The programs of earlier versions are gone; nothing may start them any more."""
    absent_units(name="Remove earlier programs", units=[], files=EARLIER_FILES)
    absent_trees(name="Remove earlier modules", directories=EARLIER_TREES)


def install_tools() -> None:
    """The package celery_pi_tools, for a component that starts one of its programs."""
    package_tree(name="Install the tools", directory=TOOLS, files=FILES)


def tool(module: str) -> ConfigFile:
    """That module of the package."""
    path = f"{TOOLS}/celery_pi_tools/{module}.py"
    return next(file for file in FILES if file.path == path)
