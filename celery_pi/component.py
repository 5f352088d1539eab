"""What a component is, and what every task has in common: a name in pyinfra's output, and preflight
before all else.

A component states itself once, beside its task: its packages, units, ports, secrets and files. The
one call of apt, the firewall, the removal of a component that is switched off, and the manifest on
the Pi (`manifest.py`) are made of these statements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial, wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from pyinfra import host, state
from pyinfra.api import DeployError, deploy
from pyinfra.api.operation import OperationMeta

from celery_pi import manifest, plan
from celery_pi.before import INSTALLED
from celery_pi.deploys import run
from celery_pi.operations.package_service import left_to_its_package
from celery_pi.operations.remove_units import UNITS, remove_units
from celery_pi.preflight import preflight
from celery_pi.settings import Settings, task_modules
from celery_pi.shell import declared

P = ParamSpec("P")
S = TypeVar("S", bound=Settings)

FILES_OF_ENDED_TASKS = "celery_pi_files_of_ended_tasks"
EXPOSURE = 2.0  # what systemd calls OK begins there; the worker itself is at 1.1


@dataclass(frozen=True)
class Unit:
    """A unit of systemd's, such as `celery-beat.service`.

    `why` is what is missing while it is down. `root` allows it to run as root; `exposure` is the
    most that `systemd-analyze security` may rate it, from 0 (closed) to 10 (open). `drop_ins` are
    the names of our files in its `.d` directory. `debian` is true for a unit of a Debian package,
    which is not removed. `daemon` is false for a timer, a path, and the job that one of them
    starts: the tools on the Pi do not expect those to run. `needs` names problems of `celery-pi
    doctor` that bring the unit down. With `uses_data`, a restore stops it while it replaces Redis'
    data.
    """

    name: str
    why: str
    root: bool = False
    exposure: float = EXPOSURE
    drop_ins: tuple[str, ...] = ()
    debian: bool = False
    daemon: bool = True
    needs: tuple[str, ...] = ()
    uses_data: bool = False

    @property
    def files(self) -> list[str]:
        """Paths of our drop-ins."""
        return [f"{UNITS}/{self.name}.d/{name}" for name in self.drop_ins]

    def stated(self) -> dict[str, Any]:
        """What the tools on the Pi know of it."""
        names = ("name", "why", "root", "exposure", "daemon", "needs", "uses_data")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Secret:
    """A file that holds a secret, who may read it, and whether it stays when its component goes.

    `mode` is octal text without a leading zero. `{settings.app_user}` stands for that setting.
    """

    path: str
    mode: str
    owner: str = "root"
    group: str = "root"
    stays: bool = False

    def stated(self, settings: Settings) -> dict[str, Any]:
        """The same with the settings filled in; the file is made once, and nobody knows what it
        holds."""
        texts = {name: getattr(self, name) for name in ("path", "mode", "owner", "group")}
        filled = {name: text.format(settings=settings) for name, text in texts.items()}
        return {**filled, "once": True}


def _always(_: Any) -> bool:
    return True


@dataclass(frozen=True)
class Component(Generic[S]):
    """All that is to be known of a component outside its own task.

    `enabled` decides by the settings whether it is deployed; without one it always is. `packages`
    are Debian's; `no_start` are units that their package does not start, because the component does
    once they are configured; `before_packages` is called first. `ports` is what other machines
    reach, such as `80/tcp`. `writes` are the files that it has on the Pi, but for units, their
    drop-ins and secrets.
    """

    name: str
    enabled: Callable[[S], bool] = _always
    packages: tuple[str, ...] = ()
    no_start: tuple[str, ...] = ()
    before_packages: Callable[[], None] | None = None
    units: tuple[Unit, ...] = ()
    ports: tuple[str, ...] = ()
    secrets: tuple[Secret, ...] = ()
    writes: tuple[str, ...] = ()

    @property
    def own_units(self) -> list[str]:
        """Names of the units that are removed with it."""
        return [unit.name for unit in self.units if not unit.debian]

    @property
    def files(self) -> list[str]:
        """Paths of the files that are removed with it."""
        drop_ins = [path for unit in self.units for path in unit.files]
        secrets = [secret.path for secret in self.secrets if not secret.stays]
        return [*drop_ins, *secrets, *self.writes]

    def stated(self, settings: S) -> dict[str, Any]:
        """Its entry in the manifest. Secrets that stay are audited while it is switched off."""
        is_on = self.enabled(settings)
        return {
            "enabled": is_on,
            "units": [unit.stated() for unit in self.units] if is_on else [],
            "ports": list(self.ports) if is_on else [],
            "secrets": [secret.stated(settings) for secret in self.secrets],
        }


@cache
def components() -> tuple[Component[Any], ...]:
    """Every component that a module of `tasks/` states, in the order of these modules."""
    by_name = {
        value.name: value
        for module in task_modules()
        for value in vars(module).values()
        if isinstance(value, Component)
    }
    return tuple(by_name.values())


def enabled(settings: Settings) -> Iterator[Component[Any]]:
    """Those that these settings have, on the present host."""
    return (component for component in components() if component.enabled(settings))


def remove(component: Component[S], settings: S, name: str = "Remove") -> OperationMeta:
    """Its units are stopped and unknown, and its files are gone, but for those that a component
    which is there has too."""
    kept = {path for other in enabled(settings) for path in other.files}
    files = [path for path in component.files if path not in kept]
    return remove_units(name=name, units=component.own_units, files=files)


def deploys(
    component: Component[S] | str, off: Callable[[S], None] | None = None
) -> Callable[[Callable[Concatenate[S, P], None]], Callable[P, None]]:
    """Make a pyinfra deploy of a function that takes the host's settings first.

    Of a component that is switched off, `off` is called in its place; without one, its units and
    files are removed, and a daemon of Debian's that a deploy has brought stops. A task that is no
    component has a name alone.

    Nothing is called when settings or machine are not fit for it, whether it is run from
    `deploy.py` or alone: `pyinfra inventory.py tasks.redis.deploy`. The first component of a run
    takes the lock; one that is run alone also gives it back.
    """
    name = component if isinstance(component, str) else component.name

    def decorate(task: Callable[Concatenate[S, P], None]) -> Callable[P, None]:
        @wraps(task)
        def checked(*args: P.args, **kwargs: P.kwargs) -> None:
            settings = cast("S", preflight(host))
            plan.begin(host)
            before = set(declared(host))
            if isinstance(component, str):
                task(settings, *args, **kwargs)
            else:
                _run(component, settings, lambda: task(settings, *args, **kwargs), off)
            within: set[str] = host.connector_data.setdefault(FILES_OF_ENDED_TASKS, set())
            within.update(declared(host).keys() - before)

        # pyinfra's own annotation says that a deploy returns an OperationMeta.
        named = cast("Callable[P, None]", deploy(name)(checked))

        @wraps(task)
        def locked(*args: P.args, **kwargs: P.kwargs) -> None:
            # Before pyinfra's deploy, so that the lock is not named after one component.
            run.begin(state.current_deploy_filename, name)
            named(*args, **kwargs)
            if not (host.current_deploy_name or state.current_deploy_filename):
                plan.show()  # of a component that is run alone; else the file calls it
                run.end()

        return locked

    return decorate


def _run(
    component: Component[S],
    settings: S,
    task: Callable[[], None],
    off: Callable[[S], None] | None,
) -> None:
    if manifest.ALL not in host.connector_data:
        stated = {each.name: each.stated(settings) for each in components()}
        host.connector_data[manifest.ALL] = stated
    manifest.note(host, component.name, component.stated(settings))
    if not component.enabled(settings):
        (off or partial(_switch_off, component))(settings)
        return
    before = set(declared(host))
    task()
    if component.enabled is not _always:
        others = before | host.connector_data.get(FILES_OF_ENDED_TASKS, set())
        _refuse_unstated(component, others)


def _switch_off(component: Component[S], settings: S) -> None:
    """Remove it. A daemon of Debian's that was there before the first deploy runs as its package
    has it; one that a deploy has brought stops."""
    remove(component, settings)
    names = " ".join(f"-e {name}" for name in component.packages)
    for unit in component.units:
        if unit.debian and unit.name in component.no_start:
            left_to_its_package(
                name=f"Leave {unit.name} to its package",
                unit=unit.name,
                check=f"! grep -qxF {names} {INSTALLED}",
            )


def _refuse_unstated(component: Component[Any], others: set[str]) -> None:
    """What it does not state would stay on the Pi when it is switched off. `others` are the files
    of the tasks before it and of those that it has called."""
    stated = {*component.files, *(f"{UNITS}/{name}" for name in component.own_units)}
    written = {path for path, state in declared(host).items() if state}
    if unstated := sorted(written - others - stated):
        raise DeployError(f"{component.name} does not state that it writes {', '.join(unstated)}")
