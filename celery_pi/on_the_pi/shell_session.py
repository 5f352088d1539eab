"""Runs shell commands on the Pi, for a `ShellSession` and for the fact cache.

A part of a command may run as another user. That user can get hold of the pipe it writes to
(pidfd_getfd(2)) and write what looks like anything. So each command has pipes of its own, from
which is read what they hold when it has ended, and no more. Output travels with its length or in
base64: no content can end it, or pass for the output of another command.

This module imports nothing of its package: its text is sent to `python3 -I -S -c`.

    session             the first line of standard input is printed; then the commands come:
                        "SIZE SENT" with a line's end, text and input of these sizes in bytes. The
                        answer is any number of "out SIZE" or "err SIZE", each with a line's end
                        and that many bytes, and then "end STATUS"
    facts FILE DONE...  runs the commands in the file, two at a time, but for those of the digests
                        DONE. JSON: `file`, the SHA-256 of the file, and `answers`: status, output
                        and errors (base64) by digest
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import selectors
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from functools import cache
from hashlib import sha256
from threading import Thread

BLOCK = 2**16
MAX_ANSWER = 8 * 2**20  # bytes of one fact; a longer one is left out, and so read by itself
# The text of a fact is in no argument, where another one that looks for processes would find it.
FACT = b'celery_pi=$CELERY_PI; unset CELERY_PI; eval "$celery_pi"'
CANNOT_RUN = 126  # exit status, as in a shell
LINE = re.compile(
    rb'^([0-9a-f]{64}) (".*")\n', re.MULTILINE
)  # of the file: digest and text of a command, in JSON

Take = Callable[[str, bytes], None]


@cache
def environment() -> dict[str, str]:
    """That in which this program was started: Python has put LC_CTYPE into its own (PEP 538)."""
    with open("/proc/self/environ", "rb") as file:  # noqa: PTH123
        pairs = (os.fsdecode(pair).partition("=") for pair in file.read().split(b"\0") if pair)
        return {name: value for name, _, value in pairs}


def run(text: bytes, stdin: bytes, take: Take, **variables: str) -> int:
    """Run the command in a shell of its own, with these environment variables; its exit status.

    `take` is called with "out" or "err" and what it has printed there. Input that it leaves unread
    is discarded. A process that it leaves behind is not waited for.
    """
    try:
        process = subprocess.Popen(
            ("sh", "-c", text),
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**environment(), **variables},
        )
    except OSError as error:
        take("err", f"sh: {error.strerror}\n".encode())
        return CANNOT_RUN
    with process:
        assert process.stdout
        assert process.stderr
        names = {process.stdout.fileno(): "out", process.stderr.fileno(): "err"}
        _relay(process, stdin, names, take)
        for fd, name in names.items():
            for block in _buffered(fd):
                take(name, block)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _relay(
    process: subprocess.Popen[bytes], stdin: bytes, names: dict[int, str], take: Take
) -> None:
    """Write its input and read its output until it has ended."""
    left = memoryview(stdin)
    ended = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            for fd in (ended, *names):
                selector.register(fd, selectors.EVENT_READ)
            if process.stdin:
                os.set_blocking(process.stdin.fileno(), False)
                selector.register(process.stdin.fileno(), selectors.EVENT_WRITE)
            while True:
                ready = {key.fd for key, _ in selector.select()}
                if ended in ready:
                    return
                for fd in ready & names.keys():
                    if block := os.read(fd, BLOCK):
                        take(names[fd], block)
                    else:
                        selector.unregister(fd)
                if process.stdin and ready - names.keys():
                    try:
                        left = left[os.write(process.stdin.fileno(), left[:BLOCK]) :]
                    except BrokenPipeError:  # it does not want the rest
                        left = left[:0]
                    if not left:
                        selector.unregister(process.stdin.fileno())
                        process.stdin.close()
                        process.stdin = None
    finally:
        os.close(ended)


def _buffered(fd: int) -> Iterator[bytes]:
    """What is in the pipe now; whoever has it open may go on writing for ever."""
    size = int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)
    while size > 0 and (block := os.read(fd, min(size, BLOCK))):
        size -= len(block)
        yield block


def session() -> None:
    """Run what comes by standard input until that ends."""
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer

    def take(name: str, block: bytes) -> None:
        stdout.write(b"%s %d\n%s" % (name.encode(), len(block), block))
        stdout.flush()

    stdout.write(b"\n" + stdin.readline())
    stdout.flush()
    while line := stdin.readline():
        size, stdin_size = map(int, line.split())
        status = run(stdin.read(size), stdin.read(stdin_size), take)
        stdout.write(b"end %d\n" % status)
        stdout.flush()


def facts(path: str, *done: str) -> None:
    """Print the answers. A line of the file that is none of ours, or was cut off, is left out."""
    with open(path, "rb") as file:  # noqa: PTH123
        content = file.read()
    commands = {match[1].decode(): json.loads(match[2]) for match in LINE.finditer(content)}
    pending = iter([item for item in commands.items() if item[0] not in done])
    answers: dict[str, tuple[int, str, str]] = {}

    def work() -> None:
        for digest, text in pending:
            if answer := _fact(text):
                answers[digest] = answer

    thread = Thread(target=work)
    thread.start()
    work()
    thread.join()
    print(json.dumps({"file": sha256(content).hexdigest(), "answers": answers}))


def _fact(text: str) -> tuple[int, str, str] | None:
    """Status, output and errors of a command."""
    blocks_by_name: dict[str, list[bytes]] = {"out": [], "err": []}
    size = 0

    def take(name: str, block: bytes) -> None:
        nonlocal size
        size += len(block)
        if size <= MAX_ANSWER:
            blocks_by_name[name].append(block)

    status = run(FACT, b"", take, CELERY_PI=text)
    if size > MAX_ANSWER:
        return None
    out, err = (base64.b64encode(b"".join(blocks)).decode() for blocks in blocks_by_name.values())
    return status, out, err


if __name__ == "__main__":
    if sys.argv[1] == "session":
        session()
    else:
        facts(*sys.argv[2:])
