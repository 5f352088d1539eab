"""Flower, the window on Celery."""

from base64 import b64encode

from pyinfra import host
from pyinfra.operations import files

from celery_pi.component import Component, Secret, Unit, deploys, remove
from celery_pi.operations import flower_login
from celery_pi.operations.config_files import ConfigFile, config_files
from celery_pi.operations.python_packages import record
from celery_pi.operations.service import CHECK_UNIT, service
from celery_pi.operations.system_user import system_user
from celery_pi.render import from_file, from_template
from celery_pi.secrets import DIRECTORY, passwords, secret, socket_url
from celery_pi.settings import Settings
from tasks.app import PACKAGE

UNIT = "celery-flower.service"
USER = "celery-flower"
STATE = "/var/lib/celery-flower"
ENVIRONMENT = "/etc/celery-pi/flower.env"
SYSUSERS = from_file("/etc/sysusers.d/celery-flower.conf")
# What it loads of the package that `tasks.app` installs.
LIBRARY = [f"{PACKAGE}/{module}.py" for module in ("__init__", "flower", "systemd_notify")]
REDIS_PASSWORD = f"{DIRECTORY}/{secret('flower')}"
FLOWER = Component[Settings](
    "Flower",
    enabled=lambda settings: settings.flower,
    units=(Unit(UNIT, "/flower/ shows an error", needs=("Redis",), uses_data=True),),
    secrets=(
        Secret(ENVIRONMENT, "600"),
        *(
            Secret(path, "600")
            for path in (flower_login.PATH, REDIS_PASSWORD, f"{REDIS_PASSWORD}.old")
        ),
    ),
    writes=(SYSUSERS.path,),
)


def _off(settings: Settings) -> None:
    remove(FLOWER, settings)
    files.directory(name="Remove its state", path=STATE, present=False)
    system_user(name="Remove its user", user=USER, sysusers=SYSUSERS.path, present=False)


@deploys(FLOWER, off=_off)
def deploy(settings: Settings) -> None:
    """Flower runs, on a socket that only nginx reaches; or nothing is left of it."""
    config_files(name="Describe its user", files=[SYSUSERS])
    system_user(name="Add its user", user=USER, sysusers=SYSUSERS.path)
    login = flower_login.flower_login(host, settings)
    flower_login.login_file(name="Store the login", login=login)
    environment = _environment(login, settings)
    unit = from_template(f"/etc/systemd/system/{UNIT}", check=CHECK_UNIT, settings=settings)
    config_files(name="Configure", files=[environment, unit])
    watch = [*LIBRARY, environment.path, unit.path, record(settings.app_venv)]
    service(name="Run", unit=UNIT, watch=watch)


def _environment(login: str, settings: Settings) -> ConfigFile:
    """The secrets, encoded, so that no character of theirs means anything to systemd."""
    password = passwords(host, settings).desired["flower"]
    return from_template(
        ENVIRONMENT,
        mode="0600",
        secret=True,
        url=socket_url("flower", password, settings),
        login=b64encode(login.encode()).decode(),
    )
