"""How long a deploy takes: the first, one that changes nothing, and one that changes a line."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path

from tests.bench.contenders import (
    ANSIBLE,
    FLOOR,
    OURS,
    Way,
    assert_active,
    ensure_ansible,
    floor_first,
)
from tests.bench.figure import Effort, Figure, Goal
from tests.bench.floor import first_script
from tests.bench.reference import take_files
from tests.harness import run
from tests.virtual_pi import VirtualPi
from tests.virtual_pi.app import put_app
from tests.virtual_pi.platforms import native_platform

NO_CHANGE = f"{OURS}, no change"
Runs = dict[str, list[float]]
_MEGABYTES = (300, 301)
_SPARED = "Ansible, which takes long, ran {} times."
_NAMES = {OURS: "bench-dep-ours", ANSIBLE: "bench-dep-ansible", FLOOR: "bench-dep-floor"}


def measure(effort: Effort) -> list[Figure]:
    """All figures, on machines that are gone afterwards; `quick` leaves out Ansible and ssh."""
    machines = {who: VirtualPi(name, native_platform()) for who, name in _NAMES.items()}
    with tempfile.TemporaryDirectory() as place:
        try:
            return _measure(effort, machines, Path(place))
        finally:
            for machine in machines.values():
                machine.down()


def _measure(effort: Effort, machines: dict[str, VirtualPi], place: Path) -> list[Figure]:
    if not effort.quick:
        ensure_ansible()
    files = place / "files"
    figures = [_first_deploys(effort, machines, files)]
    homes: dict[str, Path | None] = {"docker": None}
    if not effort.quick:
        homes["ssh"] = _home(machines, place)
    for over, home in homes.items():
        ways = {who: Way(machines[who], home) for who in (OURS, ANSIBLE)}
        for way in [ways[OURS]] if home else []:
            way.ours()  # notes whence it comes, which is a change
        runs = _again(effort, ways, files)
        figures += [_no_op(over, runs), _one_line(over, effort, ways, files, runs[OURS])]
    return figures


def _first_deploys(effort: Effort, machines: dict[str, VirtualPi], files: Path) -> Figure:
    """From machines that are new; the last of them stay."""
    runs: Runs = defaultdict(list)
    for turn in range(effort.runs):
        runs[OURS].append(Way(_fresh(machines[OURS])).ours())
        if not files.exists():
            take_files(machines[OURS], files)
        runs[FLOOR].append(floor_first(_fresh(machines[FLOOR]), first_script(files)))
        assert_active(machines[FLOOR])
        machines[FLOOR].down()
        if turn < _spared(effort):
            done = Way(_fresh(machines[ANSIBLE])).ansible(files, _MEGABYTES[0])
            assert_active(machines[ANSIBLE])
            runs[ANSIBLE].append(done.seconds)
    goals = [Goal(OURS, FLOOR, 1.15)]
    note = _SPARED.format(len(runs[ANSIBLE])) if ANSIBLE in runs else ""
    return Figure("first-deploy", "First deploy, over docker", "s", dict(runs), goals, note)


def _again(effort: Effort, ways: dict[str, Way], files: Path) -> Runs:
    """Deploys that change nothing."""
    runs: Runs = defaultdict(list)
    for turn in range(effort.runs):
        runs[OURS].append(ways[OURS].ours())
        runs[FLOOR].append(ways[OURS].floor())
        if turn < _spared(effort):
            done = ways[ANSIBLE].ansible(files, _MEGABYTES[0])
            assert " changed=0 " in done.stdout, done.stdout[-2000:]
            runs[ANSIBLE].append(done.seconds)
    return dict(runs)


def _no_op(over: str, runs: Runs) -> Figure:
    goals = [Goal(OURS, FLOOR, 3)]
    if ANSIBLE in runs:
        goals.insert(0, Goal(OURS, ANSIBLE, 0.1))
    note = _SPARED.format(len(runs[ANSIBLE])) if ANSIBLE in runs else ""
    return Figure(f"no-op-{over}", f"Nothing to change, over {over}", "s", runs, goals, note)


def _one_line(
    over: str, effort: Effort, ways: dict[str, Way], files: Path, unchanged: list[float]
) -> Figure:
    """Redis' memory changes with each run, and with the last of Ansible is as it was at first."""
    runs: Runs = defaultdict(list)
    for turn in range(effort.runs):
        runs[OURS].append(ways[OURS].ours(_MEGABYTES[turn % 2]))
        if turn < _spared(effort):
            done = ways[ANSIBLE].ansible(files, _MEGABYTES[(turn + 1) % 2])
            assert " changed=2 " in done.stdout, done.stdout[-2000:]  # the file, and the server
            runs[ANSIBLE].append(done.seconds)
    goals = [Goal(OURS, NO_CHANGE, 2)]
    told = {**runs, NO_CHANGE: unchanged}
    note = _SPARED.format(len(runs[ANSIBLE])) if ANSIBLE in runs else ""
    return Figure(f"one-line-{over}", f"One line changed, over {over}", "s", told, goals, note)


def _spared(effort: Effort) -> int:
    """How often Ansible runs: even, so that the machine is in the end as at first."""
    return 0 if effort.quick else 2


def _fresh(pi: VirtualPi) -> VirtualPi:
    """A machine as `make up` leaves it."""
    pi.down()
    pi.up()
    put_app(pi)
    return pi


def _home(machines: dict[str, VirtualPi], place: Path) -> Path:
    """A home directory with a key that the user of these machines accepts."""
    home = place / "home"
    key = home / ".ssh/id_ed25519"
    key.parent.mkdir(mode=0o700, parents=True)
    assert run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).status == 0
    script = "umask 077; mkdir -p ~/.ssh; cat >~/.ssh/authorized_keys"
    for who in (OURS, ANSIBLE):
        machines[who].run("su", "pi", "-c", script, input=key.with_suffix(".pub").read_bytes())
    return home
