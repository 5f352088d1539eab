"""The Celery worker, which runs the app's tasks."""

from celery_pi.component import Component, Unit, deploys
from celery_pi.operations.config_files import ConfigFile, config_files
from celery_pi.operations.rehearsal import rehearsal
from celery_pi.operations.service import CHECK_UNIT, service
from celery_pi.render import from_file, from_template
from celery_pi.settings import Settings, size_in_bytes
from tasks import app, command

UNIT = "celery-worker.service"
WORKER = Component[Settings](
    "Worker",
    units=(
        Unit(
            UNIT,
            "tasks wait, and no result comes: PENDING",
            drop_ins=("sandbox.conf",),
            needs=("Redis", "App"),
            uses_data=True,
        ),
    ),
)
LAUNCHER = [
    from_file(f"{command.LIBRARY}/with-env-file", mode="0755"),
    *(command.tool(module) for module in ("__init__", "env_launcher")),
]


@deploys(WORKER)
def rehearse(settings: Settings) -> None:
    """The app loads in the worker's sandbox, with the `.env` that it will have; nothing changes."""
    config_files(name="Install its launcher", files=LAUNCHER)
    unit, sandbox = _unit(settings)
    rehearsal(
        name="Try the app in its sandbox",
        unit=unit,
        sandbox=sandbox,
        watch=_watch(unit, sandbox, settings),
        env=settings.app_env,
        variables=app.variables(settings),
        user=settings.app_user,
    )


@deploys(WORKER)
def deploy(settings: Settings) -> None:
    """The worker takes tasks from the broker; its unit is up when it does."""
    unit, sandbox = _unit(settings)
    config_files(name="Configure", files=[*LAUNCHER, unit, sandbox])
    service(
        name="Run",
        unit=UNIT,
        watch=_watch(unit, sandbox, settings),
        check=f"{command.PROGRAM} check",
        drains=True,
    )


def _unit(settings: Settings) -> tuple[ConfigFile, ConfigFile]:
    unit = from_template(
        f"/etc/systemd/system/{UNIT}",
        check=CHECK_UNIT,
        settings=settings,
        max_memory_kib=size_in_bytes(settings.celery_max_memory_per_child) // 1024,
    )
    return unit, from_template(f"/etc/systemd/system/{UNIT}.d/sandbox.conf", settings=settings)


def _watch(unit: ConfigFile, sandbox: ConfigFile, settings: Settings) -> list[str]:
    ours = [file.path for file in (*LAUNCHER, unit, sandbox)]
    return [*ours, *app.watched(settings)]
