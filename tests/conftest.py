"""Machines for the tests: one deploy from nothing, and a copy of its result for each process."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.helpers.harness import Outcome, is_fit, run
from tests.virtual_pi import VirtualPi
from tests.virtual_pi.host import ensure_host
from tests.virtual_pi.image import image_name
from tests.virtual_pi.platforms import (
    DEFAULT_PLATFORM,
    DEFAULT_RELEASE,
    PLATFORMS,
    native_platform,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    reuse = "start from the last run's deployed machine; for work on a test, not for a verdict"
    parser.addoption("--reuse", action="store_true", help=reuse)
    again = "the modules in which a test of the last run failed, alone on the machine, with --reuse"
    parser.addoption("--second-try", action="store_true", help=again)
    scope = "begins the names of the machines: two runs beside each other need different ones"
    parser.addoption("--scope", default="test", help=scope)
    parser.addoption("--platform", default=DEFAULT_PLATFORM, choices=PLATFORMS)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--second-try"):
        config.option.reuse = True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The emulated deploy, which takes longest, comes first, and what needs its result late. Last
    is what is short, so that neither process waits long for the other: `machine` comes after the
    directories whose modules take long."""
    items.sort(key=lambda item: (_turn(item), item.path.parent.name == "machine"))
    if config.getoption("--second-try"):
        assert config.cache
        items[:] = _to_try_again(items, set(config.cache.get("cache/lastfailed", {})))


def _to_try_again(items: list[pytest.Item], failed: set[str]) -> list[pytest.Item]:
    """What stands in the modules of those that failed, since one test may build on another."""
    final = [item.nodeid for item in items if item.nodeid in failed and _is_final(item)]
    if final or not failed:
        raise pytest.UsageError(f"no second try: {', '.join(final) or 'no test has failed'}")
    modules = {nodeid.partition("::")[0] for nodeid in failed}
    return [item for item in items if item.nodeid.partition("::")[0] in modules]


def _is_final(item: pytest.Item) -> bool:
    """Whether one failure is enough: what counts tasks, and a deploy from nothing."""
    names = set(getattr(item, "fixturenames", ()))
    deploys = not names.isdisjoint({"first_deploy", "debian12_deploy"})
    return deploys or bool(item.get_closest_marker("counts"))


def _turn(item: pytest.Item) -> int:
    if item.path.name == "test_deploy.py":
        return 0
    if item.get_closest_marker("fast"):
        return 3
    return 1 if any(map(item.get_closest_marker, ("native", "debian12"))) else 2


@pytest.fixture(scope="session")
def platform(request: pytest.FixtureRequest) -> str:
    """Platform of the machines, such as linux/arm64."""
    return str(request.config.getoption("--platform"))


@pytest.fixture(scope="session")
def _host(
    request: pytest.FixtureRequest, platform: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Docker installed and running: even removing an old machine asks for it."""
    # Two processes at once would start it twice.
    with _one_process_at_a_time(request, tmp_path_factory, "docker"):
        ensure_host(platform)


@pytest.fixture(scope="session")
def first_deploy(
    request: pytest.FixtureRequest,
    _host: None,
    platform: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Outcome:
    """`make deploy` of a machine that did not exist, kept as an image."""
    return _first_deploy(request, tmp_path_factory, platform, DEFAULT_RELEASE)


@pytest.fixture(scope="session")
def debian12_deploy(
    request: pytest.FixtureRequest, _host: None, tmp_path_factory: pytest.TempPathFactory
) -> Outcome:
    """The same of a Debian 12 of this host's own platform."""
    return _first_deploy(request, tmp_path_factory, native_platform(), "12")


def _first_deploy(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    platform: str,
    release: str,
) -> Outcome:
    if request.config.getoption("--reuse"):
        pytest.skip("--reuse: nothing was deployed from nothing")
    pi = VirtualPi(_name(request, platform, release=release), platform, release=release)
    with _one_process_at_a_time(request, tmp_path_factory, pi.name) as shared:
        told = shared / f"{pi.name}.json"
        if not told.exists():
            pi.down()
            told.write_text(json.dumps(asdict(make("deploy", pi))))
            pi.snapshot(_snapshot(request))
            pi.down()
        return Outcome(**json.loads(told.read_text()))


@contextmanager
def _one_process_at_a_time(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, what: str
) -> Iterator[Path]:
    """Keeps pytest-xdist's other processes from the same; yields a directory that all share."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base
    with (shared / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield shared


@pytest.fixture(scope="session")
def deployed_image(request: pytest.FixtureRequest, platform: str) -> str:
    """Image of a deployed machine."""
    if not request.config.getoption("--reuse"):
        request.getfixturevalue("first_deploy")
    return f"{image_name(platform)}:{_snapshot(request)}"


@pytest.fixture(scope="session")
def native_image(
    request: pytest.FixtureRequest, _host: None, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Image of a deployed machine of this host's own platform."""
    if not request.config.getoption("--reuse"):
        _first_deploy(request, tmp_path_factory, native_platform(), DEFAULT_RELEASE)
    return f"{image_name(native_platform())}:{_snapshot(request)}"


@pytest.fixture(scope="session")
def debian12_image(request: pytest.FixtureRequest) -> str:
    """Image of a deployed Debian 12 machine of this host's own platform."""
    if not request.config.getoption("--reuse"):
        request.getfixturevalue("debian12_deploy")
    return f"{image_name(native_platform(), '12')}:{_snapshot(request)}"


@pytest.fixture(scope="session")
def machines(_host: None) -> Iterator[dict[str, VirtualPi]]:
    """The deployed machines that this process's modules share while all is well with them."""
    shared: dict[str, VirtualPi] = {}
    yield shared
    for machine in shared.values():
        machine.down()


@pytest.fixture(scope="module")
def pi(
    request: pytest.FixtureRequest, platform: str, machines: dict[str, VirtualPi]
) -> Iterator[VirtualPi]:
    """A deployed machine, which a module may break if it mends it again.

    The next module gets one from the snapshot when a test of this one has failed, or has left it
    unfit for more: with tasks, for which those of the next would wait, or a worker that cannot
    write. The module's marker says which: `native` and `debian12` run on this host's own processor,
    for what is heavy or what emulation cannot show.
    """
    if request.node.get_closest_marker("debian12"):
        yield request.getfixturevalue("debian12_pi")
    elif request.node.get_closest_marker("native"):
        image = request.getfixturevalue("native_image")
        yield from _shared(request, machines, _copy(request, native_platform(), image))
    else:
        image = request.getfixturevalue("deployed_image")
        yield from _shared(request, machines, _copy(request, platform, image))


@pytest.fixture(scope="module")
def debian12_pi(
    request: pytest.FixtureRequest, debian12_image: str, machines: dict[str, VirtualPi]
) -> Iterator[VirtualPi]:
    """Like `pi`, with Debian 12 and this host's own platform."""
    copy = _copy(request, native_platform(), debian12_image, "12")
    yield from _shared(request, machines, copy)


def _copy(
    request: pytest.FixtureRequest, platform: str, image: str, release: str = DEFAULT_RELEASE
) -> VirtualPi:
    process = getattr(request.config, "workerinput", {}).get("workerid", "main")
    name = _name(request, platform, process, release=release)
    return VirtualPi(name, platform, image, release)


def _shared(
    request: pytest.FixtureRequest, machines: dict[str, VirtualPi], pi: VirtualPi
) -> Iterator[VirtualPi]:
    failed = request.session.testsfailed
    if pi.name not in machines:
        pi.down()
        pi.up()
        machines[pi.name] = pi
    yield machines[pi.name]
    if request.session.testsfailed > failed or not is_fit(pi):
        machines.pop(pi.name).down()


@pytest.fixture(scope="module")
def second_pi(request: pytest.FixtureRequest, native_image: str) -> Iterator[VirtualPi]:
    """Another machine like a native `pi`, for one module."""
    process = getattr(request.config, "workerinput", {}).get("workerid", "main")
    name = _name(request, native_platform(), process, "second")
    machine = VirtualPi(name, native_platform(), native_image)
    machine.down()
    machine.up()
    yield machine
    machine.down()


@pytest.fixture(scope="module")
def home(pi: VirtualPi, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home directory with a key that the Pi's user accepts."""
    home = tmp_path_factory.mktemp("home")
    key = home / ".ssh/id_ed25519"
    key.parent.mkdir(mode=0o700)
    assert run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).status == 0
    public = key.with_suffix(".pub").read_bytes()
    script = "umask 077; mkdir -p ~/.ssh; cat >~/.ssh/authorized_keys"
    pi.run("su", "pi", "-c", script, input=public)
    return home


@pytest.fixture(scope="module")
def fresh_pi(
    request: pytest.FixtureRequest,
    _host: None,
    platform: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[VirtualPi]:
    """A machine with the app on it, to which nothing has been deployed."""
    yield from _fresh(request, tmp_path_factory, platform)


@pytest.fixture(scope="module")
def fresh_native_pi(
    request: pytest.FixtureRequest, _host: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VirtualPi]:
    """The same, of this host's own platform."""
    yield from _fresh(request, tmp_path_factory, native_platform())


def _fresh(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, platform: str
) -> Iterator[VirtualPi]:
    module = request.module.__name__.rpartition("test_")[2].replace("_", "-")
    pi = VirtualPi(_name(request, platform, module, "fresh"), platform)
    pi.down()
    # Two processes at once would build the image twice.
    with _one_process_at_a_time(request, tmp_path_factory, image_name(platform)):
        make("up", pi)
    yield pi
    pi.down()


def make(target: str, pi: VirtualPi) -> Outcome:
    """That target of the Makefile, for that machine; it must end well."""
    named = (f"VIRTUAL_PI={pi.name}", f"PLATFORM={pi.platform}", f"RELEASE={pi.release}")
    outcome = run("make", target, *named, timeout=3600)
    assert outcome.status == 0, outcome.output
    return outcome


def _name(
    request: pytest.FixtureRequest, platform: str, *parts: str, release: str = DEFAULT_RELEASE
) -> str:
    return "-".join([image_name(platform, release), request.config.getoption("--scope"), *parts])


def _snapshot(request: pytest.FixtureRequest) -> str:
    return f"{request.config.getoption('--scope')}-deployed"
