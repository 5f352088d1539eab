"""The worker: it is not stopped for an app that would lose tasks, and loses none when it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.helpers.harness import APP, deploy, fsynced, in_app, pids, prove, redis, wait_for
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

MEDIA = f"{APP}/media"
GUARD = "/usr/local/lib/celery-pi/guard"
CODE = f"{APP}/observations_nids/celery.py"
UNSAFE = (
    "app.conf.update(task_time_limit=7200, accept_content=['json', 'pickle'], result_expires=0)"
)
REASONS = (
    "task_time_limit is 7200 s, and a stop of the worker waits 1800 s",
    "accept_content is pickle: say json alone",
    "result_expires is 0, so results fill Redis",
)


@pytest.fixture
def unsafe(pi: VirtualPi) -> Iterator[None]:
    """The owner has changed his app."""
    pi.run("sh", "-c", f"cp -p {CODE} {CODE}.kept && cat >>{CODE}", input=UNSAFE.encode())
    yield
    pi.run("mv", f"{CODE}.kept", CODE)


@pytest.fixture
def quiet(pi: VirtualPi) -> Iterator[Callable[[int, float], None]]:
    """Nobody else sends tasks; what is given sends so many that take so long."""
    pi.run("systemctl", "stop", "celery-beat")
    wait_for("all are done", lambda: counts(pi) == (0, 0))
    pi.run("rm", "-f", f"{MEDIA}/work")

    def send(tasks: int, seconds: float) -> None:
        code = f"[tasks.trace.delay('work', {seconds}) for _ in range({tasks})]"
        in_app(pi, f"from observations_nids import tasks; {code}")

    yield send
    pi.run("systemctl", "start", "celery-beat")


def worker(pi: VirtualPi) -> str:
    """Its main PID; it must be up."""
    shown = pi.run(
        "systemctl", "show", "-P", "ActiveState", "-P", "MainPID", "celery-worker"
    ).stdout
    assert "active" in shown.splitlines()
    return next(line for line in shown.splitlines() if line.isdigit())


def counts(pi: VirtualPi) -> tuple[int, int]:
    """How many tasks wait in the queue, and how many the worker has."""
    return int(redis(pi, "llen", "celery")), int(redis(pi, "hlen", "unacked"))


def runs(pi: VirtualPi) -> list[str]:
    """Which run of its task it was, of each that has ended."""
    lines = pi.run("sh", "-c", f"cat {MEDIA}/work || true").stdout.splitlines()
    return [line.split()[2] for line in lines if line.split()[1] == "end"]


def started(pi: VirtualPi) -> int:
    return pi.run("sh", "-c", f"cat {MEDIA}/work || true").stdout.count(" start ")


# -- an app that would lose tasks


@pytest.mark.usefixtures("unsafe")
def test_worker_that_runs_is_not_stopped_for_an_app_that_would_lose_tasks(pi: VirtualPi) -> None:
    before = worker(pi)
    refused = deploy(pi, celery_concurrency=1)
    assert refused.status == 1
    assert all(reason in refused.stderr for reason in REASONS)
    assert "celery-worker.service is not started again" in refused.stderr
    assert worker(pi) == before
    assert "SUCCESS" in prove(pi)


@pytest.mark.usefixtures("unsafe")
def test_worker_itself_refuses_it_too_and_so_does_the_command(pi: VirtualPi) -> None:
    said = pi.run("celery-pi", "check", check=False)
    assert said.returncode == 1
    assert all(reason in said.stderr for reason in REASONS)
    start = pi.run("date", "+%s").stdout.strip()
    pi.run("systemctl", "restart", "celery-worker", check=False, timeout=60)
    assert pi.run("systemctl", "is-active", "celery-worker", check=False).stdout != "active\n"
    journal = pi.run("journalctl", "-q", "-o", "cat", "-u", "celery-worker", f"-S@{start}").stdout
    assert all(f"celery-pi: {reason}" in journal for reason in REASONS)


def test_app_that_was_mended_is_run(pi: VirtualPi) -> None:
    assert pi.run("celery-pi", "check").stderr == ""
    assert "Worker | Run" in deploy(pi, celery_concurrency=1).changed
    assert deploy(pi).status == 0
    assert "SUCCESS" in prove(pi)


def test_worker_refuses_an_app_that_uses_another_broker(pi: VirtualPi) -> None:
    config = f"{APP}/observations_nids/config.py"
    pi.run("sed", "-i.kept", "s/CELERY_/OTHER_/", config)
    pi.run("touch", "/usr/local/lib/celery-pi/guard/celery_redis_guard/app.py")
    outcome = deploy(pi)
    assert outcome.status == 1
    assert "broker_url is not what CELERY_BROKER_URL in its .env says" in outcome.stderr
    pi.run("mv", f"{config}.kept", config)
    assert {"Worker | Run"} <= deploy(pi).changed


# -- whose modules are imported

# Names of ours, today's and earlier ones, that an owner may well have at the top of his project.
MODULES = ("app", "backend", "beat", "pool", "beat_schedule", "celery_pi_app", "invariants")
DIRECTORIES = ("handover", "maintenance", "paused")


@pytest.fixture
def own_modules(pi: VirtualPi) -> Iterator[None]:
    """His project has modules and packages of these names, and uses them."""
    paths = [*(f"{name}.py" for name in MODULES), *(f"{name}/__init__.py" for name in DIRECTORIES)]
    write = f'cd {APP} && for path; do mkdir -p "$(dirname $path)"; echo OWNER = 1 >$path; done'
    pi.run("sh", "-c", write, "sh", *paths)
    code = "".join(f"from {name} import OWNER\n" for name in (*MODULES, *DIRECTORIES))
    pi.run("sh", "-c", f"cp -p {CODE} {CODE}.kept && cat >>{CODE}", input=code.encode())
    yield
    remove = f"cd {APP} && mv {CODE}.kept {CODE} && rm -r {' '.join(DIRECTORIES)} $@"
    pi.run("sh", "-c", remove, "sh", *(f"{name}.py" for name in MODULES))


@pytest.mark.usefixtures("own_modules")
def test_modules_of_the_owner_may_have_any_name(pi: VirtualPi) -> None:
    outcome = deploy(pi, celery_loglevel="WARNING")
    assert {"Worker | Run", "Beat | Run"} <= outcome.changed
    assert "SUCCESS" in prove(pi)
    assert pi.run("celery-pi", "check").stderr == ""
    pi.run("systemctl", "restart", "celery-flower")
    assert pids(pi)
    ticked = pi.run("wc", "-l", f"{MEDIA}/ticks").stdout
    wait_for(
        "Beat sends, worker runs", lambda: pi.run("wc", "-l", f"{MEDIA}/ticks").stdout != ticked
    )


def test_package_of_ours_is_roots_and_holds_no_bytecode(pi: VirtualPi) -> None:
    assert pi.run("find", GUARD, "!", "-user", "root", "-o", "-perm", "/022").stdout == ""
    assert pi.run("find", GUARD, "-name", "*.pyc", "-o", "-name", "__pycache__").stdout == ""


def test_module_that_a_deploy_no_longer_has_is_removed(pi: VirtualPi) -> None:
    pi.run("mkdir", f"{GUARD}/celery_redis_guard/old")
    stale = ("celery_redis_guard/old/module.py", "celery_redis_guard/gone.py", "other.py")
    former = f"{GUARD}/../handover.py"
    pi.run("touch", former, *(f"{GUARD}/{path}" for path in stale))
    assert "App | Remove modules of earlier versions" in deploy(pi).changed
    left = pi.run("find", GUARD, "-path", f"{GUARD}/celery_redis_guard/old*", "-o", "-empty").stdout
    assert left == ""
    assert pi.run("ls", GUARD).stdout.split() == ["celery_redis_guard", "celeryredisguard.py"]
    assert pi.run("test", "!", "-e", former).returncode == 0
    assert deploy(pi).changed == set()


# -- stopping and waiting


def test_restart_lets_running_tasks_finish_and_keeps_those_that_wait(
    pi: VirtualPi, quiet: Callable[[int, float], None]
) -> None:
    quiet(12, 5)
    wait_for("two run", lambda: started(pi) >= 2)
    before = worker(pi)
    pi.run("systemctl", "restart", "celery-worker")
    assert worker(pi) != before
    wait_for("all are done", lambda: counts(pi) == (0, 0), 120)
    assert runs(pi) == ["1"] * 12


def test_deploy_says_that_it_waits_and_loses_no_task(
    pi: VirtualPi, quiet: Callable[[int, float], None]
) -> None:
    quiet(4, 6)
    wait_for("two run", lambda: started(pi) >= 2)
    outcome = deploy(pi, celery_loglevel="WARNING")
    assert "celery-worker.service finishes its work first, within 30min 30s" in outcome.stderr
    wait_for("all are done", lambda: counts(pi) == (0, 0), 60)
    assert runs(pi) == ["1"] * 4


def test_reload_is_refused_and_the_worker_goes_on(pi: VirtualPi) -> None:
    before = worker(pi)
    assert pi.run("systemctl", "reload", "celery-worker", check=False).returncode != 0
    assert worker(pi) == before


def test_no_task_waits_behind_a_long_one(
    pi: VirtualPi, quiet: Callable[[int, float], None]
) -> None:
    quiet(3, 15)
    wait_for("two run", lambda: started(pi) == 2)
    assert counts(pi) == (1, 2)
    wait_for("all are done", lambda: counts(pi) == (0, 0), 90)
    assert runs(pi) == ["1"] * 3


# Gives back what nobody has acknowledged, as kombu does by itself when an hour is over.
GIVE_BACK = """
from observations_nids.celery import app
with app.connection_for_write(transport_options={"visibility_timeout": 0}) as connection:
    connection.default_channel.qos.restore_visible(num=9)
"""


def test_task_that_is_delivered_again_and_has_a_result_is_not_run_again(
    pi: VirtualPi, quiet: Callable[[int, float], None]
) -> None:
    """Redis is restarted while it runs, so the worker cannot acknowledge it."""
    quiet(1, 5)
    wait_for("it runs", lambda: started(pi) == 1)
    pi.run("systemctl", "restart", "redis-server")
    wait_for("it ends", lambda: runs(pi) == ["1"])
    in_app(pi, GIVE_BACK)
    wait_for("it was delivered and acknowledged", lambda: counts(pi) == (0, 0))
    assert started(pi) == 1


@pytest.mark.parametrize("strike", ["restart", "kill --signal=KILL"])
def test_task_that_waits_for_its_time_is_done_though_redis_went_away(
    pi: VirtualPi, quiet: Callable[[int, float], None], strike: str
) -> None:
    """An idle worker has asked for more, and closes its connection without the answer."""
    quiet(0, 0)
    code = "[tasks.trace.apply_async(('work', 0), countdown=8) for _ in range(5)]"
    in_app(pi, f"from observations_nids import tasks; {code}")
    wait_for("the worker has them", lambda: counts(pi) == (0, 5))
    wait_for("they are on the disk", lambda: fsynced(pi))
    pi.run("sh", "-c", f"systemctl {strike} redis-server")
    wait_for("all are done", lambda: runs(pi) == ["1"] * 5, 60)
    wait_for("Redis knows", lambda: counts(pi) == (0, 0))


# -- more processes, and fewer


def processes(pi: VirtualPi) -> int:
    """How many there are to run tasks."""
    return len(pi.run("pgrep", "-P", worker(pi)).stdout.split())


def test_worker_that_scales_does_so_also_after_a_restart_of_redis(
    pi: VirtualPi, quiet: Callable[[int, float], None]
) -> None:
    assert deploy(pi, celery_concurrency=3, celery_min_concurrency=1).status == 0
    assert processes(pi) == 1
    pi.run("systemctl", "stop", "celery-beat")  # which a deploy starts
    pi.run("systemctl", "restart", "redis-server")
    quiet(5, 20)
    wait_for("three run", lambda: started(pi) == 3, 60)
    assert processes(pi) == 3
    assert counts(pi) == (2, 3)
    wait_for("all are done", lambda: counts(pi) == (0, 0), 180)
    assert runs(pi) == ["1"] * 5


# -- Redis that comes late


def test_worker_waits_for_a_redis_that_comes_late(pi: VirtualPi) -> None:
    pi.run("systemctl", "stop", "celery-worker", "celery-beat")
    pi.run("systemctl", "mask", "--runtime", "--now", "redis-server")
    pi.run("systemctl", "start", "--no-block", "celery-worker")
    said = ("journalctl", "-q", "-o", "cat", "-u", "celery-worker", "-n", "20")
    wait_for("it looks for Redis", lambda: "Cannot connect to redis" in pi.run(*said).stdout)
    assert pi.run("systemctl", "is-active", "celery-worker", check=False).stdout == "activating\n"
    pi.run("systemctl", "unmask", "--runtime", "redis-server")
    pi.run("systemctl", "start", "redis-server")
    active = ("systemctl", "is-active", "celery-worker")
    wait_for("it is up", lambda: not pi.run(*active, check=False).returncode, 60)
    assert pi.run("systemctl", "show", "-P", "NRestarts", "celery-worker").stdout == "0\n"
    pi.run("systemctl", "start", "celery-beat")


def test_worker_is_started_when_redis_is_ready_and_not_before(pi: VirtualPi) -> None:
    pi.run("systemctl", "stop", "celery-worker", "celery-beat")
    pi.run("systemctl", "stop", "redis-server")
    pi.run("systemctl", "start", "celery-worker", "celery-beat")
    shown = ("systemctl", "show", "-P")
    ready = pi.run(*shown, "ActiveEnterTimestampMonotonic", "redis-server").stdout
    worker = pi.run(*shown, "InactiveExitTimestampMonotonic", "celery-worker").stdout
    assert pi.run(*shown, "Type", "redis-server").stdout == "notify\n"
    assert 0 < int(ready) <= int(worker)


@pytest.mark.counts
@pytest.mark.parametrize("delay", [0.3, 1.0, 2.4])
def test_worker_that_is_stopped_while_redis_is_away_ends(
    pi: VirtualPi, quiet: Callable[[int, float], None], delay: float
) -> None:
    """What Celery has to say of lost results is more than a pipe holds."""
    pi.run("systemctl", "stop", "celery-worker")
    quiet(2000, 0)
    time.sleep(2.5)  # Redis may lose what came in its last second, or two
    pi.run("systemctl", "start", "celery-worker")
    wait_for("it works", lambda: started(pi) > 50)
    pi.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "redis-server")
    time.sleep(delay)
    pi.run("systemctl", "stop", "celery-worker", timeout=180)  # of the 30 min that it may take
    shown = pi.run("systemctl", "show", "-P", "Result", "celery-worker").stdout
    pi.run("systemctl", "start", "celery-worker")
    assert shown == "success\n"
    wait_for("all are done", lambda: counts(pi) == (0, 0), 300)
    assert len(set(ended(pi))) == 2000


def test_task_that_begins_while_redis_is_away_is_not_failed_for_it(
    pi: VirtualPi, quiet: Callable[[int, float], None]
) -> None:
    """Its process could not say that it begins."""
    children = pi.run("pgrep", "-P", worker(pi)).stdout.split()
    pi.run("kill", "-STOP", *children)
    quiet(1, 0)
    wait_for("it is given to its process", lambda: counts(pi) == (0, 1))
    pi.run("systemctl", "stop", "redis-server")
    pi.run("kill", "-CONT", *children)
    time.sleep(3)
    assert runs(pi) == []
    pi.run("systemctl", "start", "redis-server")
    wait_for("it is done", lambda: runs(pi) == ["1"], 60)
    pi.run("systemctl", "restart", "celery-worker")
    wait_for("nobody has it in hand", lambda: counts(pi) == (0, 0), 60)
    assert runs(pi) == ["1"]


def test_stop_waits_for_a_running_task_and_not_for_redis(
    pi: VirtualPi, quiet: Callable[[int, float], None], short_watchdog: int
) -> None:
    """The task has no one to tell that it has ended, and so is run again."""
    seconds = short_watchdog + 3
    quiet(1, seconds)
    wait_for("it runs", lambda: started(pi) == 1)
    pi.run("systemctl", "stop", "redis-server")
    pi.run("systemctl", "stop", "celery-worker", timeout=seconds + 60)
    assert pi.run("systemctl", "show", "-P", "Result", "celery-worker").stdout == "success\n"
    assert runs(pi) == ["1"]
    pi.run("systemctl", "start", "redis-server", "celery-worker")
    wait_for("it is done", lambda: counts(pi) == (0, 0), seconds + 60)
    assert runs(pi) == ["1", "2"]


@pytest.fixture
def short_watchdog(pi: VirtualPi) -> Iterator[int]:
    """Seconds after which systemd takes the worker for one that hangs."""
    unit, seconds = "/run/systemd/system/celery-worker.service.d", 12
    pi.run("mkdir", "-p", unit)
    setting = f"[Service]\nWatchdogSec={seconds}\n"
    pi.run("sh", "-c", f"cat >{unit}/watchdog.conf", input=setting.encode())
    reload = "systemctl daemon-reload && systemctl restart celery-worker"
    pi.run("sh", "-c", reload)
    yield seconds
    pi.run("sh", "-c", f"rm -r {unit} && {reload}")


def ended(pi: VirtualPi) -> list[str]:
    """Ids of the tasks that have ended, as often as they have."""
    lines = pi.run("sh", "-c", f"cat {MEDIA}/work || true").stdout.splitlines()
    return [line.split()[0] for line in lines if line.split()[1] == "end"]


def test_all_is_well_afterwards(pi: VirtualPi) -> None:
    assert deploy(pi).status == 0
    assert "SUCCESS" in prove(pi)
    assert deploy(pi).changed == set()
