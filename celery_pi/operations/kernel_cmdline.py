"""Words on the kernel's command line: with a bad line, nothing boots."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Generator, Sequence

from pyinfra import host, state
from pyinfra.api import FactBase, QuoteString, StringCommand, operation

from celery_pi.plan import details, will
from celery_pi.shell import assign, script

WRITE = script("kernel_cmdline_write")


class KernelCmdline(FactBase[bytes]):
    """The file's bytes; none of a file that is missing or empty."""

    @staticmethod
    def default() -> bytes:
        return b""

    def command(self, path: str) -> StringCommand:
        name = QuoteString(path)
        return StringCommand("[ ! -e", name, "] || base64 -w0", name)

    def process(self, output: list[str]) -> bytes:
        return base64.b64decode("".join(output))


def refusal(line: bytes, words: Sequence[str]) -> str:
    """Why the line is better left to its owner; empty for one that may have the words added."""
    text = line.rstrip(b"\r\n")
    if not text.strip():
        return "there is no line in it"
    if b"\n" in text or b"\r" in text or b"\0" in text:
        return "it is not one line of text"
    present = text.decode("latin-1").split()
    if not any(word.startswith("root=") for word in present):
        return "it names no root="
    opposite = {word.replace("_enable=", "_disable=") for word in words} - set(words)
    return (
        f"it says {contradicting[0]}" if (contradicting := sorted(opposite & set(present))) else ""
    )


def with_words(line: bytes, words: Sequence[str]) -> bytes:
    """The line with those of the words that it lacks at its end; all else as it was."""
    text = line.rstrip(b"\r\n")
    present = text.decode("latin-1").split()
    for word in words:
        if word not in present:
            text += (b"" if text.endswith(b" ") else b" ") + word.encode()
    return text + line[len(line.rstrip(b"\r\n")) :]


@operation()
def kernel_cmdline(path: str, words: Sequence[str]) -> Generator[StringCommand]:
    """The boot loader's line has the words; they count from the next start.

    What it was at first is kept beside it. A line that looks like none is not touched.
    """
    line = host.get_fact(KernelCmdline, path=path)
    reason = refusal(line, words)
    new_line = with_words(line, words)
    if reason or new_line == line:
        host.noop(reason or f"{path} has {' '.join(words)}")
        return
    added = new_line[len(line.rstrip(b"\r\n")) :].decode("latin-1").strip()
    will(host, "change", path, f"adds {added}, from the next start on")
    if state.config.DIFF:
        details(host, f"Will add {added} to {path}")
    yield StringCommand(
        assign(path=path, digest=hashlib.sha256(new_line).hexdigest()),
        WRITE,
        _stdin=base64.encodebytes(new_line).decode(),
    )
