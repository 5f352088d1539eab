"""What every task has in common: a name in pyinfra's output, and preflight before all else."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar, cast

from pyinfra import host, state
from pyinfra.api import deploy

from celery_pi import deploy_run, plan
from celery_pi.preflight import preflight
from celery_pi.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")


def component(
    name: str,
) -> Callable[[Callable[Concatenate[Settings, P], R]], Callable[P, R]]:
    """Make a pyinfra deploy of a function that takes the host's settings first.

    The function is not entered when settings or machine are not fit for it, whether it is run
    from `deploy.py` or alone: `pyinfra inventory.py tasks.redis.deploy`. The first component of a
    run takes the lock; one that is run alone also gives it back.
    """

    def decorate(task: Callable[Concatenate[Settings, P], R]) -> Callable[P, R]:
        @wraps(task)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            settings = preflight(host)
            plan.begin(host)
            return task(settings, *args, **kwargs)

        # pyinfra's own annotation says that a deploy returns an OperationMeta.
        named = cast("Callable[P, R]", deploy(name)(checked))

        @wraps(task)
        def locked(*args: P.args, **kwargs: P.kwargs) -> R:
            # Before pyinfra's deploy, so that the lock is not named after one component.
            deploy_run.begin(state.current_deploy_filename, name)
            done = named(*args, **kwargs)
            if not (host.current_deploy_name or state.current_deploy_filename):
                plan.show()  # of a component that is run alone; else the file says when
                deploy_run.end()
            return done

        return locked

    return decorate
