"""Managed by celery-pi. The app's `.env`: whether it names the Redis that was deployed."""

from __future__ import annotations

from functools import partial
from urllib.parse import parse_qs, unquote, urlsplit

from celery_pi_tools.checks.registry import Finding, check, problem
from celery_pi_tools.checks.repairs import rewrite
from celery_pi_tools.env_file import URLS, values, with_variables
from celery_pi_tools.privileges import Refused, read
from celery_pi_tools.redis_client import stored
from celery_pi_tools.redis_url import broker_url
from celery_pi_tools.system import System

WHY = "the site's tasks are refused, or go where no worker takes them"


@check("App", "The app's .env leads elsewhere", "doctor", after=("Permissions",))
def leads_elsewhere(system: System) -> Finding | None:
    path = f"{system.settings['app_dir']}/.env"
    try:
        text = read(system.settings["app_user"], path)
    except FileNotFoundError:
        by_hand = "bring it back from a backup, and deploy again, which adds our lines"
        return problem(f"{path} is missing", "the app does not start without it", by_hand)
    except Refused as error:
        by_hand = "see who has put that there, and bring it back from a backup; it is left as it is"
        return problem(str(error), "the app does not start without it", by_hand)
    current, deployed = values(text), variables(system)
    wrong = {
        name: deployed[name][0] for name in deployed if current.get(name) not in deployed[name]
    }
    if not wrong:
        return None
    reasons = {name: different(current.get(name), wrong[name]) for name in wrong}
    names = {each: [name for name in wrong if reasons[name] == each] for each in reasons.values()}
    symptom = "; ".join(f"{each} in {', '.join(names[each])}" for each in names)
    will = f"write {', '.join(wrong)} as deployed, and nothing else of it"
    fix = partial(write, path, wrong, system.settings["app_user"])
    return problem(symptom, WHY, f"{will}; a site that runs reads it when it is started again", fix)


def variables(system: System) -> dict[str, list[str]]:
    """Valid values of each variable, the newest first: during a rotation there are several."""
    urls = [broker_url(password, system.settings) for password in stored("celery")]
    return {**dict.fromkeys(URLS, urls), "CELERY_KEY_PREFIX": [system.settings["redis_key_prefix"]]}


def different(current: str | None, deployed: str) -> str:
    """How the values differ, without any part that could be a secret."""
    if current is None:
        return "no value"
    if "://" not in deployed:
        return "another value"
    try:
        current_parts, deployed_parts = parts(current), parts(deployed)
    except ValueError:
        return "no URL"
    differing = [part for part in deployed_parts if current_parts[part] != deployed_parts[part]]
    return f"another {' and '.join(differing)}" if differing else "another value"


def parts(text: str) -> dict[str, str]:
    """The parts of a Redis URL. Raises ValueError."""
    url = urlsplit(text)
    login, _, place = url.netloc.rpartition("@")
    user, _, password = login.partition(":")
    host, _, port = place.rpartition(":") if ":" in place else (place, "", "")
    database = parse_qs(url.query).get("virtual_host", [url.path.strip("/")])[0]
    return {
        **{"scheme": url.scheme, "user": user, "password": unquote(password), "host": host},
        **{"port": port, "database": database or "0"},
    }


def write(path: str, variables: dict[str, str], user: str) -> None:
    """Set the variables and leave every other byte as it is."""
    rewrite(path, user, partial(with_variables, variables=variables))
