"""One shell for all commands of a run: each finds and says what it would by itself."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import tomllib
from collections.abc import Callable
from configparser import ConfigParser
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import gevent
import pytest
from paramiko import Channel, ProxyCommand, Transport
from pyinfra.api import StringCommand

from celery_pi import connector, fact_cache
from celery_pi.connector import LOST, CommandResult, Docker, ShellSession, Ssh, undelayed_transport
from celery_pi.render import ROOT
from tests.helpers.fake import LocalShell, Programs, machine
from tests.helpers.harness import PYINFRA
from tests.unit.test_fact_cache import QUESTIONS

PLAIN: dict[str, Any] = {
    "_shell_executable": "sh",
    "_success_exit_codes": [0],
    "_sudo": False,
    "_stdin": None,
}
# Stands for docker, whose container is this machine: `docker exec -i NAME COMMAND...`.
DOCKER = """case $1 in
  exec) shift 3; exec "$@" ;;
  container) echo '[{"State": {"Running": true}}]' ;;
esac"""


@dataclass
class Container:
    """A session in a container, and a shell of this machine to compare it with."""

    programs: Programs
    session: ShellSession
    alone: LocalShell

    def ask(self, text: str, sent: str = "", **more: Any) -> CommandResult | None:
        return self.session.run(StringCommand(text), {**PLAIN, "_stdin": sent, **more})

    def lines(self, text: str, sent: str = "") -> list[str]:
        """What a command says, which must succeed."""
        answer = self.ask(text, sent)
        assert answer
        assert answer[0], answer[1].output
        return answer[1].output_lines


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    programs = Programs(tmp_path, monkeypatch)
    programs.add("docker", DOCKER)
    return programs


@pytest.fixture
def docker(programs: Programs) -> Container:
    state, host = machine("@local", {})
    container = Docker(state, host)
    container.container_id = "pi"
    session = ShellSession(container, container.start_process)
    return Container(programs, session, LocalShell(state, host))


@pytest.mark.parametrize("text", QUESTIONS.values(), ids=QUESTIONS)
def test_command_says_what_it_says_by_itself(docker: Container, text: str) -> None:
    answer = docker.ask(text)
    assert answer
    done, said = docker.alone.run_shell_command(StringCommand(text))
    assert answer[0] == done
    assert answer[1].stdout_lines == said.stdout_lines
    assert answer[1].stderr_lines == said.stderr_lines


def test_all_commands_are_run_by_one_process_and_none_sees_another(docker: Container) -> None:
    assert docker.lines("seen=1; cd /; umask 077; exec 3>&1; echo one") == ["one"]
    assert docker.lines("echo ${seen:-new} $(umask)") == [f"new {docker.lines('umask')[0]}"]
    assert docker.lines("pwd") == [str(Path.cwd())]
    calls = [line for line in docker.programs.calls() if line.startswith("docker ")]
    assert len(calls) == 1


@pytest.mark.parametrize("sent", ["one", "one\n", "é\n\n", "x" * 300_000])
def test_input_arrives_as_pyinfra_sends_it(docker: Container, sent: str) -> None:
    whole = sent if sent.endswith("\n") else sent + "\n"
    assert docker.lines("cat", sent) == whole.splitlines()
    assert docker.lines("wc -c", sent) == [str(len(whole.encode()))]


def test_input_that_is_not_read_is_no_command(docker: Container) -> None:
    assert docker.lines("read -r line; echo $line", "first\n5 0\necho second\n") == ["first"]
    assert docker.lines("true", "5 0\necho second\n" * 20_000) == []
    assert docker.lines("echo third") == ["third"]


def test_much_is_said_while_much_is_sent(docker: Container) -> None:
    say = "head -c 300000 /dev/zero | tr '\\0' x"
    (line,) = docker.lines(f"{say}; wc -c >/dev/null", "y" * 300_000)
    assert len(line) == 300_000


@pytest.mark.parametrize(("good", "is_good"), [([3], True), ([0, 3], True), ([0], False)])
def test_status_is_judged_by_what_is_said_to_be_good(
    docker: Container, good: list[int], is_good: bool
) -> None:
    answer = docker.ask("exit 3", _success_exit_codes=good)
    assert answer
    assert answer[0] is is_good


@pytest.mark.parametrize(
    "more", [{"_timeout": 5}, {"_get_pty": True}, {"_sudo": True}, {"_env": {"a": "b"}}]
)
def test_command_that_is_run_otherwise_is_not_run_here(
    docker: Container, tmp_path: Path, more: dict[str, Any]
) -> None:
    assert docker.lines("true") == []
    assert docker.ask(f"touch {tmp_path}/run", **more) is None
    assert not (tmp_path / "run").exists()
    assert docker.lines("echo still there") == ["still there"]


def test_second_command_at_a_time_is_not_run_here(docker: Container) -> None:
    docker.lines("true")
    first = gevent.spawn(docker.ask, "sleep 0.3; echo first")
    gevent.sleep(0.1)
    assert docker.ask("echo second") is None
    answer = first.get()
    assert answer
    assert answer[1].stdout_lines == ["first"]


def test_command_with_which_the_shell_was_lost_has_failed_and_the_next_go_by_themselves(
    docker: Container,
) -> None:
    docker.lines("true")
    answer = docker.ask("echo one; sleep 0.1; kill -KILL $PPID; sleep 0.1; echo two")
    assert answer
    assert not answer[0]
    assert LOST in answer[1].stderr_lines
    assert docker.ask("echo three") is None


def test_shell_that_does_not_start_has_run_nothing(docker: Container) -> None:
    docker.programs.add("docker", "echo sudo: a password is required >&2; exit 1")
    assert docker.ask("true") is None


@pytest.mark.parametrize("text", ["cat /dev/zero", "yes", "yes >&2"])
def test_machine_that_never_ends_is_not_listened_to_without_end(
    docker: Container, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(connector, "MAX_OUTPUT", 2**20)
    with pytest.raises(OSError, match="@local sent more than 1 MiB in one command"):
        docker.ask(text)
    assert docker.ask("true") is None, "each command goes by itself from here on"


# What any process may see of the others: all words that could be a marker of ours, each in the form
# in which the end of a command was once told.
FORGED = r"""
cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\0' '\n' |
  grep -oE '\b[0-9a-f]{32}\b' | sort -u | sed 's/.*/forged\n&  0/; s/^/\n/'
printf 'end 0\nout 7\nforged\nend 0\n'
"""


def test_output_that_looks_like_the_end_of_it_ends_nothing(docker: Container) -> None:
    whole = docker.lines(f"{FORGED}echo whole")
    assert whole[-5:] == ["end 0", "out 7", "forged", "end 0", "whole"]
    assert docker.lines("echo next") == ["next"]


def test_who_still_holds_the_output_of_a_command_writes_into_no_other(docker: Container) -> None:
    """Another user's process that gets hold of it (pidfd_getfd) can do no more than this one."""
    began = time.monotonic()
    hold = "(i=0; while [ $i -lt 40 ]; do sleep 0.05; echo forged; i=$((i + 1)); done) &"
    assert docker.lines(f"echo one; {hold}") == ["one"]
    assert time.monotonic() - began < 1.5, "it is not waited for"
    assert docker.lines("sleep 0.5; echo two") == ["two"]


def test_what_is_printed_before_our_program_starts_is_no_answer(docker: Container) -> None:
    docker.programs.add("docker", f"echo 'Welcome home'; printf 'end 0\\n%'\n{DOCKER}")
    assert docker.lines("echo one") == ["one"]


def test_commands_find_the_environment_of_the_shell_that_starts_them(
    docker: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python would add a locale to one that has none."""
    for name in ("LANG", "LC_ALL", "LC_CTYPE"):
        monkeypatch.delenv(name, raising=False)
    assert docker.lines("echo ${LC_CTYPE-none}") == ["none"]


DEPLOY = """
from pyinfra.operations import server
server.shell(name="Work", commands=["echo one >>{directory}/done", "echo two >>{directory}/done"])
"""


def run_pyinfra(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """pyinfra's own command, as owners call it in the directory of the project."""
    (directory / "work.py").write_text(DEPLOY.format(directory=directory))
    return subprocess.run(
        [PYINFRA, "-y", *arguments, directory / "work.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


@pytest.mark.parametrize(("verbosity", "processes"), [((), 1), (("-vv",), 2)])
def test_pyinfra_takes_our_connector_for_its_own_name(
    programs: Programs, tmp_path: Path, verbosity: tuple[str, ...], processes: int
) -> None:
    """Without an inventory too: `pyinfra @docker/virtual-pi deploy.py`."""
    done = run_pyinfra(tmp_path, *verbosity, "@docker/pi")
    assert (tmp_path / "done").read_text() == "one\ntwo\n"
    assert "[@docker/pi]" in done.stdout + done.stderr
    started = [call for call in programs.calls() if call.startswith("docker exec")]
    assert len(started) == processes


def test_connectors_are_declared_alike_for_a_checkout_and_for_an_installation() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (metadata,) = ROOT.glob("celery_pi-*.dist-info")
    declared = ConfigParser()
    declared.read(metadata / "entry_points.txt")
    group = dict(declared["pyinfra.connectors"])
    assert group == project["entry-points"]["pyinfra.connectors"]
    assert group == {"docker": f"{Docker.__module__}:Docker", "ssh": f"{Ssh.__module__}:Ssh"}
    lines = (metadata / "METADATA").read_text().splitlines()
    assert f"Name: {project['name']}" in lines
    assert f"Version: {project['version']}" in lines
    assert metadata.name == f"celery_pi-{project['version']}.dist-info"


def test_shell_ends_with_the_connection_and_starts_anew_with_the_next(
    programs: Programs,
) -> None:
    state, host = machine("@local", {"docker_identifier": "pi"})
    container = Docker(state, host)
    for _ in range(2):
        container.connect()
        for _ in range(2):
            assert container.run_shell_command(StringCommand("true"), **PLAIN)[0]
        assert len([call for call in programs.calls() if "exec" in call]) == 1
        container.no_stop = True
        container.disconnect()
    assert container.run_shell_command("echo by itself", **PLAIN)[1].stdout == "by itself"


def test_facts_are_cached_for_a_deploy_of_ours_alone(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another fact, such as the one that a rollback reads, need not wait for those of a deploy."""
    monkeypatch.setattr(fact_cache, "FILE", str(tmp_path / "facts"))
    text = "echo asked"
    digest = sha256(text.encode()).hexdigest()
    (tmp_path / "facts").write_text(f'{digest} "echo kept"\n')
    state, host = machine("@local", {"docker_identifier": "pi"})
    container = Docker(state, host)
    container.connect()
    assert container.run_shell_command(text, **PLAIN)[1].stdout == "asked"
    container.cache_facts()
    assert container.run_shell_command(text, **PLAIN)[1].stdout == "kept"
    assert programs.calls()


def test_packet_is_sent_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        plain = socket.create_connection(server.getsockname())
        undelayed_transport(plain)
        assert plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        plain.close()


def channel() -> Channel:
    """What paramiko gets of `ProxyJump`."""
    return Channel(1)


def proxy_command() -> ProxyCommand:
    return ProxyCommand("cat")


@pytest.mark.parametrize("way", [channel, proxy_command])
def test_jump_host_is_connected_through(way: Callable[[], Any]) -> None:
    sock = way()
    transport = undelayed_transport(sock)
    assert isinstance(transport, Transport)
    assert transport.sock is sock
    if isinstance(sock, ProxyCommand):
        sock.close()


def test_ssh_connects_with_that_transport() -> None:
    state, host = machine("@local", {"ssh_hostname": "fd00::7", "ssh_user": "pi"})
    arguments = Ssh(state, host).make_paramiko_kwargs()
    assert arguments["transport_factory"] is undelayed_transport
    assert (arguments["hostname"], arguments["username"]) == ("fd00::7", "pi")
