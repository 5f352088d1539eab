"""Shell on the target: its texts, run without echo, and the replacement of a file in one step.

A text of more than four lines is a `.sh` file beside this module, which `make lint` has shellcheck
check. `script` reads them; several of them may make one command. Values, such as a path, stand
before them as assignments (`assign`). The comment at the head of a file is not sent.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pyinfra.api import QuoteString, StringCommand
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.exceptions import OperationError

if TYPE_CHECKING:
    from pyinfra.api.host import Host

TEXTS = Path(__file__).parent
HEAD = re.compile(r"\A(?:#.*\n)*")
DIRECTIVE = re.compile(r"^ *# shellcheck .*\n", re.MULTILINE)


def script(*names: str) -> str:
    """Texts of these `.sh` files, one after the other, without their heads and without directives
    for shellcheck."""
    texts = ((TEXTS / f"{name}.sh").read_text(encoding="utf-8") for name in names)
    return "".join(f"\n{DIRECTIVE.sub('', HEAD.sub('', text))}" for text in texts)


ANNOUNCED = "celery_pi_announced_writes"
DECLARED = "celery_pi_declared_files"
SENTENCE = "celery-pi: "  # begins the reason of a program of ours that fails, which holds no secret

REPLACE = "set -e\n" + script("is_ours", "keep", "replace_files")


def assign(**values: str) -> StringCommand:
    """Shell assignments, each value quoted: `path=/etc/x mode=0644 ;`."""
    bits = [
        StringCommand(f"{key}=", QuoteString(text), _separator="") for key, text in values.items()
    ]
    return StringCommand(*bits, ";")


def python_program(text: str, *words: str | StringCommand) -> StringCommand:
    """Command that runs the text of a module, which imports the standard library alone.

    Without `-S` Python would look for packages, which takes longer than it takes to start.
    """
    bits = (QuoteString(word) if isinstance(word, str) else word for word in words)
    return StringCommand("/usr/bin/python3 -I -S -c", QuoteString(text), *bits)


class Replacement(NamedTuple):
    """What is to stand at a path. `mode` is octal text, such as "0644". `check` is a shell command
    in which "$NEW" is the candidate; if it fails, the live file stays as it was."""

    path: str
    content: bytes
    user: str
    group: str
    mode: str
    check: str = ""


def replace_files(files: Sequence[Replacement]) -> StringCommand:
    """Command that puts each content at its path, one after the other, whole or not at all; in
    directories of root's, where nobody can lead it astray.

    The contents travel by standard input, so they show neither in argv nor in any output, and in
    base64, so that every byte arrives. The first that fails is the last that is tried.
    """
    bits: list[str | StringCommand] = [REPLACE]
    texts = []
    for file in files:
        text = base64.encodebytes(file.content).decode()
        values = assign(
            path=file.path,
            owner=f"{file.user}:{file.group}",
            mode=file.mode,
            check=file.check,
            sent=str(len(text)),
            size=str(len(file.content)),
        )
        bits += [values, "replace;"]
        texts.append(text)
    return StringCommand(*bits, _stdin="".join(texts))


def replace_file(
    path: str, content: bytes, *, user: str, group: str, mode: str, check: str = ""
) -> StringCommand:
    """The same for one file."""
    return replace_files([Replacement(path, content, user, group, mode, check)])


def declare(host: Host, files: Mapping[str, list[str] | None]) -> None:
    """Note, while planning, how this run has each file, whether it writes it or not: its mode,
    user, group and SHA-256, which is a dash for a secret; nothing for one that it removes."""
    host.connector_data.setdefault(DECLARED, {}).update(files)


def declared(host: Host) -> dict[str, list[str] | None]:
    """All that was declared, by path."""
    return cast("dict[str, list[str] | None]", host.connector_data.get(DECLARED, {}))


def announce_write(host: Host, path: str) -> None:
    """Note, while planning, that this run will give the file another content."""
    host.connector_data.setdefault(ANNOUNCED, set()).add(path)


def is_announced(host: Host, path: str) -> bool:
    """Whether this run has planned to write the file and has not come to it yet.

    Once the run is under way, the disk decides.
    """
    return not host.state.is_executing and path in host.connector_data.get(ANNOUNCED, ())


def announce_restart(host: Host, unit: str) -> None:
    """Note, while planning, that this run will start the unit again."""
    announce_write(host, f"unit {unit}")


def restart_is_announced(host: Host, unit: str) -> bool:
    """Whether this run has planned to start the unit again and has not come to it yet."""
    return is_announced(host, f"unit {unit}")


def read_quietly(host: Host, command: StringCommand) -> str:
    """Output of a command that prints secrets; it is shown at no verbosity.

    A fact would echo it at `-vvv` and whenever the command fails. Raises OperationError when the
    command fails, with no more of the output than the sentence of a program of ours (`SENTENCE`).
    """
    given_arguments = dict(cast("dict[str, Any]", host.current_op_global_arguments or {}))
    all_arguments, _ = pop_global_arguments(host.state, host, given_arguments)
    arguments = {
        key: value for key, value in all_arguments.items() if key in CONNECTOR_ARGUMENT_KEYS
    }
    succeeded, output = host.run_shell_command(
        command,
        print_output=False,
        print_input=False,
        **{**arguments, **command.connector_arguments},
    )
    if not succeeded:
        reasons = [line for line in output.stderr_lines if line.startswith(SENTENCE)]
        last = reasons[-1] if reasons else "a command that reads secrets failed"
        reason = last.removeprefix(SENTENCE)
        raise OperationError(f"{host.name}: {reason}")
    return output.stdout
