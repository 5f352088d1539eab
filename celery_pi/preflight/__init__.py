"""Refuse early: every problem of settings, secrets and machine, before anything is touched.

`machine` is what must be true of any machine. `site` looks at all of the owner's that a deploy
could harm; the modules beside it each look at one thing of it and give sentences: `apt`, `checkers`
(the owner's configurations), `listeners` and `surroundings` (ports, tunnels, other firewalls),
`redis_clients`, `resolution` with `requirements` (pip). `doubt` drops what a wrong setting causes.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

from pyinfra import logger
from pyinfra.api import DeployError
from pyinfra.api.arguments import all_argument_meta

from celery_pi.facts import handmade, nginx
from celery_pi.facts.site_units import SiteUnits, chosen
from celery_pi.operations.kernel import GOOD, OF_THE_HOST, KernelSettings, unfit
from celery_pi.preflight.doubt import beyond_doubt
from celery_pi.preflight.findings import Findings
from celery_pi.preflight.machine import Machine, is_one_of_ours, problems
from celery_pi.preflight.site import inspect_site
from celery_pi.secrets import supplied_problems
from celery_pi.settings import Settings, of_memory, with_new_names, without_wrong

if TYPE_CHECKING:
    from pyinfra.api.host import Host

CHECKED = "celery_pi_settings"
CONTAINER = "celery_pi_container"
GIVEN_SETTINGS = "celery_pi_given_settings"
NEWEST_DEPLOY = "celery_pi_newest_deploy"


def preflight(host: Host) -> Settings:
    """The settings of this host, once they and the machine have been found fit; a share of its
    memory has become a size.

    Each task calls it first, so that a single component is as safe as the whole deploy; the
    machine is read once a run. Raises DeployError with a sentence for every problem.
    """
    if CHECKED not in host.connector_data:
        # Defaults stand in for what is wrong, so that one run lists the problems of settings and
        # machine, but nothing that would come of those defaults alone.
        data, renamed = with_new_names(site_data(host))
        for sentence in renamed:
            logger.warning(f"{host.name}: {sentence}")
        assumed, doubtful, sentences = without_wrong(data)
        sentences += supplied_problems(assumed)
        machine = host.get_fact(
            Machine,
            app=assumed.app_dir,
            module=assumed.app_module,
            user=assumed.app_user,
            venv=assumed.app_venv,
            units=assumed.app_units or (),
            files=_files_of_the_owners(assumed),
        )
        site = Findings([], [])
        if not machine:
            sentences.append("it could not be looked at")
        else:
            handmade_items: list[handmade.HandmadeItem] = host.get_fact(
                handmade.HandMade, app=assumed.app_dir
            )
            web_server = host.get_fact(nginx.NginxState)
            if is_one_of_ours(machine):
                aside = [each.name for each in handmade_items if each.what == "logrotate"]
                is_inside = machine["container"] != "none"
                site = inspect_site(
                    host, assumed, is_container=is_inside, doubtful=doubtful, aside=aside
                )
            for check in (
                partial(problems, machine),
                partial(handmade.problems, handmade_items),
                partial(nginx.problems, nginx=web_server),
                lambda _: site.problems,
            ):
                sentences += beyond_doubt(assumed, doubtful, check)
        if sentences:
            listed = "".join(f"\n    - {problem}" for problem in sentences)
            raise DeployError(f"{host.name} is left as it was, because{listed}")
        host.connector_data[CONTAINER] = machine["container"] != "none"
        for sentence in site.warnings:
            logger.warning(f"{host.name}: {sentence}")
        _warn_of_the_hosts_kernel(host)
        if assumed.celery_memory_max and "counted" not in machine:
            logger.warning(
                f"celery_memory_max is without effect on {host.name}, whose kernel does not count "
                "the memory of services: on a Raspberry Pi, add cgroup_enable=memory to "
                "/boot/firmware/cmdline.txt and restart it"
            )
        limit = of_memory(assumed.redis_maxmemory, int(machine["memory"]))
        host.connector_data[GIVEN_SETTINGS] = assumed
        host.connector_data[NEWEST_DEPLOY] = machine.get("newest", "")
        running: list[str] = host.get_fact(SiteUnits, app=assumed.app_dir)
        units = chosen(assumed.app_units, running)
        host.connector_data[CHECKED] = assumed.model_copy(
            update={"redis_maxmemory": limit, "app_units": units}
        )
    return cast("Settings", host.connector_data[CHECKED])


def _files_of_the_owners(settings: Settings) -> list[str]:
    named = (settings.nginx_certificate, settings.nginx_certificate_key)
    return [path for path in named if path and settings.flower and settings.nginx_server]


def is_container(host: Host) -> bool:
    """Whether the machine, which has been found fit, shares the kernel of another."""
    return bool(host.connector_data[CONTAINER])


def _warn_of_the_hosts_kernel(host: Host) -> None:
    if is_container(host):
        for path, value in unfit(host.get_fact(KernelSettings)).items():
            if path in OF_THE_HOST:
                good = GOOD[path][0]
                logger.warning(
                    f"{host.name} is a container, and {path} is its host's: it is {value}, and "
                    f"should be {good}"
                )


def site_data(host: Host) -> dict[str, Any]:
    """Host data that is meant for us: all but pyinfra's own arguments and connector data."""
    ours = {*host.connector.data_cls.__annotations__, *all_argument_meta}
    data: dict[str, Any] = host.data.dict()  # type: ignore[no-untyped-call]
    return {key: value for key, value in data.items() if key not in ours}
