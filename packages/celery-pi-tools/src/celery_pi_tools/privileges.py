"""Managed by celery-pi. How root works as another user, or where another user may write.

Two rules, for every root program of ours and for the deploy:

- A process of another user gets nothing of root's: no terminal, no descriptor but its own three, no
  environment, no session (`run`).
- Root follows no name that another user can change. There the path is opened by the user for whom
  root works, or by the only user who can change the whole path; never by whoever owns its target,
  to which somebody else may have made a link. That process opens the directory and root verifies
  the descriptor (`place`). The file is then read and changed by its own descriptor (`show`,
  `give`). A file of root's, or of a third user's, is given to nobody.

This module imports nothing of its package: the deploy sends its text to `python3 -I -c`. The same
commands work on the Pi, as root:

    run USER COMMAND...              runs the command as that user; prints 1 MiB at most
    own PATH SECONDS [--by FILE]... COMMAND...
                                     runs it, with standard input, as the owner of the directory;
                                     as root only if nobody else may change that or a FILE
    show USER PATH                   JSON: mode, user, group and content (base64) of a file, or {}
    replace USER GROUP MODE PATH     replaces its content by standard input, atomically
    give USER GROUP MODE PATH        sets owners and mode (a dash keeps the mode)
    judge USER GROUP MODE PATH       fails if `give` would, and changes nothing
    make USER GROUP MODE PATH        makes a directory with these owners; an existing mode stays

USER is the user who is to have the file. Exit status: 0, or 1 and one sentence.
"""

from __future__ import annotations

import base64
import json
import os
import selectors
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from grp import getgrgid, getgrnam
from pwd import getpwall, getpwnam, getpwuid
from typing import IO, Any, NamedTuple, TextIO

MIB = 2**20
PATIENCE = 10  # seconds for a file; a process whose file system hangs is killed
GRACE = 1  # seconds for the rest of what a process printed that has ended
BLOCK = 2**16
LINKS = 40  # as many as the kernel follows
PYTHON = "/usr/bin/python3"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MISSING, REFUSED = 3, 4  # exit statuses of a child


class Refused(Exception):
    """Why root refuses, in one sentence without a secret."""


class Failed(Refused):
    """The last line that a program printed when it failed."""


class Account(NamedTuple):
    """A user and all groups of that user."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def account(user: str) -> Account:
    """The user of that name. Raises Refused."""
    try:
        entry = getpwnam(user)
    except KeyError:
        raise Refused(f"there is no user {user}") from None
    groups = tuple(os.getgrouplist(user, entry.pw_gid))
    return Account(user, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir)


# -- running


class Done(NamedTuple):
    """Exit status and output of a process."""

    status: int
    out: bytes
    err: bytes

    @property
    def last_words(self) -> str:
        """The last line of its standard error, or else of its output."""
        lines = (self.err.strip() or self.out.strip()).decode(errors="replace").splitlines()
        return lines[-1] if lines else f"ended with status {self.status}"


def become(
    user: str,
    environment: Mapping[str, str] | None = None,
    cwd: str = "/",
    umask: int = 0o077,
    groups: Sequence[int] = (),
) -> dict[str, Any]:
    """Arguments by which `subprocess` starts a process of that user with nothing of root's. The
    caller adds input and output. `groups` are added to the user's."""
    owner = account(user)
    own = {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": owner.home, "USER": user, "LOGNAME": user}
    return {
        **{"user": owner.uid, "group": owner.gid, "extra_groups": (*owner.groups, *groups)},
        **{"umask": umask, "cwd": cwd, "env": {**own, **(environment or {})}},
        **{"start_new_session": True, "close_fds": True},
    }


def attempt(
    user: str,
    command: Sequence[str],
    *,
    input: bytes = b"",
    stdin: IO[bytes] | int | None = None,
    sink: IO[bytes] | None = None,
    timeout: float = 60,
    limit: int = MIB,
    **more: Any,
) -> Done:
    """Runs a command as that user to its end, whatever its status.

    Its standard input is `input`, or the file that root has opened as `stdin`, or empty. What it
    prints goes to `sink`, a file of root's, or is returned. Raises Refused when it takes more than
    `timeout` seconds or prints more than `limit` bytes; it is killed then. `more` is for `become`.
    """
    standard_input = (
        stdin if stdin is not None else subprocess.PIPE if input else subprocess.DEVNULL
    )
    try:
        process = subprocess.Popen(
            command,
            stdin=standard_input,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **become(user, **more),
        )
    except FileNotFoundError:
        raise Refused(f"{command[0]} is not installed") from None
    try:
        out, err = _exchange(process, input, sink, timeout, limit)
    except TimeoutError:
        raise Refused(f"{_name(command)} does not end within {timeout:g} s") from None
    except OverflowError:
        raise Refused(f"{_name(command)} prints more than {limit} bytes") from None
    finally:
        _end(process, user)
    if process.returncode is None:
        raise Refused(f"{_name(command)} is kept from ending")
    return Done(process.returncode, out, err)


def run(user: str, command: Sequence[str], **options: Any) -> bytes:
    """What the command prints; `options` are those of `attempt`. Raises Failed when its status is
    not 0, and Refused."""
    done = attempt(user, command, **options)
    if done.status:
        raise Failed(f"{_name(command)}: {done.last_words.removeprefix('celery-pi: ')}")
    return done.out


def _name(command: Sequence[str]) -> str:
    return os.path.basename(command[0])  # noqa: PTH119


def _exchange(
    process: subprocess.Popen[bytes],
    stdin_content: bytes,
    sink: IO[bytes] | None,
    timeout: float,
    limit: int,
) -> tuple[bytes, bytes]:
    """Writes its input and reads its output until it has ended. A process that has left its session
    may keep the pipes open: they are read for GRACE seconds more."""
    deadline, ended = time.monotonic() + timeout, False
    assert process.stdout
    assert process.stderr
    parts: dict[int, list[bytes]] = {process.stdout.fileno(): [], process.stderr.fileno(): []}
    out, err = parts
    size, left = 0, memoryview(stdin_content)
    with selectors.DefaultSelector() as selector:
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                os.set_blocking(pipe.fileno(), False)
                reads = pipe.fileno() in parts
                selector.register(pipe, selectors.EVENT_READ if reads else selectors.EVENT_WRITE)
        while selector.get_map():
            now = time.monotonic()
            if not ended and _has_ended(process):
                ended, deadline = True, min(deadline, now + GRACE)
            if now > deadline:
                break
            for key, _ in selector.select(min(0.1, max(0.0, deadline - now))):
                if key.fd not in parts:
                    with suppress(BrokenPipeError):  # it does not want the rest
                        left = left[os.write(key.fd, left[:BLOCK]) :]
                        if left:
                            continue
                    selector.unregister(key.fileobj)
                    assert process.stdin
                    process.stdin.close()
                elif block := os.read(key.fd, BLOCK):
                    size += len(block)
                    if size > limit:
                        raise OverflowError
                    if sink and key.fd == out:
                        sink.write(block)
                    else:
                        parts[key.fd].append(block)
                else:
                    selector.unregister(key.fileobj)
    while not _has_ended(process):
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.002)
    return b"".join(parts[out]), b"".join(parts[err])


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended. Its status is not collected, so that its PID is not reused."""
    how = os.WEXITED | os.WNOWAIT | os.WNOHANG
    return os.waitid(os.P_PID, process.pid, how) is not None


def _end(process: subprocess.Popen[bytes], user: str) -> None:
    """Kills its whole session; as the user where root lacks CAP_KILL."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError:
        kill = ("kill", "-KILL", "--", f"-{process.pid}")
        subprocess.run(
            kill, stdin=subprocess.DEVNULL, capture_output=True, check=False, **become(user)
        )
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe:
            pipe.close()
    with suppress(subprocess.TimeoutExpired):  # another process of his traces it and keeps it
        process.wait(timeout=PATIENCE)


# -- files of another user's


def read(user: str, path: str, limit: int = MIB, timeout: float = PATIENCE) -> bytes:
    """Content of a regular file as that user reads it, who may follow links of his own.

    Raises FileNotFoundError, and Refused for all that is no regular file, is larger than `limit`
    bytes, cannot be read by him or takes more than `timeout` seconds. Root reads only where nobody
    else can change where the path leads: `show` is for elsewhere.
    """
    if user == "root" and (steps := " ".join(foreign_steps(path))):
        raise Refused(f"{path}: root does not read it, since others may change {steps}")
    most = limit + BLOCK
    return _answer(
        attempt(user, _child("read", path, str(limit)), limit=most, timeout=timeout), path
    )


def may_write(user: str, path: str) -> bool:
    """Whether that user may write the file, or make and remove files in the directory."""
    return attempt(user, _child("writable", path), timeout=PATIENCE).status == 0


def show(path: str, user: str, limit: int = MIB) -> tuple[os.stat_result, bytes] | None:
    """State and content of the file that the path leads to; None where nothing is.

    Both are of one descriptor. It is read by its owner, if he is the user or the owner of the way
    to it, else by the user. Raises Refused.
    """
    with place(path, user) as location:
        try:
            fd = location.entry()
        except FileNotFoundError:
            return None
        try:
            state = os.fstat(fd)
            if not stat.S_ISREG(state.st_mode):
                raise Refused(f"{path} is no regular file")
            owner = user_name(state.st_uid)
            reader = owner if owner in (user, location.writer) else user
            command = _child("read", "/proc/self/fd/0", str(limit), path)
            done = attempt(reader, command, stdin=fd, limit=limit + BLOCK, timeout=PATIENCE)
        finally:
            os.close(fd)
    if done.status == REFUSED and reader != owner and not done.out:
        raise Refused(f"{done.last_words}; it is {owner}'s: chown {user} {path}")
    return state, _answer(done, path)


class Place(NamedTuple):
    """Where a path leads: a descriptor of the directory, the name in it, who else may write there
    (`root` when nobody)."""

    fd: int
    name: str
    writer: str

    def entry(self) -> int:
        """A descriptor of what has that name there, itself and not what a link leads to; it is not
        opened, whatever it is. Raises Refused, FileNotFoundError."""
        fd = os.open(self.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        if not _is_mounted_here(fd):
            os.close(fd)
            raise Refused(f"{self.name} is what another user has mounted there")
        return fd

    def is_there(self) -> bool:
        """Whether anything has that name."""
        try:
            os.close(self.entry())
        except FileNotFoundError:
            return False
        return True


@contextmanager
def place(path: str, user: str, follow: bool = True) -> Iterator[Place]:
    """The place of a path that is to hold something of that user's.

    Links are followed, the last name only with `follow`. Where none but root may change a
    step, root goes there. Else the user does, or the one who alone may change every step that root
    alone may not; and only into a directory that he may write: what root then does in it, he could
    have done, and nobody else can have led him there. Raises Refused, as behind a link into a
    directory of root's or of a third user, and FileNotFoundError.
    """
    if is_roots_alone(path, follow):
        directory, name = _split(path, follow)
        fd, writer = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), "root"
    else:
        fd, name, writer = _found_by_others(path, user, follow)
    try:
        yield Place(fd, name, writer)
    finally:
        os.close(fd)


def _split(path: str, follow: bool) -> tuple[str, str]:
    """Real directory and name of a path."""
    if follow:
        return os.path.split(os.path.realpath(path))
    directory, name = os.path.split(path.rstrip("/"))
    return os.path.realpath(directory), name


def _found_by_others(path: str, user: str, follow: bool) -> tuple[int, str, str]:
    # What the names say now is a guess, which the descriptor has to confirm.
    state = os.stat(_split(path, follow)[0])  # noqa: PTH116
    for who in dict.fromkeys((user, sole_owner(path, follow))):
        if who not in ("", "root") and _is_open_to(account(who), state):
            return (*_directory(who, path, follow), who)
    raise Refused(f"{path} leads into a directory that {user} may not write, nor its owner alone")


def sole_owner(path: str, follow: bool = True) -> str:
    """Who alone, beside root, may change a step of the way to the path; empty where several may."""
    steps = list(foreign_steps(path, follow))
    states = [os.stat(step) for step in steps]  # noqa: PTH116
    if any(map(_has_acl, steps)) or any(map(_others_beside, states)):
        return ""
    writers = {others_in(state) for state in states}
    return writers.pop() if len(writers) == 1 else ""


def _others_beside(state: os.stat_result) -> bool:
    """Whether others than its owner and root may write the directory."""
    by_group = state.st_mode & 0o020 and _has_members(state.st_gid, beside=state.st_uid)
    return bool(state.st_mode & 0o002 or by_group)


def _directory(user: str, path: str, follow: bool) -> tuple[int, str]:
    """Descriptor of the directory to which the path leads that user, and the name in it.

    He may make the process send another descriptor: it is judged here.
    """
    who = account(user)
    own_end, child_end = socket.socketpair()
    with own_end, child_end:
        own_end.settimeout(PATIENCE)
        command = _child("directory", path, "follow" if follow else "")
        done = attempt(user, command, stdin=child_end.fileno(), timeout=PATIENCE)
        name = os.fsdecode(_answer(done, path))
        _, fds, _, _ = socket.recv_fds(own_end, 1, 1, socket.MSG_DONTWAIT)
    if not fds:
        raise Refused(f"{path} is in no directory")
    state = os.fstat(fds[0])
    is_open = stat.S_ISDIR(state.st_mode) and _is_open_to(who, state) and _is_mounted_here(fds[0])
    # By its mode: what an access control list adds or takes, that does not show.
    if (
        not is_open
        or (state.st_uid != who.uid and _has_acl(fds[0]))
        or name in _NO_NAMES
        or "/" in name
    ):
        os.close(fds[0])
        raise Refused(f"{path} is in a directory that {user} may not write")
    return fds[0], name


_NO_NAMES = ("", ".", "..")


def _is_mounted_here(fd: int) -> bool:
    """Whether it lies on what is mounted in root's own namespace: in one of his own, a user may
    mount what he likes wherever he likes, and lead root there by a descriptor."""
    with open(f"/proc/self/fdinfo/{fd}") as file:  # noqa: PTH123
        fields = dict(line.split(":", 1) for line in file)
    with open("/proc/self/mountinfo") as file:  # noqa: PTH123
        return fields["mnt_id"].strip() in {line.split(" ", 1)[0] for line in file}


def _has_acl(directory: str | int) -> bool:
    """Whether it has an access control list, which its mode does not show."""
    try:
        os.getxattr(directory, "system.posix_acl_access")
    except OSError:
        return False
    return True


def _is_open_to(who: Account, directory: os.stat_result) -> bool:
    """Whether that user may make and remove any file in the directory, by its mode."""
    if directory.st_uid == who.uid:
        return bool(directory.st_mode & 0o200)
    if directory.st_mode & stat.S_ISVTX:
        return False  # what is another's in it, he may not replace
    return bool(directory.st_mode & (0o020 if directory.st_gid in who.groups else 0o002))


def is_roots_alone(path: str, follow: bool = True) -> bool:
    """Whether nobody but root can change where the path leads, or whether anything is there."""
    return next(foreign_steps(path, follow), None) is None


def foreign_steps(path: str, follow: bool = True) -> Iterator[str]:
    """Directories on the way to the path, links followed, in which others than root can change the
    next step. Raises Refused for a circle of links."""
    here, left, links = "/", path.split("/"), 0
    while left:
        name = left.pop(0)
        if name in ("", "."):
            continue
        if name == "..":
            here = os.path.dirname(here)  # noqa: PTH120
            continue
        entry = os.path.join(here, name)  # noqa: PTH118
        try:
            state: os.stat_result | None = os.lstat(entry)
        except OSError:
            state = None
        if not _is_roots(here, state):
            yield here
        if state and stat.S_ISLNK(state.st_mode) and (left or follow):
            links += 1
            if links > LINKS:
                raise Refused(f"{path} has too many links")
            target = os.readlink(entry)  # noqa: PTH115
            here, left = "/" if target.startswith("/") else here, [*target.split("/"), *left]
        else:
            here = entry


def _is_roots(directory: str, entry: os.stat_result | None) -> bool:
    """Whether none but root can change what has that name in the directory."""
    try:
        state = os.lstat(directory)
    except OSError:
        return True  # it is not there, so nothing is
    if state.st_uid != 0 or _has_acl(directory):
        return False
    if state.st_mode & stat.S_ISVTX and entry is not None and entry.st_uid == 0:
        return True
    by_group = state.st_mode & 0o020 and _has_members(state.st_gid)
    return not (state.st_mode & 0o002 or by_group)


def _has_members(gid: int, beside: int = 0) -> bool:
    """Whether the group is of anybody but root and that user; Debian's /usr/local is a group's that
    has none."""
    with suppress(KeyError):
        if set(getgrgid(gid).gr_mem) - {"root", user_name(beside)}:
            return True
    return any(each.pw_gid == gid and each.pw_uid not in (0, beside) for each in getpwall())


def others_in(state: os.stat_result) -> str:
    """Who else than root may write a file or directory with that state; empty when nobody."""
    if state.st_uid:
        return user_name(state.st_uid)
    if state.st_mode & 0o002:
        return "everybody"
    by_group = state.st_mode & 0o020 and _has_members(state.st_gid)
    return f"group {group_name(state.st_gid)}" if by_group else ""


# -- changes where another user may write


def replace(path: str, content: bytes, *, user: str, group: str = "", mode: int = 0o600) -> None:
    """Replaces the content of the path atomically, with these owners and mode.

    A link stays, and what it leads to is replaced. The file is nobody else's to read at any time.
    Raises Refused, OSError.
    """
    uid, gid = _owners(user, group)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with place(path, user) as location:
        new = f".celery-pi-{os.urandom(8).hex()}"
        try:
            with os.fdopen(os.open(new, flags, 0o600, dir_fd=location.fd), "wb") as file:
                file.write(content)
                file.flush()
                os.fchown(file.fileno(), uid, gid)
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            os.replace(new, location.name, src_dir_fd=location.fd, dst_dir_fd=location.fd)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(new, dir_fd=location.fd)
            raise
        os.fsync(location.fd)


def give(
    path: str, *, user: str, group: str = "", mode: int | None = None, dry: bool = False
) -> None:
    """Sets owners and mode of a file or directory itself; a link is refused. If `dry`, it is judged
    and left as it is.

    Where others may write the directory, they may have put there a file with a second name, or one
    of somebody else's than theirs: it is refused, but for an empty directory of root's. Raises
    Refused, FileNotFoundError, OSError.
    """
    uid, gid = _owners(user, group)
    with place(path, user, follow=False) as location:
        fd = location.entry()
        try:
            _judge(path, fd, user, location.writer)
            if dry:
                return
            itself = f"/proc/self/fd/{fd}"
            os.chown(itself, uid, gid)
            if mode is not None:
                os.chmod(itself, mode)  # noqa: PTH101
        finally:
            os.close(fd)


def _judge(path: str, fd: int, user: str, writer: str) -> None:
    state = os.fstat(fd)
    if stat.S_ISLNK(state.st_mode):
        raise Refused(f"{path} is a link: set owner and mode of what it leads to")
    is_file = stat.S_ISREG(state.st_mode)
    if not is_file and not stat.S_ISDIR(state.st_mode):
        raise Refused(f"{path} is neither a file nor a directory")
    if writer != "root" and is_file and state.st_nlink > 1:
        raise Refused(f"{path} has a second name")
    owner = user_name(state.st_uid)
    is_known = owner in (user, writer) or is_roots_empty_directory(f"/proc/self/fd/{fd}", state)
    if writer != "root" and not is_known:
        raise Refused(
            f"{path} is {owner}'s, and {writer} may have put it there: chown {user} {path}"
        )


def is_roots_empty_directory(path: str, state: os.stat_result) -> bool:
    """Whether the directory with that state is root's, none but root could have filled it, and it
    is empty.

    Only then may root give away what others may have put there. To move a directory to another
    one, one must be allowed to write it (rename(2), EACCES); but who may write the one that it lies
    in gives it another name, such as that of the app's to root's backups. An ACL by which somebody
    may write it shows in the group's bits (acl(5)).
    """
    if not stat.S_ISDIR(state.st_mode) or state.st_uid or state.st_mode & 0o022:
        return False
    with os.scandir(path) as entries:
        return next(entries, None) is None


def make(path: str, *, user: str, group: str = "", mode: int = 0o755) -> None:
    """A directory is there, with those above it, and has these owners; one that was there keeps its
    mode. Raises Refused, OSError."""
    above = os.path.dirname(path.rstrip("/"))  # noqa: PTH120
    if not os.path.isdir(above):  # noqa: PTH112
        make(above, user=user, group=group, mode=mode)
    with place(path, user, follow=False) as location:
        if not location.is_there():
            # By its own user, so that it is none of root's, which would not be given.
            run(location.writer, ("/usr/bin/mkdir", "-m", f"{mode:o}", "--", path))
    give(path, user=user, group=group)


def _owners(user: str, group: str) -> tuple[int, int]:
    who = account(user)
    try:
        return who.uid, getgrnam(group).gr_gid if group else who.gid
    except KeyError:
        raise Refused(f"there is no group {group}") from None


def owner(path: str) -> str:
    """As whom root works with what is at the path, which may lead him to run what lies there: its
    owner, or the owner of the directory in which it is to be; but where another may put something
    else in its place, that one. Raises Refused, FileNotFoundError."""
    try:
        state = os.lstat(path)
    except FileNotFoundError:
        state = os.stat(os.path.dirname(path.rstrip("/")) or ".")  # noqa: PTH116, PTH120
    if is_roots_alone(path):
        return user_name(state.st_uid)
    alone = sole_owner(path)
    if alone in ("", "everybody") or alone.startswith("group "):
        steps = " ".join(foreign_steps(path))
        raise Refused(f"{path} may be replaced by several users: chmod g-w,o-w {steps}")
    return alone


def runner(path: str, files: Sequence[str] = ()) -> str:
    """As whom root runs what lies in a directory, such as a Python environment: its `owner`.

    Where that is root, nobody else may change anything in it, what a link in it leads to, the
    Python that it was made with, or these files, by which it goes. Raises Refused.
    """
    who = owner(path)
    if who == "root":
        for part in (path, *_parts(path), *_base(path), *files):
            if others := _changers(part):
                raise Refused(
                    f"{path} is root's, but {' and '.join(others)} may change {part}: root runs "
                    f"nothing of others'; make it from what is root's, or: chown -R USER {path}"
                )
    return who


def _parts(path: str) -> Iterator[str]:
    """What in the directory is a link, or may be another's to change."""
    for directory, names, files in os.walk(path):
        for name in (*names, *files):
            entry = os.path.join(directory, name)  # noqa: PTH118
            state = os.lstat(entry)
            by_acl = state.st_mode & 0o020 and _has_acl(entry)
            if stat.S_ISLNK(state.st_mode) or by_acl or others_in(state):
                yield entry


def _base(path: str) -> list[str]:
    """Where the Python of an environment has its library, as that says; what is there is not looked
    through."""
    try:
        with open(f"{path}/pyvenv.cfg", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            lines = [line.partition("=") for line in file.read(MIB).splitlines()]
    except OSError:
        return []
    homes = [value.strip() for key, _, value in lines if key.strip() == "home" and value.strip()]
    return [part for home in homes for part in (home, f"{home}/../lib")]


def _changers(path: str) -> list[str]:
    """Who beside root may change where the path leads, or what is there."""
    places = list(foreign_steps(path))
    with suppress(OSError):
        writer = others_in(os.stat(path))  # noqa: PTH116
        if writer or _has_acl(path):
            places.append(path)
    names = {others_in(os.stat(place)) or "others" for place in places}  # noqa: PTH116
    return sorted(names)


def user_name(uid: int) -> str:
    """Name of the user; the number if there is none."""
    try:
        return getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """Name of the group; the number if there is none."""
    try:
        return getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


# -- the part that runs as the other user


def _child(*words: str) -> tuple[str, ...]:
    """Command that runs this module as another user."""
    here = globals().get("__file__")
    text = (here,) if here else ("-c", sys.orig_argv[sys.orig_argv.index("-c") + 1])
    return (PYTHON, "-I", "-S", *text, "child", *words)


def _answer(done: Done, path: str) -> bytes:
    if done.status == MISSING:
        raise FileNotFoundError(2, "No such file or directory", path)
    if done.status:
        raise Refused(done.last_words)
    return done.out


def as_child(task: str, path: str, *more: str) -> int:
    """What `read`, `show`, `may_write` and `place` run as the other user; the exit status."""
    try:
        if task == "read":
            _copy_out(path, int(more[0]), *more[1:])
        elif task == "directory":
            _send_directory(path, bool(more[0]))
        elif not os.access(path, os.W_OK | (os.X_OK if os.path.isdir(path) else 0)):  # noqa: PTH112
            return REFUSED
    except FileNotFoundError:
        return MISSING
    except (OSError, Refused) as error:
        reason = error.strerror if isinstance(error, OSError) else ""
        who = user_name(os.geteuid())
        named = more[1] if len(more) > 1 else path
        print(f"{named}: {who} cannot {task} it: {reason}" if reason else error, file=sys.stderr)
        return REFUSED
    return 0


def _copy_out(path: str, limit: int, name: str = "") -> None:
    # A FIFO would be waited for, a terminal taken for one's own.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    state = os.fstat(fd)
    if not stat.S_ISREG(state.st_mode):
        raise Refused(f"{name or path} is no regular file")
    with os.fdopen(fd, "rb") as file:
        # Not by its size alone, which may grow.
        content = file.read(limit + 1) if state.st_size <= limit else b""
    if len(content) > limit or state.st_size > limit:
        raise Refused(f"{name or path} is larger than {limit} bytes")
    sys.stdout.buffer.write(content)


def _send_directory(path: str, follow: bool) -> None:
    directory, name = _split(path, follow)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with socket.socket(fileno=0) as caller:
        socket.send_fds(caller, [b"."], [fd])
    sys.stdout.buffer.write(os.fsencode(name))


# -- as a command


def printable(text: str, lines: bool = False) -> str:
    r"""The text with each character that does not print as its escape, such as `\x1b`: what moves
    the cursor, colours, turns the direction of writing or ends a line, unless there may be several
    `lines`."""
    return "".join(
        char if char.isprintable() or (lines and char == "\n") else _escaped(char) for char in text
    )


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode()


def main(arguments: list[str]) -> int:
    command, *words = arguments
    try:
        if command == "child":
            return as_child(*words)
        if command == "run":
            _pass_on(run(words[0], words[1:], timeout=24 * 3600), sys.stdout)
        elif command == "own":
            return _as_owner(words[0], float(words[1]), words[2:])
        elif command == "show":
            print(json.dumps(_described(words[1], words[0])))
        else:
            user, group, mode, path = words
            bits = None if mode == "-" else int(mode, 8)
            if command in ("give", "judge"):
                give(path, user=user, group=group, mode=bits, dry=command == "judge")
            elif command == "make":
                make(path, user=user, group=group, mode=bits or 0o755)
            elif command == "replace":
                text = sys.stdin.buffer.read()
                replace(path, text, user=user, group=group, mode=bits or 0o600)
            else:
                raise Refused(f"there is no command {command}")
    except Refused as error:
        reason = str(error)
    except OSError as error:
        reason = f"{error.filename or words[-1]}: {error.strerror}"
    else:
        return 0
    print(f"celery-pi: {printable(reason)}", file=sys.stderr)
    return 1


def _pass_on(printed: bytes, stream: TextIO) -> None:
    """Writes what another user's process printed; to a terminal, only what prints."""
    if stream.isatty():
        stream.write(printable(printed.decode(errors="replace"), lines=True))
    else:
        stream.buffer.write(printed)


def _as_owner(path: str, seconds: float, command: Sequence[str]) -> int:
    """Runs the command as the owner and passes its output on. Files that it makes are 0644."""
    content, files = sys.stdin.buffer.read(), []
    while command[0] == "--by":
        files.append(command[1])
        command = command[2:]
    done = attempt(
        runner(path, files), command, input=content, timeout=seconds, limit=16 * MIB, umask=0o022
    )
    _pass_on(done.out, sys.stdout)
    _pass_on(done.err, sys.stderr)
    return 1 if done.status else 0


def _described(path: str, user: str) -> dict[str, str]:
    shown_file = show(path, user)
    if shown_file is None:
        return {}
    state, content = shown_file
    return {
        "mode": f"{stat.S_IMODE(state.st_mode):o}",
        "user": user_name(state.st_uid),
        "group": group_name(state.st_gid),
        "content": base64.b64encode(content).decode(),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
