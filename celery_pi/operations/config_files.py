"""Configuration files as state: all of a component's files in one operation, one round trip."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pyinfra import host, state
from pyinfra.api import FactBase, QuoteString, StringCommand, operation
from pyinfra.api.operation import OperationMeta
from pyinfra.facts.files import FileContents
from pyinfra.operations.util.files import generate_color_diff

from celery_pi.before import DIRECTORY, IS_OURS
from celery_pi.plan import details, will, will_write
from celery_pi.shell import Replacement, announce_write, declare, replace_files


@dataclass(frozen=True)
class ConfigFile:
    """A file that is ours from its first byte to its last.

    `check` is a shell command that judges the candidate "$NEW" before it goes live. The diff of
    a `secret` file shows only that it differs. `mode` is octal text.
    """

    path: str
    content: str = field(repr=False)
    mode: str = "0644"
    user: str = "root"
    group: str = "root"
    secret: bool = False
    check: str = ""

    @property
    def state(self) -> FileState:
        """What the target shows once the file is in place."""
        digest = hashlib.sha256(self.content.encode()).hexdigest()
        return FileState(self.mode.lstrip("0"), self.user, self.group, digest)

    @property
    def replacement(self) -> Replacement:
        """What is to stand at the path."""
        content = self.content.encode()
        return Replacement(self.path, content, self.user, self.group, self.mode, self.check)

    @property
    def public_digest(self) -> str:
        """Digest for the manifest; a dash for a secret, which could be guessed by its digest."""
        return "-" if self.secret else self.state.sha256


class FileState(NamedTuple):
    """Mode (octal, no leading zero), owner, group and SHA-256 of a regular file."""

    mode: str
    user: str
    group: str
    sha256: str


SHOW_OWNERS = """; do
  [ ! -e "$path" ] || is_ours "$path" || [ -e "$before/files$path" ] || echo "$path"
done
"""


class FileStates(FactBase[dict[str, FileState]]):
    """State of those of the paths that are regular files, read in one command."""

    default = dict

    def command(self, paths: Sequence[str]) -> StringCommand:
        quoted = [QuoteString(path) for path in paths]
        # A missing file is an answer, not an error, so neither the complaints nor the exit
        # status count.
        return StringCommand(
            *("stat -c '%F|%a|%U|%G|%n' --", *quoted, "2>/dev/null;"),
            *("sha256sum --", *quoted, "2>/dev/null || true"),
        )

    def process(self, output: list[str]) -> dict[str, FileState]:
        sums = (line.partition("  ") for line in output if "|" not in line)
        digests = {path: digest for digest, _, path in sums}
        states = {}
        for line in output:
            kind, _, rest = line.partition("|")
            # A link is not the file that was declared, whatever it leads to.
            if kind in ("regular file", "regular empty file"):
                mode, user, group, path = rest.split("|", 3)
                states[path] = FileState(mode, user, group, digests[path])
        return states


class OwnersFiles(FactBase[list[str]]):
    """Those of the paths where something is that no deploy has put there."""

    default = list

    def command(self, paths: Sequence[str]) -> StringCommand:
        quoted = [QuoteString(path) for path in paths]
        return StringCommand(IS_OURS, "for path in", *quoted, SHOW_OWNERS)

    def process(self, output: list[str]) -> list[str]:
        return output


def config_files(name: str, files: Sequence[ConfigFile]) -> OperationMeta:
    """Each file has its declared content, owner and mode; parents are made 0755 root.

    Fails, with the live file untouched, when a file's check refuses the candidate.
    """
    declare(host, {file.path: [*file.state[:3], file.public_digest] for file in files})
    return _config_files(name=name, files=files)


@operation()
def _config_files(files: Sequence[ConfigFile]) -> Generator[StringCommand]:
    states = host.get_fact(FileStates, paths=[file.path for file in files])
    stale = [file for file in files if states.get(file.path) != file.state]
    existing = [file.path for file in stale if file.path in states]
    if existing and not state.is_executing:
        for path in host.get_fact(OwnersFiles, paths=existing):
            will(host, "replace", path, f"a copy stays in {DIRECTORY}")
    for file in stale:
        if _has_other_content(file, states.get(file.path)):
            announce_write(host, file.path)
        _show_change(file, states.get(file.path))
    rewritten = [file for file in stale if _has_other_content(file, states.get(file.path))]
    if rewritten:
        yield replace_files([file.replacement for file in rewritten])
    for file in stale:
        if file not in rewritten:
            yield _mend(file)
    if not stale:
        host.noop("all files are as declared")


def _has_other_content(file: ConfigFile, current: FileState | None) -> bool:
    return current is None or current.sha256 != file.state.sha256


def _mend(file: ConfigFile) -> StringCommand:
    """Command that sets only owner and mode, because the content is right: no reader restarts."""
    path, owner = QuoteString(file.path), QuoteString(f"{file.user}:{file.group}")
    return StringCommand("chown", owner, path, "&& chmod", file.mode, path)


def _show_change(file: ConfigFile, current: FileState | None) -> None:
    """Log the change as pyinfra's own file operations do, at `--diff` only; of a file that is
    only counted, nothing."""
    is_counted = will_write(host, file.path, is_new=current is None)
    if is_counted or not state.config.DIFF:
        return
    lines = []
    if current and current[:3] != file.state[:3]:
        lines.append(f"mode and owner: {' '.join(current[:3])} -> {' '.join(file.state[:3])}")
    if _has_other_content(file, current):
        lines += _differences(file, current)
    details(host, f"Will {'modify' if current else 'create'} {file.path}", lines)


def _differences(file: ConfigFile, current: FileState | None) -> list[str]:
    if file.secret:
        return ["(secret: the content differs and is not shown)"]
    before = (host.get_fact(FileContents, path=file.path) or []) if current else []
    return list(generate_color_diff(before, file.content.splitlines()))
