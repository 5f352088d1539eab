"""Debian packages: nothing to do is done at once, and what was interrupted is completed."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from celery_pi import before
from celery_pi.operations import debian_packages as module
from celery_pi.operations.debian_packages import DebianPackages, Packages, debian_packages
from tests.helpers.fake import Programs, Run, mode, run, sh

INSTALLED = "install ok installed"

# What packages ask while they are installed: invoke-rc.d and deb-systemd-invoke in their ways.
ASKED = (
    *("redis-server.service,start", "nginx,start", "--quiet,nginx,start"),
    *("nginx.service,restart", "logrotate.timer,start", "redis,start"),
)

# Debian 12's dpkg, with a number or without, and Debian 13's say so who holds the lock.
HOLDERS = (
    "another process",
    "another process with pid 123",
    "/usr/bin/python3.13 process with pid 123",
)
LOCKED = "dpkg: error: dpkg frontend lock was locked by {}"

# dpkg and apt as far as the operation knows them: a file for each package with its status.
DPKG_QUERY = 'cat "{state}/$4" 2>/dev/null'
DPKG = """
read -r left <{state}/locked
[ "$left" = 0 ] || { echo $((left - 1)) >{state}/locked; echo "{told}" >&2; exit 2; }
rm -f {state}/updates/*
for p in {state}/*-*; do grep -q '^install ok' "$p" && printf 'install ok installed' >"$p"; done
true
"""
APT = """
[ "$DEBIAN_FRONTEND" = noninteractive ] || { echo "would ask" >&2; exit 100; }
[ -z "$(/bin/ls {state}/updates)" ] || { echo "dpkg was interrupted" >&2; exit 100; }
[ ! -x {policy} ] || for asked in {asked}; do
  {policy} $(echo "$asked" | tr , ' ')
  echo "$asked $?" >>{state}/answers
done
for word in "$@"; do
  case $word in
    update) cat {state}/fetched
      read -r left <{state}/refusals
      [ "$left" = 0 ] || {
        echo $((left - 1)) >{state}/refusals; cat {state}/reason >&2; exit 100; } ;;
    *-*) case $word in -*) ;; *) printf 'install ok installed' >"{state}/$word" ;; esac ;;
  esac
done
"""


class Debian:
    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = directory / "state"
        (self.state / "updates").mkdir(parents=True)
        (self.state / "refusals").write_text("0\n")
        (self.state / "locked").write_text("0\n")
        (self.state / "told").touch()
        (self.state / "fetched").touch()
        (self.state / "reason").touch()
        self.lock = directory / "lock-frontend"
        self.lock.touch()
        monkeypatch.setattr(module, "LOCKS", str(self.lock))
        self.programs = Programs(directory, monkeypatch)
        self.policy = directory / "policy-rc.d"
        monkeypatch.setattr(module, "POLICY", str(self.policy))
        monkeypatch.setattr(module, "LOCK", str(directory / "run/apt.lock"))
        self.record = directory / "var/before/installed"
        self.record.parent.mkdir(parents=True)
        self.record.touch()
        self.history = directory / "history.log"
        monkeypatch.setattr(before, "INSTALLED", str(self.record))
        monkeypatch.setattr(before, "HISTORY", str(self.history))
        monkeypatch.setattr(module, "UPDATE_OUTPUT", str(directory / "run/apt.update"))
        monkeypatch.setattr(module, "CONFIGURE_OUTPUT", str(directory / "run/dpkg.configure"))
        for name, script in (("dpkg-query", DPKG_QUERY), ("dpkg", DPKG), ("apt-get", APT)):
            script = script.replace("{state}", str(self.state)).replace("{asked}", " ".join(ASKED))
            script = script.replace("{told}", f"$(cat {self.state}/told)")
            self.programs.add(name, script.replace("{policy}", str(self.policy)))
        monkeypatch.delenv("DEBIAN_FRONTEND", raising=False)
        self.programs.add("sleep")
        # The operation asks for dpkg's own folder by its full path.
        self.programs.add(
            "ls", f'[ "$1" = /var/lib/dpkg/updates ] && exec /bin/ls {self.state}/updates'
        )

    def has(self, **statuses: str) -> None:
        for name, status in statuses.items():
            (self.state / name.replace("_", "-")).write_text(status)

    def interrupted(self) -> None:
        (self.state / "updates" / "0001").touch()

    def deploy(self, *packages: str, no_start: Sequence[str] = ()) -> Run:
        self.programs.calls()
        return run(lambda: debian_packages(name="Install", packages=packages, no_start=no_start))

    def answers(self) -> list[str]:
        """What packages were told that asked whether to start their services."""
        path = self.state / "answers"
        return path.read_text().splitlines() if path.exists() else []

    def calls(self) -> list[str]:
        """What was done, each in one word: dpkg, update, or install and the packages."""
        told = []
        for call in self.programs.calls():
            program, *words = call.split()
            if program == "apt-get":
                done = next(word for word in words if word in ("update", "install"))
                told.append(" ".join(words[words.index(done) :]))
            elif program in ("dpkg", "sleep"):
                told.append(call)
        return told

    def fact(self, *packages: str) -> Packages:
        fact = DebianPackages()
        return fact.process(sh(fact.command(packages=packages)))


@pytest.fixture
def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Debian:
    return Debian(tmp_path, monkeypatch)


CONFIGURE = "dpkg --configure -a --force-confold"


def test_installed_packages_are_left_alone_and_no_list_is_fetched(debian: Debian) -> None:
    debian.has(redis_server=INSTALLED, python3_venv=INSTALLED)
    done = debian.deploy("redis-server", "python3-venv")
    assert (done.planned, done.changed) == ([False], [False])
    assert debian.calls() == []
    assert len(done.commands) == 2  # the fact, in the plan and in the run


def test_only_missing_packages_are_installed_from_fresh_lists(debian: Debian) -> None:
    debian.has(redis_server=INSTALLED)
    done = debian.deploy("redis-server", "python3-venv", "apt-utils")
    assert (done.planned, done.changed, done.error) == ([True], [True], "")
    assert debian.calls() == ["update", "install python3-venv apt-utils"]
    assert debian.deploy("redis-server", "python3-venv", "apt-utils").changed == [False]


def test_configuration_files_of_the_owner_are_kept(debian: Debian) -> None:
    debian.deploy("redis-server")
    (call,) = [call for call in debian.programs.calls() if " install " in call]
    assert "-o Dpkg::Options::=--force-confold" in call
    assert "-y" in call.split()
    assert "DPkg::Lock::Timeout=300" in call


@pytest.mark.parametrize(
    ("status", "calls"),
    [
        ("deinstall ok config-files", ["update", "install redis-server"]),
        ("unknown ok not-installed", ["update", "install redis-server"]),
        ("install ok unpacked", [CONFIGURE]),
        ("install ok half-configured", [CONFIGURE]),
        ("install ok triggers-pending", [CONFIGURE]),
        ("install reinstreq half-installed", ["update", "install redis-server"]),
    ],
)
def test_package_in_any_other_state_is_completed_or_installed(
    debian: Debian, status: str, calls: Sequence[str]
) -> None:
    debian.has(redis_server=status)
    done = debian.deploy("redis-server")
    assert (done.planned, done.changed, done.error) == ([True], [True], "")
    assert debian.calls() == calls
    assert debian.deploy("redis-server").changed == [False]


def test_interrupted_dpkg_is_completed_before_anything_is_installed(debian: Debian) -> None:
    debian.interrupted()
    done = debian.deploy("redis-server")
    assert (done.planned, done.changed, done.error) == ([True], [True], "")
    assert debian.calls() == [CONFIGURE, "update", "install redis-server"]


def test_interrupted_dpkg_is_completed_when_nothing_is_missing(debian: Debian) -> None:
    debian.has(redis_server=INSTALLED)
    debian.interrupted()
    assert debian.deploy("redis-server").changed == [True]
    assert debian.calls() == [CONFIGURE]
    assert debian.deploy("redis-server").changed == [False]


@contextmanager
def held_by_another(lock: Path) -> Iterator[int]:
    """Another process holds it as apt and dpkg do; its number."""
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX)"
    command = (sys.executable, "-c", f"{hold}; print(flush=True); sys.stdin.read()", lock)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        yield holder.pid
        holder.communicate()


@pytest.mark.parametrize("holder", HOLDERS)
def test_steps_of_another_dpkg_are_no_interruption_and_are_waited_for(
    debian: Debian, holder: str
) -> None:
    """As unattended-upgrades is at work when a new Pi is deployed for the first time."""
    (debian.state / "told").write_text(LOCKED.format(holder))
    debian.interrupted()
    debian.has(redis_server="install ok unpacked")
    (debian.state / "locked").write_text("7\n")
    with held_by_another(debian.lock) as pid:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        found = debian.fact("redis-server", "a-a")
        assert found.missing == ("redis-server", "a-a")
        assert (found.interrupted, found.busy) == (False, f"{name} ({pid})")
        done = debian.deploy("redis-server", "a-a")
    assert (done.error, done.changed) == ("", [True])
    waited = [CONFIGURE, "sleep 5"] * 7
    assert debian.calls() == [*waited, CONFIGURE, "update", "install a-a"]
    assert debian.deploy("redis-server", "a-a").changed == [False]


@pytest.mark.parametrize("holder", HOLDERS)
def test_another_dpkg_that_does_not_end_is_waited_for_within_bounds(
    debian: Debian, monkeypatch: pytest.MonkeyPatch, holder: str
) -> None:
    (debian.state / "told").write_text(LOCKED.format(holder))
    monkeypatch.setattr(module, "WAIT_TIMEOUT", 0)
    debian.interrupted()
    (debian.state / "locked").write_text("7\n")
    done = debian.deploy("redis-server")
    assert done.error
    assert LOCKED.format(holder) in done.shown
    assert "another apt or dpkg still works after 0 s" in done.shown
    assert debian.calls() == [CONFIGURE]


def test_dpkg_that_fails_for_itself_is_not_tried_again(debian: Debian) -> None:
    debian.interrupted()
    debian.programs.add("dpkg", "echo 'a script of a package failed' >&2; exit 1")
    done = debian.deploy("redis-server")
    assert done.error
    assert "a script of a package failed" in done.shown
    assert debian.calls() == [CONFIGURE]


def test_lists_that_another_apt_has_locked_are_waited_for(debian: Debian) -> None:
    (debian.state / "refusals").write_text("7\n")
    (debian.state / "reason").write_text(
        "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 123 (apt-get)\n"
    )
    assert debian.deploy("redis-server").error == ""
    assert debian.calls() == [*["update", "sleep 10"] * 7, "update", "install redis-server"]


@pytest.mark.parametrize("refusals", [1, 2])
def test_lists_that_cannot_be_fetched_are_tried_again(debian: Debian, refusals: int) -> None:
    (debian.state / "refusals").write_text(f"{refusals}\n")
    assert debian.deploy("redis-server").error == ""
    assert debian.calls() == [*["update", "sleep 10"] * refusals, "update", "install redis-server"]


def test_lists_that_cannot_be_fetched_fail_the_operation(debian: Debian) -> None:
    (debian.state / "refusals").write_text("3\n")
    assert debian.deploy("redis-server").error
    assert [call for call in debian.calls() if not call.startswith("sleep")] == ["update"] * 3


DEAD = "Failed to fetch http://dead.example/dists/x/InRelease  Could not connect"


@pytest.mark.parametrize("refusals", [0, 3])
def test_source_that_is_dead_beside_others_is_told_and_keeps_nothing(
    debian: Debian, refusals: int
) -> None:
    (debian.state / "refusals").write_text(f"{refusals}\n")
    (debian.state / "fetched").write_text(f"Hit:1 http://deb.debian.org x\nE: {DEAD}\nW: {DEAD}\n")
    done = debian.deploy("redis-server")
    assert (done.error, done.changed) == ("", [True])
    assert done.shown.count(f"apt goes on without a source that is dead: {DEAD}") == 1
    assert debian.calls()[-1] == "install redis-server"
    assert not (debian.state.parent / "run/apt.update").exists()


def test_fact_tells_what_is_missing_in_the_order_asked(debian: Debian) -> None:
    debian.has(b_b=INSTALLED, c_c="install ok unpacked")
    assert debian.fact("a-a", "b-b", "c-c") == Packages(("a-a", "c-c"), interrupted=True)
    assert debian.fact("b-b", "a-a") == Packages(("a-a",), interrupted=False)
    assert debian.fact("b-b") == Packages()


def test_backup_in_dpkgs_folder_is_no_interruption(debian: Debian) -> None:
    (debian.state / "updates" / "tmp.i").touch()
    debian.has(b_b=INSTALLED)
    assert debian.fact("b-b") == Packages()


def test_package_on_hold_is_installed(debian: Debian) -> None:
    debian.has(redis_server="hold ok installed")
    assert debian.deploy("redis-server").planned == [False]


NO_START = ("redis-server.service", "nginx.service")
NO, YES = ASKED[:3], ASKED[3:]


def test_services_that_are_not_to_start_are_not_started_by_their_packages(debian: Debian) -> None:
    assert debian.deploy("redis-server", no_start=NO_START).error == ""
    assert not debian.policy.exists()
    told = [f"{asked} 101" for asked in NO] + [f"{asked} 0" for asked in YES]
    assert debian.answers() == told


def test_all_services_are_started_where_each_may_start(debian: Debian) -> None:
    debian.deploy("redis-server")
    assert debian.answers() == []


def test_answer_is_yes_again_when_apt_has_failed(debian: Debian) -> None:
    (debian.state / "refusals").write_text("0\n")
    debian.programs.add("apt-get", 'case "$*" in *update*) ;; *) exit 100 ;; esac')
    assert debian.deploy("redis-server", no_start=NO_START).error
    assert not debian.policy.exists()


def test_policy_that_a_power_cut_left_behind_says_yes_and_is_replaced(debian: Debian) -> None:
    debian.programs.add("rm")  # as if it were never reached
    debian.deploy("redis-server", no_start=NO_START)
    debian.programs.bin.joinpath("rm").unlink()
    assert debian.policy.exists()
    assert subprocess.run([debian.policy, "nginx", "start"], check=False).returncode == 0
    debian.deploy("python3-venv", no_start=NO_START)
    assert not debian.policy.exists()


def test_policy_of_somebody_else_stays_and_is_asked(debian: Debian) -> None:
    debian.policy.write_text("#!/bin/sh\nexit 101\n")
    debian.policy.chmod(0o755)
    assert debian.deploy("redis-server", no_start=NO_START).error == ""
    assert debian.policy.read_text() == "#!/bin/sh\nexit 101\n"
    assert {answer.split()[-1] for answer in debian.answers()} == {"101"}


def test_packages_that_we_install_are_noted_and_those_that_were_there_are_not(
    debian: Debian,
) -> None:
    shutil.rmtree(debian.record.parents[1])
    debian.has(redis_server=INSTALLED, python3_venv="install ok unpacked")
    assert debian.deploy("redis-server", "python3-venv", "b-b", "a-a").error == ""
    assert debian.record.read_text() == "a-a\nb-b\n"
    assert mode(debian.record.parent) == 0o700
    debian.has(c_c="deinstall ok config-files")
    debian.deploy("c-c", "a-a")
    assert debian.record.read_text() == "a-a\nb-b\nc-c\n"


def test_installation_that_is_cut_off_is_noted_all_the_same(debian: Debian) -> None:
    debian.programs.add("apt-get", 'case "$*" in *update*) ;; *) kill -KILL $PPID ;; esac')
    assert debian.deploy("redis-server", no_start=NO_START).error
    assert debian.record.read_text() == "redis-server\n"


HISTORY_LOG = """
Commandline: apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold install x-x
Install: nginx:arm64 (1.26.3-3+deb13u1), libnftnl11:arm64 (1.2.9-1, automatic), x-x:arm64 (1)

Commandline: apt install y-y
Install: y-y:arm64 (1)
"""


@pytest.mark.parametrize("packed", [False, True])
def test_what_older_deploys_have_installed_is_told_by_apts_own_log_once(
    debian: Debian, packed: bool
) -> None:
    debian.record.unlink()
    debian.history.with_name("history.log.1.gz").write_bytes(gzip.compress(HISTORY_LOG.encode()))
    if not packed:
        debian.history.write_text(HISTORY_LOG)
    debian.has(b_b=INSTALLED)
    done = debian.deploy("b-b")
    assert (done.planned, done.changed, done.error) == ([True], [True], "")
    assert debian.record.read_text() == "nginx\nx-x\n"
    assert debian.deploy("b-b").changed == [False]
    debian.record.write_text("")
    debian.deploy("d-d")
    assert debian.record.read_text() == "d-d\n", "the log is asked while there is no record"
