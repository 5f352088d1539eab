"""`make faults`: every fault with both configurations, and the tables made of it."""

from __future__ import annotations

import argparse
import sys

from tests.faults import steps
from tests.faults.count import Toll, count
from tests.faults.scenarios import HALTED, SCENARIOS
from tests.faults.site import Site, guides, ours
from tests.faults.table import write
from tests.helpers.harness import run
from tests.virtual_pi import VirtualPi
from tests.virtual_pi.console import VirtualPiError
from tests.virtual_pi.platforms import native_platform


def main() -> int:
    """Measure on a machine that is made for it, or some faults on one that is there."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--on", metavar="NAME", help="a deployed native machine; nothing is written"
    )
    parser.add_argument("--only", nargs="*", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--configuration", choices=("ours", "guide"))
    parser.add_argument("--steps", action="store_true", help="only the kills at each step")
    arguments = parser.parse_args()
    if arguments.steps:
        return _kill_at_each_step()
    pi = VirtualPi(arguments.on or "virtual-pi-faults", native_platform())
    if not arguments.on:
        _deploy(pi)
    tolls = {
        name: _count_all(site(pi), arguments.only)
        for name, site in (("ours", ours), ("guide", guides))
        if arguments.configuration in (None, name)
    }
    if not arguments.on:
        write(tolls["ours"], tolls["guide"])
        pi.down()
        return _status(tolls) | _kill_at_each_step()
    return _status(tolls)


def _kill_at_each_step() -> int:
    ours = steps.measure()
    steps.write(ours, steps.measure("--control"))
    for outcome in (bad := steps.too_bad(ours)):
        print(f"beyond the limit: {outcome}", file=sys.stderr)
    return int(bool(bad))


def _status(tolls: dict[str, dict[str, Toll]]) -> int:
    return int(any(_too_bad(name, toll) for name, toll in tolls.get("ours", {}).items()))


def _too_bad(name: str, toll: Toll) -> bool:
    """Whether ours lost something or took too long; says so."""
    scenario = SCENARIOS[name]
    gone, slow = toll.lost | toll.late, (toll.redelivery or 0) > scenario.back
    if name in HALTED:
        slow = slow or toll.done is None or toll.done > scenario.back
    bad = bool(gone) or slow or len(toll.twice) > scenario.twice
    if bad:
        print(f"beyond the limit: {name}: {toll}", file=sys.stderr)
    return bad


def _deploy(pi: VirtualPi) -> None:
    pi.down()
    named = (f"VIRTUAL_PI={pi.name}", f"PLATFORM={pi.platform}")
    outcome = run("make", "deploy", *named, timeout=1800)
    if outcome.status:
        raise VirtualPiError(f"{pi.name} cannot be deployed.", outcome.output)


def _count_all(site: Site, names: list[str]) -> dict[str, Toll]:
    site.renew()
    tolls = {}
    for name in names:
        tolls[name] = toll = count(site, SCENARIOS[name])
        print(f"{site.worker}: {name}: {toll}", flush=True)
    return tolls


if __name__ == "__main__":
    sys.exit(main())
