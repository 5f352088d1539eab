"""One shell for all commands of a run: each finds and says what it would by itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent
import pytest
from pyinfra.api import StringCommand
from pyinfra.connectors.docker import DockerConnector

from celery_pi import shell_session
from celery_pi.shell_session import LOST, Answer, ShellSession
from tests.fake import LocalShell, Programs, machine
from tests.test_bulk_facts_fast import QUESTIONS

pytestmark = pytest.mark.fast

PLAIN = {"_shell_executable": "sh", "_success_exit_codes": [0], "_sudo": False, "_stdin": None}
# Stands for docker, whose container is this machine: `docker exec -i NAME COMMAND...`.
DOCKER = 'shift 3; exec "$@"'


@dataclass
class Docker:
    """A session in a container, and a shell of this machine to compare it with."""

    programs: Programs
    session: ShellSession
    alone: LocalShell

    def ask(self, text: str, sent: str = "", **more: Any) -> Answer | None:
        return self.session.run(StringCommand(text), {**PLAIN, "_stdin": sent, **more})

    def lines(self, text: str, sent: str = "") -> list[str]:
        """What a command says, which must succeed."""
        answer = self.ask(text, sent)
        assert answer
        assert answer[0], answer[1].output
        return answer[1].output_lines


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    programs = Programs(tmp_path, monkeypatch)
    programs.add("docker", DOCKER)
    state, host = machine("@local", {})
    connector = DockerConnector(state, host)
    connector.container_id = "pi"
    return Docker(programs, ShellSession(host, connector), LocalShell(state, host))


@pytest.mark.parametrize("text", QUESTIONS.values(), ids=QUESTIONS)
def test_command_says_what_it_says_by_itself(docker: Docker, text: str) -> None:
    answer = docker.ask(text)
    assert answer
    done, said = docker.alone.run_shell_command(StringCommand(text))
    assert answer[0] == done
    assert answer[1].stdout_lines == said.stdout_lines
    assert answer[1].stderr_lines == said.stderr_lines


def test_all_commands_are_run_by_one_process_and_none_sees_another(docker: Docker) -> None:
    assert docker.lines("seen=1; cd /; umask 077; exec 3>&1; echo one") == ["one"]
    assert docker.lines("echo ${seen:-new} $(umask)") == [f"new {docker.lines('umask')[0]}"]
    assert docker.lines("pwd") == [str(Path.cwd())]
    calls = [line for line in docker.programs.calls() if line.startswith("docker ")]
    assert len(calls) == 1


@pytest.mark.parametrize("sent", ["one", "one\n", "é\n\n", "x" * 300_000])
def test_input_arrives_as_pyinfra_sends_it(docker: Docker, sent: str) -> None:
    whole = sent if sent.endswith("\n") else sent + "\n"
    assert docker.lines("cat", sent) == whole.splitlines()
    assert docker.lines("wc -c", sent) == [str(len(whole.encode()))]


def test_input_that_is_not_read_is_no_command(docker: Docker) -> None:
    assert docker.lines("read -r line; echo $line", "first\n5 0\necho second\n") == ["first"]
    assert docker.lines("true", "5 0\necho second\n" * 20_000) == []
    assert docker.lines("echo third") == ["third"]


def test_much_is_said_while_much_is_sent(docker: Docker) -> None:
    say = "head -c 300000 /dev/zero | tr '\\0' x"
    (line,) = docker.lines(f"{say}; wc -c >/dev/null", "y" * 300_000)
    assert len(line) == 300_000


@pytest.mark.parametrize(("good", "is_good"), [([3], True), ([0, 3], True), ([0], False)])
def test_status_is_judged_by_what_is_said_to_be_good(
    docker: Docker, good: list[int], is_good: bool
) -> None:
    answer = docker.ask("exit 3", _success_exit_codes=good)
    assert answer
    assert answer[0] is is_good


@pytest.mark.parametrize(
    "more", [{"_timeout": 5}, {"_get_pty": True}, {"_sudo": True}, {"_env": {"a": "b"}}]
)
def test_command_that_is_run_otherwise_is_not_run_here(
    docker: Docker, tmp_path: Path, more: dict[str, Any]
) -> None:
    assert docker.lines("true") == []
    assert docker.ask(f"touch {tmp_path}/run", **more) is None
    assert not (tmp_path / "run").exists()
    assert docker.lines("echo still there") == ["still there"]


def test_second_command_at_a_time_is_not_run_here(docker: Docker) -> None:
    docker.lines("true")
    first = gevent.spawn(docker.ask, "sleep 0.3; echo first")
    gevent.sleep(0.1)
    assert docker.ask("echo second") is None
    answer = first.get()
    assert answer
    assert answer[1].stdout_lines == ["first"]


def test_command_with_which_the_shell_was_lost_has_failed_and_the_next_go_by_themselves(
    docker: Docker,
) -> None:
    docker.lines("true")
    answer = docker.ask("echo one; kill -KILL $(ps -o ppid= $PPID) $PPID; sleep 0.1; echo two")
    assert answer
    assert not answer[0]
    assert LOST in answer[1].stderr_lines
    assert docker.ask("echo three") is None


def test_shell_that_does_not_start_has_run_nothing(docker: Docker) -> None:
    docker.programs.add("docker", "echo sudo: a password is required >&2; exit 1")
    assert docker.ask("true") is None


def test_other_connectors_run_commands_by_themselves() -> None:
    state, host = machine("@local", {})
    session = ShellSession(host, LocalShell(state, host))
    assert session.run(StringCommand("true"), PLAIN) is None


@pytest.mark.parametrize("text", ["cat /dev/zero", "yes", "yes >&2"])
def test_machine_that_never_ends_is_not_listened_to_without_end(
    docker: Docker, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(shell_session, "MOST", 2**20)
    with pytest.raises(OSError, match="@local says more than 1 MiB to one command"):
        docker.ask(text)
    assert docker.ask("true") is None, "each command goes by itself from here on"
