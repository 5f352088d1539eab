"""The owner's Django project: its environment, its `.env`, the directories its tasks write to."""

from collections.abc import Sequence

from pyinfra import host, logger

from celery_pi.app_packages import Locked, locked
from celery_pi.component import Component, Secret, deploys
from celery_pi.facts.site_units import reloads
from celery_pi.operations.config_files import config_files
from celery_pi.operations.debian_packages import debian_packages
from celery_pi.operations.env_file import env_file
from celery_pi.operations.extra_files import extra_files_absent
from celery_pi.operations.owned_directory import owned_directory
from celery_pi.operations.python_packages import (
    environment,
    prefetch_python_packages,
    python_packages,
    record,
)
from celery_pi.operations.service import service
from celery_pi.render import from_package
from celery_pi.secrets import passwords, redis_url
from celery_pi.settings import Settings
from celery_pi.worker_guard import warning
from celery_pi_tools.env_file import URLS

APP = Component[Settings](
    "App",
    packages=("python3-venv",),
    ports=("80/tcp", "443/tcp"),  # the site's, whoever serves it
    secrets=(
        Secret(
            "{settings.app_env}", "600", "{settings.app_user}", "{settings.app_user}", stays=True
        ),
    ),
)

# What worker, Beat and Flower load: a package of ours, behind the owner's project on the path.
GUARD = "/usr/local/lib/celery-pi/guard"
PACKAGE = f"{GUARD}/celery_redis_guard"
LIBRARY = from_package("celery-redis-guard", to=GUARD)
# Of its modules, those that neither worker nor Beat loads.
UNWATCHED = [f"{PACKAGE}/{module}.py" for module in ("check_app", "flower", "smoke_test")]

# Where these modules were before they became a package.
FORMER = [
    f"/usr/local/lib/celery-pi/{module}.py"
    for module in (
        *("celery_pi_app", "celery_pi_flower", "beat_schedule", "beyond_the_limit", "brief_log"),
        *("check_app", "gathered_events", "handover", "in_hand", "invariants", "lookout"),
        *("one_trip", "paused", "prove_task", "redis_away", "safe_settings", "systemd_notify"),
        "whole_results",
    )
]


@deploys(APP)
def begin(settings: Settings) -> None:
    """pip begins, and goes on while apt installs; `deploy` completes it."""
    prefetch_python_packages(
        name="Begin with the pinned packages",
        venv=settings.app_venv,
        pins=settings.app_pins,
        requirements=_requirements(settings),
        locked=_locked(settings),
    )


@deploys(APP)
def deploy(settings: Settings) -> None:
    """The project reaches its broker, has the pinned packages, and can write its directories."""
    _install(settings)
    _connect(settings)


@deploys(APP)
def install(settings: Settings) -> None:
    """What the services need to run the project is there; nothing that the site feels."""
    _install(settings)


@deploys(APP)
def connect(settings: Settings) -> None:
    """The project, and the site's processes, reach their broker."""
    _connect(settings)


@deploys(APP)
def prune(_: Settings) -> None:
    """Of modules that no service loads any more, nothing is left."""
    extra_files_absent(
        name="Remove modules of earlier versions",
        directory=GUARD,
        files=[file.path for file in LIBRARY],
        former=FORMER,
    )


def _install(settings: Settings) -> None:
    debian_packages(name="Install Python's venv", packages=APP.packages)
    python_packages(
        name="Install the pinned packages",
        venv=settings.app_venv,
        pins=settings.app_pins,
        requirements=_requirements(settings),
        locked=_locked(settings),
    )
    _tell_guard(settings)
    for directory in settings.app_writable:
        if directory.startswith("/"):
            continue  # not the app's: its owner makes it, and says who may write there
        owned_directory(
            name=f"Make {directory}",
            path=f"{settings.app_dir}/{directory}",
            user=settings.app_user,
            group=settings.app_user,
        )
    config_files(name="Install the service library", files=LIBRARY)


def _tell_guard(settings: Settings) -> None:
    """In each plan and each deploy, also where nothing changes."""
    installed = environment(settings.app_venv, _requirements(settings)).installed
    present = {package.name: str(package.version) for package in installed}
    ours = {package.name: str(package.version) for package in _locked(settings)}
    if sentence := warning(settings.worker_guard, settings.app_pins, present, ours):
        host.log(sentence, logger.warning)


def _connect(settings: Settings) -> None:
    env_file(
        name="Set the broker in .env",
        path=settings.app_env,
        variables=variables(settings),
        user=settings.app_user,
        group=settings.app_user,
    )
    for unit in settings.app_units or ():
        env = [settings.app_env]
        watch, reload_for = ([], env) if reloads(unit) else (env, [])
        service(
            name=f"Start {unit} again", unit=unit, watch=watch, reload_for=reload_for, managed=False
        )


def variables(settings: Settings) -> dict[str, str]:
    """What is ours in `.env`."""
    url = redis_url(passwords(host, settings).desired["celery"], settings)
    return {
        **dict.fromkeys(URLS, url),
        "CELERY_KEY_PREFIX": settings.redis_key_prefix,
    }


def _locked(settings: Settings) -> Sequence[Locked]:
    """Of pins of the owner's own, only he can say what is good."""
    return locked() if settings.app_pins == Settings().app_pins else ()


def _requirements(settings: Settings) -> str:
    return f"{settings.app_dir}/{settings.app_requirements}"


def watched(settings: Settings) -> list[str]:
    """What a service that runs the app reads, beside its unit."""
    modules = [file.path for file in LIBRARY if file.path not in UNWATCHED]
    return [*modules, settings.app_env, record(settings.app_venv)]
