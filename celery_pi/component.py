"""What every task has in common: a name in pyinfra's output, and preflight before all else."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar, cast

from pyinfra import host, state
from pyinfra.api import deploy

from celery_pi import plan
from celery_pi.bulk_facts import bulk_facts
from celery_pi.deploy_run import recorded
from celery_pi.preflight import preflight
from celery_pi.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")


def component(
    name: str,
) -> Callable[[Callable[Concatenate[Settings, P], R]], Callable[P, R]]:
    """Make a pyinfra deploy of a function that takes the host's settings first.

    The function is not entered when settings or machine are not fit for it, whether it is run
    from `deploy.py` or alone: `pyinfra inventory.py tasks.redis.deploy`.
    """

    def decorate(task: Callable[Concatenate[Settings, P], R]) -> Callable[P, R]:
        @wraps(task)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            bulk_facts(host)
            settings = preflight(host)
            recorded().includes(state.current_deploy_filename, name)
            plan.begin(host)
            done = task(settings, *args, **kwargs)
            if host.current_deploy_name == name and not state.current_deploy_filename:
                plan.show()  # of a component that is run alone; else the file says when
            return done

        # pyinfra's own annotation says that a deploy returns an OperationMeta.
        return cast("Callable[P, R]", deploy(name)(checked))

    return decorate
