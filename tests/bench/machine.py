"""The machines that are measured: deployed once, kept as an image, and copied from that."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version

from docker.errors import APIError, ImageNotFound
from packaging.requirements import Requirement

from celery_pi.settings import Settings
from tests.helpers.harness import APP, ROOT, run
from tests.virtual_pi import VirtualPi
from tests.virtual_pi.console import VirtualPiError
from tests.virtual_pi.engine import connect, explained
from tests.virtual_pi.image import ensure_image, image_name
from tests.virtual_pi.platforms import native_platform

ORIGIN = "bench-back-origin"
# What a deployed machine is made of, beside the image.
_INPUTS = (
    *("celery_pi", "files", "group_data", "packages", "tasks", "templates", "tests/app"),
    "deploy.py",
)


def deployed(name: str) -> VirtualPi:
    """A native machine made from nothing by `make deploy`; an old one of that name is removed."""
    pi = VirtualPi(name, native_platform())
    pi.down()
    named = (f"VIRTUAL_PI={pi.name}", f"PLATFORM={pi.platform}")
    outcome = run("make", "deploy", *named, timeout=1800)
    if outcome.status:
        raise VirtualPiError(f"{pi.name} cannot be deployed.", outcome.output)
    return pi


def copies(*names: str) -> list[VirtualPi]:
    """Machines of these names, new, up, and just as a deploy has left them.

    They are copies of one that is deployed when there is none of the present source.
    """
    image = _kept()
    pis = [VirtualPi(name, native_platform(), image) for name in names]
    remove(pis)
    with ThreadPoolExecutor() as pool:
        list(pool.map(VirtualPi.up, pis))
    return pis


def remove(pis: Iterable[VirtualPi]) -> None:
    for pi in pis:
        pi.down()


def versions(pi: VirtualPi) -> dict[str, str]:
    """What ran on the machine, and what deployed it."""
    redis = pi.run("redis-server", "--version").stdout.split("v=")[1].split()[0]
    python = pi.run(f"{APP}/venv/bin/python", "--version").stdout.split()[1]
    debian = pi.run("cat", "/etc/debian_version").stdout.strip()
    pins = pinned(Settings().app_pins)
    mine = {"Debian": debian, "Redis": redis, "Python": python, "celery": pins["celery"]}
    return mine | {"kombu": pins["kombu"], "redis-py": pins["redis"], "pyinfra": version("pyinfra")}


def pinned(pins: Iterable[str]) -> dict[str, str]:
    """Version of each package, by its name without extras."""
    requirements = map(Requirement, pins)
    return {each.name: next(iter(each.specifier)).version for each in requirements}


def _kept() -> str:
    """The image of a deployed machine; its tag tells of what source."""
    tag = f"bench-{_digest()}"
    name = f"{image_name(native_platform())}:{tag}"
    with explained(f"The image {name} cannot be looked up"):
        try:
            connect().images.get(name)
        except ImageNotFound:
            pi = deployed(ORIGIN)
            pi.snapshot(tag)
            pi.down()
            _forget_others(name)
    return name


def _forget_others(name: str) -> None:
    """Remove the images of other sources, unless a machine was made from one."""
    repository = name.partition(":")[0]
    for image in connect().images.list(repository):
        for tag in image.tags:
            if tag.startswith(f"{repository}:bench-") and tag != name:
                with suppress(APIError):  # it is in use
                    connect().images.remove(tag)


def _digest() -> str:
    """One value that changes with every input of a deployed machine."""
    image = connect().images.get(ensure_image(native_platform()))
    parts = [str(image.id)]
    trees = (ROOT / name for name in _INPUTS)
    files = (path for tree in trees for path in (tree, *sorted(tree.rglob("*"))))
    for path in files:
        if path.is_file() and "__pycache__" not in path.parts:
            parts.append(
                f"{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}"
            )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
