"""`celery-pi doctor`: each problem, made on a healthy machine, is named, alone, and repaired."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.helpers.fault_catalogue import CLI, EXPLAINED, LIVE, QUICK, SERVICES, SETTINGS, Injected
from tests.helpers.harness import APP, deploy, in_app, plan, redis, run, wait_for
from tests.helpers.status_output import CALM, secrets_of
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

CELERY = f"{APP}/observations_nids/celery.py"
BOTH = ("celery-worker", "celery-beat")
SENT = """
from celery import current_app
from observations_nids.tasks import add, sleep
current_app.send_task("observations_nids.tasks.gone")
sleep.apply_async((30,), time_limit=1)
add.apply_async((1, 1), countdown=9000)
"""
REFUSED = """
from observations_nids.tasks import add
try:
    add.apply_async((1, 1), queue="misspelt", retry=False)
except Exception as error:
    print(type(error).__name__)
"""
CANCEL = """
from observations_nids.celery import app
print(app.control.cancel_consumer("celery", reply=True))
"""
BUSY = "from observations_nids.tasks import sleep\nfor n in range(200): sleep.delay(0.2)"
# Bytes of 1,300 results that nobody has given a time, of the 16 MiB that Redis then has.
FILL = "for n = 1, 1300 do redis.call('SET', KEYS[1] .. n, string.rep('x', 8000)) end"
EMPTY = "for n = 1, 1300 do redis.call('DEL', KEYS[1] .. n) end"
RESULTS = "celery-task-meta-doctor-"


@dataclass(frozen=True)
class Told:
    """Exit status, the state of each problem by its name, and all of it."""

    status: int
    states: dict[str, str]
    problems: list[dict[str, Any]]

    def __getitem__(self, name: str) -> dict[str, Any]:
        return next(each for each in self.problems if each["name"] == name)


def doctor(pi: VirtualPi, *options: str) -> Told:
    """What the doctor finds. Nothing is told without a reason and a remedy, and no secret."""
    done = pi.run("celery-pi", "doctor", "--json", *options, check=False)
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert told["unknown"] == {}
    assert told["healthy"] is (done.returncode == 0)
    assert not [secret for secret in secrets_of(pi) if secret in done.stdout]
    for each in told["problems"]:
        assert each["saw"]
        assert each["why"]
        assert each["will"]
    states = {each["name"]: each["state"] for each in told["problems"]}
    return Told(done.returncode, states, told["problems"])


def is_healthy(pi: VirtualPi) -> bool:
    return doctor(pi).states == {}


@pytest.fixture(scope="module", autouse=True)
def _calm(pi: VirtualPi) -> Iterator[None]:
    """What other modules have left is no concern of this one."""
    assert deploy(pi).status == 0
    pi.run(*CALM)
    redis(pi, "acl", "log", "reset")
    pi.run("sh", "-c", f"rm -f /var/lib/celery-beat/schedule.damaged {APP}/*.pid")
    pi.run("systemctl", "restart", *BOTH)
    wait_for("it is healthy", lambda: is_healthy(pi), 90)
    yield
    told = doctor(pi)
    assert (told.status, told.states) == (0, {})


def shell(pi: VirtualPi, script: str) -> None:
    pi.run("bash", "-c", f"set -e; {script}")


def named(injected: Injected, state: str) -> dict[str, str]:
    names = (injected.names,) if isinstance(injected.names, str) else injected.names
    return dict.fromkeys(names, state)


def label(injected: Injected) -> str:
    return injected.names if isinstance(injected.names, str) else "services"


@pytest.mark.parametrize("injected", [*QUICK, *SERVICES], ids=label)
def test_problem_is_named_alone_and_repaired(pi: VirtualPi, injected: Injected) -> None:
    shell(pi, injected.make)
    try:
        found = doctor(pi)
        mended = doctor(pi, "--fix")
    finally:
        shell(pi, injected.tidy)
    assert (found.status, found.states) == (1, named(injected, "fixable"))
    assert injected.saw in found.problems[0]["saw"]
    assert (mended.status, mended.states) == (0, named(injected, "fixed"))


@pytest.mark.parametrize("injected", EXPLAINED, ids=label)
def test_problem_is_named_alone_and_explained(pi: VirtualPi, injected: Injected) -> None:
    shell(pi, injected.make)
    try:
        found = doctor(pi, "--fix")
    finally:
        shell(pi, injected.tidy)
    assert (found.status, found.states) == (1, named(injected, "explained"))
    assert injected.saw in found.problems[0]["saw"]


def test_queue_that_was_paused_is_consumed_again(pi: VirtualPi) -> None:
    assert "no longer consuming" in in_app(pi, CANCEL)
    wait_for("it is told", lambda: doctor(pi).states == {"A queue is paused": "fixable"})
    assert doctor(pi, "--fix").states == {"A queue is paused": "fixed"}
    assert pi.run("celery-pi", "prove").returncode == 0


def test_queue_that_the_app_may_not_use_is_told(pi: VirtualPi) -> None:
    refused = in_app(pi, REFUSED)
    found = doctor(pi)
    redis(pi, "acl", "log", "reset")
    redis(pi, "del", "_kombu.binding.misspelt")
    assert refused.endswith("Error")
    assert found.states == {"The app sends to a queue that is not its own": "explained"}
    assert found.problems[0]["saw"].endswith(": misspelt")


def test_tasks_that_go_wrong_are_told(pi: VirtualPi) -> None:
    in_app(pi, SENT)
    wanted = {
        *("The worker does not know a task", "A task runs into its time limit"),
        *("A task waits for longer than it may", "There are dead letters"),
    }
    wait_for("they are told", lambda: set(doctor(pi).states) == wanted)
    found = doctor(pi)
    pi.run("systemctl", "stop", *BOTH)
    redis(pi, "del", "celery", "set-aside")  # in which the one that waits lies again
    pi.run("systemctl", "start", *BOTH)
    assert found.states == dict.fromkeys(wanted, "explained")
    assert "tasks.gone (1 time)" in found["The worker does not know a task"]["saw"]
    assert "tasks.sleep (1 time, 1 s)" in found["A task runs into its time limit"]["saw"]
    assert "tasks.add" in found["A task waits for longer than it may"]["saw"]
    wait_for("it is healthy", lambda: is_healthy(pi), 90)


def test_code_that_changed_is_checked_and_run(pi: VirtualPi) -> None:
    pi.run("cp", "-p", CELERY, "/root/celery.py")
    shell(pi, f"""echo 'raise RuntimeError("s3cret")' >>{CELERY}""")
    broken = doctor(pi, "--fix")
    shell(pi, f"cp /root/celery.py {CELERY}; echo 'app.conf.task_ignore_result = True' >>{CELERY}")
    old = doctor(pi)
    run_now = doctor(pi, "--fix")
    pi.run("mv", "/root/celery.py", CELERY)
    back = doctor(pi, "--fix")
    assert broken.states == {"The worker would not run the app": "explained"}
    assert "RuntimeError in observations_nids/celery.py, line " in broken.problems[0]["saw"]
    assert "s3cret" not in json.dumps(broken.problems)
    assert old.states == {"A service runs old code": "fixable"}
    assert run_now.states == {
        "A service runs old code": "fixed",
        "Results are not kept": "explained",
    }
    assert (back.status, back.states) == (0, {"A service runs old code": "fixed"})


def test_what_fills_memory_is_told_and_may_go(pi: VirtualPi) -> None:
    limit = redis(pi, "config", "get", "maxmemory").split()[1]
    shell(
        pi,
        f"cp -p {SETTINGS} /root/settings; cp -p {LIVE} /root/live; "
        f"sed -i 's/^maxmemory .*/maxmemory {16 * 2**20}/' {LIVE}; "
        f"""sed -i 's/"redis_maxmemory": .*/"redis_maxmemory": "16mb",/' {SETTINGS}; """
        f"{CLI} config set maxmemory 16mb",
    )
    redis(pi, "eval", FILL, "1", RESULTS)
    try:
        found = doctor(pi)
        mended = doctor(pi, "--fix")
        expires = int(redis(pi, "ttl", f"{RESULTS}1300"))
    finally:
        redis(pi, "eval", EMPTY, "1", RESULTS)
        shell(pi, f"mv /root/settings {SETTINGS}; mv /root/live {LIVE}")
        redis(pi, "config", "set", "maxmemory", limit)
    by_hand = {"Files differ from what was deployed": "explained"}
    assert found.states == {"Redis' memory fills": "fixable", **by_hand}
    assert "results that never expire" in found.problems[0]["saw"]
    assert mended.states == {"Redis' memory fills": "fixed", **by_hand}
    assert 80000 < expires <= 86400


def test_busy_machine_is_healthy_ten_times(pi: VirtualPi) -> None:
    in_app(pi, BUSY)
    found = [doctor(pi) for _ in range(10)]
    assert [told.states for told in found] == [{}] * 10
    redis(pi, "del", "celery")
    wait_for("the last is done", lambda: redis(pi, "hlen", "unacked") == "0")


def test_make_tells_and_repairs(pi: VirtualPi) -> None:
    pi.run("systemctl", "disable", "--quiet", "celery-beat")
    told = run("make", "doctor", f"VIRTUAL_PI={pi.name}")
    mended = run("make", "doctor", f"VIRTUAL_PI={pi.name}", "FIX=1")
    assert told.status != 0
    assert "A service is not enabled" in told.output
    assert "celery-pi doctor --fix repairs 1" in told.output
    assert mended.status == 0
    assert "no problem; 1 repaired" in mended.output
    assert pi.run("systemctl", "is-enabled", "celery-beat").stdout == "enabled\n"


def test_it_says_when_it_could_not_look(pi: VirtualPi) -> None:
    assert pi.run("celery-pi", "doctor", user="pi", check=False).returncode == 2
    pi.run("mv", SETTINGS, "/root/settings.json")
    done = pi.run("celery-pi", "doctor", check=False)
    pi.run("mv", "/root/settings.json", SETTINGS)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_nothing_is_left_for_a_deploy_to_put_right(pi: VirtualPi) -> None:
    """Of all that the above has changed, and the doctor has put back."""
    assert plan(pi).planned == set()
