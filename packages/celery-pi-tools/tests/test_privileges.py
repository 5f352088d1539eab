"""Work as another user, and where another user may write: nothing of root's is given, followed or
waited for. As root, with two users that every Debian has, and directories of theirs."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import celery_pi_tools.privileges
from tests.helpers.fake import as_root

pytestmark = [pytest.mark.fast, as_root]

APP, OWNER = "www-data", "games"  # the app's user, and the user whose the code is
SECRET = b"root's own"


@pytest.fixture(scope="module")
def text() -> str:
    return Path(celery_pi_tools.privileges.__file__).read_text()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user can reach, as those of pytest are not."""
    made = Path(tempfile.mkdtemp(prefix="celery-pi-test-", dir="/srv"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def privileges(place: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, where its other users can read it, as on a Pi."""
    library = place / "library"
    library.mkdir()
    (library / "privileges_copy.py").write_text(text)
    monkeypatch.syspath_prepend(str(library))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "privileges_copy", raising=False)
    return import_module("privileges_copy")


@pytest.fixture
def app(place: Path) -> Path:
    """The app's directory as a site has it: the code's owner may write it, the app's user not."""
    return directory(place / "app", OWNER)


def directory(path: Path, user: str, mode: int = 0o755) -> Path:
    path.mkdir()
    return owned(path, user, mode)


def owned(path: Path, user: str, mode: int = 0o600) -> Path:
    shutil.chown(path, user, user)
    path.chmod(mode)
    return path


def file(path: Path, content: bytes, user: str, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    return owned(path, user, mode)


def state(path: Path) -> tuple[str, int]:
    shown = path.lstat()
    return pwd.getpwuid(shown.st_uid).pw_name, shown.st_mode & 0o7777


def refused(privileges: Any, call: Callable[[], object]) -> str:
    with pytest.raises(privileges.Refused) as caught:
        call()
    return str(caught.value)


# -- running


def test_process_of_another_user_has_nothing_of_roots(
    privileges: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_ROOT", "secret")
    read, write = os.pipe()
    os.set_inheritable(read, True)
    script = (
        "id -un; id -Gn; env | cut -d= -f1 | sort | xargs; ls /proc/self/fd | xargs;"
        "readlink /proc/self/fd/0; awk '{ print $5 == $6, $7 }' /proc/$$/stat; pwd; umask"
    )
    told = privileges.run(APP, ("/bin/sh", "-c", script)).decode().splitlines()
    os.close(read)
    os.close(write)
    user, groups, variables, descriptors, stdin, session, where, mask = told
    assert (user, groups) == (APP, APP)
    assert variables == "HOME LC_ALL LOGNAME PATH PWD USER"
    assert descriptors == "0 1 2 3"  # the last is the listing's own
    assert stdin == "/dev/null"
    assert session == "1 0"  # it leads a session of its own, which has no terminal
    assert (where, mask) == ("/", "0077")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("sleep 60", "sh does not end within 0.3 s"),
        ("trap '' TERM; kill -STOP $$; sleep 60", "sh does not end within 0.3 s"),
        ("exec cat /dev/zero", "sh prints more than 1000 bytes"),
        ("exec cat /dev/zero >&2", "sh prints more than 1000 bytes"),
    ],
)
def test_process_that_does_not_end_is_killed_with_its_children(
    privileges: Any, script: str, reason: str
) -> None:
    marked = f": of-the-test; sleep 61 & {script}"
    command = ("/bin/sh", "-c", marked)
    told = refused(privileges, lambda: privileges.run(APP, command, timeout=0.3, limit=1000))
    assert told == reason
    left = subprocess.run(("pgrep", "-u", APP, "-f", "sleep 61"), capture_output=True, check=False)
    assert left.stdout == b""


def test_who_leaves_the_session_and_holds_the_pipes_is_not_waited_for(privileges: Any) -> None:
    start = time.monotonic()
    told = privileges.run(APP, ("/bin/sh", "-c", "setsid sleep 30 & echo said"))
    assert told == b"said\n"
    assert time.monotonic() - start < 10
    subprocess.run(("pkill", "-u", APP, "-f", "sleep 30"), check=False)


def test_input_and_output_may_be_files_of_roots(privileges: Any, tmp_path: Path) -> None:
    (tmp_path / "given").write_bytes(SECRET * 100_000)
    with (tmp_path / "given").open("rb") as given, (tmp_path / "got").open("wb") as got:
        privileges.run(APP, ("/bin/cat",), stdin=given, sink=got, limit=2**20)
    assert (tmp_path / "got").read_bytes() == SECRET * 100_000


def test_failure_is_told_by_its_last_line(privileges: Any) -> None:
    with pytest.raises(privileges.Failed, match=r"^sh: the reason$"):
        privileges.run(APP, ("/bin/sh", "-c", "echo more; echo the reason >&2; exit 3"))
    assert refused(privileges, lambda: privileges.run("nobody-of-that-name", ("true",))) == (
        "there is no user nobody-of-that-name"
    )


# -- reading


def fifo(path: Path, _: Path) -> None:
    os.mkfifo(path)
    owned(path, APP)


def device(path: Path, _: Path) -> None:
    path.symlink_to("/dev/zero")


def sparse(path: Path, _: Path) -> None:
    with path.open("wb") as content:
        content.truncate(8 * 2**30)
    owned(path, APP)


def link_to_roots_file(path: Path, roots: Path) -> None:
    path.symlink_to(roots)


def link_to_roots_directory(path: Path, roots: Path) -> None:
    path.symlink_to(roots.parent)


TRAPS = [fifo, device, sparse, link_to_roots_file, link_to_roots_directory]


@pytest.fixture
def roots(place: Path) -> Path:
    """A file of root's alone, in a directory of root's."""
    within = directory(place / "roots", "root")
    return file(within / "secret", SECRET, "root")


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("owner", [OWNER, APP])
def test_nothing_but_a_regular_file_of_theirs_is_read_or_replaced(
    privileges: Any, place: Path, roots: Path, trap: Callable[[Path, Path], None], owner: str
) -> None:
    env = directory(place / "app", owner) / ".env"
    trap(env, roots)
    start = time.monotonic()
    refused(privileges, lambda: privileges.read(APP, str(env)))
    refused(privileges, lambda: privileges.show(str(env), APP))
    assert time.monotonic() - start < 5
    if trap in (link_to_roots_file, link_to_roots_directory, device):
        refused(privileges, lambda: privileges.replace(str(env), b"theirs", user=APP))
        refused(privileges, lambda: privileges.give(str(env), user=APP, mode=0o666))
    assert roots.read_bytes() == SECRET
    assert (state(roots), state(roots.parent)) == (("root", 0o600), ("root", 0o755))
    assert sorted(path.name for path in roots.parent.iterdir()) == ["secret"]


def test_what_grows_while_it_is_read_is_read_to_the_limit(privileges: Any, app: Path) -> None:
    log = file(app / "log", b"x" * 1000, APP)
    assert privileges.read(APP, str(log), limit=1000) == b"x" * 1000
    told = refused(privileges, lambda: privileges.read(APP, str(log), limit=999))
    assert told == f"{log} is larger than 999 bytes"


def test_missing_file_is_an_answer(privileges: Any, app: Path) -> None:
    assert privileges.show(str(app / ".env"), APP) is None
    with pytest.raises(FileNotFoundError):
        privileges.read(APP, str(app / ".env"))


@pytest.mark.parametrize(("user", "mode"), [(APP, 0o600), (OWNER, 0o600), ("root", 0o644)])
def test_file_is_read_by_the_app_or_else_by_its_owner(
    privileges: Any, app: Path, user: str, mode: int
) -> None:
    file(app / ".env", b"A=1\n", user, mode)
    shown, content = privileges.show(str(app / ".env"), APP)
    assert content == b"A=1\n"
    assert pwd.getpwuid(shown.st_uid).pw_name == user


def test_roots_file_that_another_may_have_put_there_is_not_read_but_elsewhere_it_is(
    privileges: Any, app: Path, roots: Path
) -> None:
    file(app / ".env", SECRET, "root")
    told = refused(privileges, lambda: privileges.show(str(app / ".env"), APP))
    assert told.endswith(f"cannot read it: Permission denied; it is root's: chown {APP} {app}/.env")
    assert privileges.show(str(roots), APP)[1] == SECRET


@pytest.mark.parametrize("is_link", [False, True])
def test_root_reads_nothing_where_another_may_change_the_way(
    privileges: Any, app: Path, roots: Path, is_link: bool
) -> None:
    path = app / ".env"
    if is_link:
        path.symlink_to(roots)
    else:
        file(path, b"A=1\n", "root", 0o644)
    told = refused(privileges, lambda: privileges.read("root", str(path)))
    assert told == f"{path}: root does not read it, since others may change {app}"
    assert privileges.read("root", str(roots)) == SECRET


# -- changing


def test_file_is_replaced_in_one_step_and_is_the_users(privileges: Any, app: Path) -> None:
    env = file(app / ".env", b"before", OWNER, 0o644)
    before = env.stat().st_ino
    privileges.replace(str(env), b"after", user=APP)
    assert (env.read_bytes(), state(env)) == (b"after", (APP, 0o600))
    assert env.stat().st_ino != before
    assert [path.name for path in app.iterdir()] == [".env"]


def test_shared_file_behind_a_link_is_replaced_and_the_link_stays(
    privileges: Any, app: Path, place: Path
) -> None:
    shared = file(directory(place / "shared", OWNER) / ".env", b"before", APP)
    (app / ".env").symlink_to("../shared/.env")
    privileges.replace(str(app / ".env"), b"after", user=APP)
    assert (app / ".env").is_symlink()
    assert (shared.read_bytes(), state(shared)) == (b"after", (APP, 0o600))


def test_link_that_is_put_there_at_the_last_moment_leads_nowhere(
    privileges: Any, app: Path, roots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner has moved the directory away, and a link of his is in its place."""
    within = directory(app / "conf", OWNER)
    env = file(within / ".env", b"before", APP)
    real = privileges._directory

    def overtaken(*words: Any) -> Any:
        found = real(*words)
        within.rename(app / "away")
        within.symlink_to(roots.parent)
        return found

    monkeypatch.setattr(privileges, "_directory", overtaken)
    privileges.replace(str(env), b"after", user=APP)
    assert (app / "away/.env").read_bytes() == b"after"
    assert [path.name for path in roots.parent.iterdir()] == ["secret"]


def test_directory_that_the_other_process_sends_is_judged(
    privileges: Any, app: Path, roots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has taken over the other user's process may send any that he can open."""
    code = (
        "import os, socket, sys;"
        f"fd = os.open({str(roots.parent)!r}, os.O_RDONLY);"
        "socket.send_fds(socket.socket(fileno=0), [b'.'], [fd]); print('passwd', end='')"
    )
    lie = (privileges.PYTHON, "-I", "-c", code)
    monkeypatch.setattr(privileges, "_child", lambda *_: lie)
    told = refused(privileges, lambda: privileges.replace(str(app / ".env"), b"x", user=APP))
    assert told == f"{app / '.env'} is in a directory that {OWNER} may not write"
    assert [path.name for path in roots.parent.iterdir()] == ["secret"]


@pytest.mark.parametrize("name", ["../roots/x", "", ".."])
def test_name_that_it_sends_is_judged(
    privileges: Any, app: Path, roots: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    code = (
        "import os, socket;"
        f"fd = os.open({str(app)!r}, os.O_RDONLY);"
        f"socket.send_fds(socket.socket(fileno=0), [b'.'], [fd]); print({name!r}, end='')"
    )
    monkeypatch.setattr(privileges, "_child", lambda *_: (privileges.PYTHON, "-I", "-c", code))
    with pytest.raises((privileges.Refused, OSError)):
        privileges.replace(str(app / ".env"), b"x", user=APP)
    assert [path.name for path in roots.parent.iterdir()] == ["secret"]
    assert list(app.iterdir()) == []


def test_owners_and_mode_are_set_of_the_file_itself(privileges: Any, app: Path) -> None:
    env = file(app / ".env", b"A=1", OWNER, 0o644)
    privileges.give(str(env), user=APP, mode=0o600)
    assert state(env) == (APP, 0o600)
    privileges.give(str(env), user=APP, group=OWNER)
    assert (state(env), env.group()) == ((APP, 0o600), OWNER)


def second_name(path: Path, roots: Path) -> None:
    os.link(roots, path)


def roots_own(path: Path, _: Path) -> None:
    file(path, SECRET, "root")


def moved_directory(path: Path, _: Path) -> None:
    """Who may write a directory may move it to another."""
    directory(path, "root", 0o775)


def renamed_directory(path: Path, _: Path) -> None:
    """Who may write a directory may rename what is in it, such as root's dumps."""
    private = directory(path.with_name("dumps"), "root", 0o700)
    file(private / "monday.sql", SECRET, "root", 0o644)
    private.rename(path)


@pytest.mark.parametrize(
    ("trap", "reason"),
    [
        (link_to_roots_file, "is a link: set owner and mode of what it leads to"),
        (fifo, "is neither a file nor a directory"),
        (second_name, "has a second name"),
        (roots_own, f"is root's, and {OWNER} may have put it there: chown {APP}"),
        (moved_directory, f"is root's, and {OWNER} may have put it there: chown {APP}"),
        (renamed_directory, f"is root's, and {OWNER} may have put it there: chown {APP}"),
    ],
)
def test_what_may_be_anybodys_is_given_to_nobody(
    privileges: Any, app: Path, roots: Path, trap: Callable[[Path, Path], None], reason: str
) -> None:
    path = app / "x"
    trap(path, roots)
    before = state(path), state(roots)
    for dry in (True, False):
        give = partial(privileges.give, str(path), user=APP, mode=0o666, dry=dry)
        assert reason in refused(privileges, give)
    assert (state(path), state(roots)) == before


def test_empty_directory_that_root_made_is_given(privileges: Any, app: Path) -> None:
    path = directory(app / "logs", "root", 0o755)
    privileges.give(str(path), user=APP, dry=True)
    assert state(path) == ("root", 0o755)
    privileges.give(str(path), user=APP)
    assert state(path) == (APP, 0o755)


def test_where_only_root_may_write_it_gives_what_is_its_own(privileges: Any, roots: Path) -> None:
    privileges.give(str(roots), user=APP, mode=0o640)
    assert state(roots) == (APP, 0o640)


def test_directories_are_made_and_one_that_was_there_keeps_its_mode(
    privileges: Any, app: Path
) -> None:
    privileges.make(str(app / "data/photos"), user=APP)
    assert state(app / "data") == (APP, 0o755)
    assert state(app / "data/photos") == (APP, 0o755)
    (app / "data").chmod(0o700)
    privileges.make(str(app / "data"), user=APP)
    assert state(app / "data") == (APP, 0o700)


def test_no_directory_is_made_behind_a_link_to_one_of_roots(
    privileges: Any, app: Path, roots: Path
) -> None:
    (app / "data").symlink_to(roots.parent)
    refused(privileges, lambda: privileges.make(str(app / "data"), user=APP))
    refused(privileges, lambda: privileges.make(str(app / "data/new"), user=APP))
    assert [path.name for path in roots.parent.iterdir()] == ["secret"]


# -- that nobody is lent to somebody else

THIRD = "backup"  # a user who has nothing to do with the app


@pytest.fixture
def thirds(place: Path) -> Path:
    """A file of a third user's, in a directory of his."""
    return file(directory(place / "third", THIRD, 0o700) / "key", b"his own", THIRD)


@pytest.mark.parametrize("owner", [OWNER, APP])
def test_file_of_a_third_user_is_neither_read_nor_replaced_nor_given(
    privileges: Any, place: Path, thirds: Path, owner: str
) -> None:
    """Root would go there as him, wherever a link leads that others have laid."""
    env = directory(place / "app", owner) / ".env"
    env.symlink_to(thirds)
    refused(privileges, lambda: privileges.show(str(env), APP))
    refused(privileges, lambda: privileges.replace(str(env), b"x", user=APP))
    env.unlink()
    env.symlink_to(thirds.parent)
    refused(privileges, lambda: privileges.give(f"{env}/key", user=APP))
    refused(privileges, lambda: privileges.make(f"{env}/new", user=APP))
    assert (thirds.read_bytes(), state(thirds)) == (b"his own", (THIRD, 0o600))
    assert [path.name for path in thirds.parent.iterdir()] == ["key"]


def test_app_leads_nobody_into_what_is_its_codes_owners(privileges: Any, place: Path) -> None:
    """Its own directory holds a link to one of the user's who owns the code, perhaps with sudo."""
    home = directory(place / "home", OWNER)
    profile = file(home / ".profile", b"his own", OWNER, 0o644)
    shared = directory(place / "shared", APP)
    (shared / ".env").symlink_to(profile)
    app = directory(place / "app", OWNER)
    (app / ".env").symlink_to("../shared/.env")
    refused(privileges, lambda: privileges.replace(str(app / ".env"), b"x", user=APP))
    (shared / "logs").symlink_to(home)
    refused(privileges, lambda: privileges.give(f"{shared}/logs/.profile", user=APP))
    assert (profile.read_bytes(), state(profile)) == (b"his own", (OWNER, 0o644))


def test_state_and_content_are_of_one_file(
    privileges: Any, app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one is put there between the two: that of the first is told, or none."""
    env = file(app / ".env", b"first", APP, 0o640)
    real = privileges.attempt

    def overtaken(user: str, command: Any, **how: Any) -> Any:
        if "read" in command:
            env.rename(app / "away")
            file(env, b"second", OWNER, 0o755)
        return real(user, command, **how)

    monkeypatch.setattr(privileges, "attempt", overtaken)
    shown, content = privileges.show(str(env), APP)
    assert (shown.st_mode & 0o777, content) == (0o640, b"first")


def test_who_works_with_an_environment_is_who_may_replace_it(
    privileges: Any, place: Path, app: Path
) -> None:
    assert privileges.owner(str(directory(app / "venv", OWNER))) == OWNER
    assert privileges.owner(str(app / "none")) == OWNER
    theirs = directory(place / "theirs", APP)
    assert privileges.owner(str(directory(theirs / "venv", OWNER))) == APP
    assert privileges.owner(str(directory(place / "alone", OWNER))) == OWNER
    (app / "link").symlink_to(theirs)
    told = refused(privileges, lambda: privileges.owner(f"{app}/link/venv"))
    assert f"chmod g-w,o-w {app} {theirs}" in told
    shutil.chown(app, OWNER, APP)
    app.chmod(0o2775)
    assert "by several users" in refused(privileges, lambda: privileges.owner(f"{app}/venv"))


def environment(path: Path, python: Path) -> Path:
    """A virtual environment of root's."""
    packages = path / "lib/python3/site-packages"
    packages.mkdir(parents=True)
    (path / "bin").mkdir()
    (path / "bin/python3").symlink_to(python)
    (path / "bin/python").symlink_to("python3")
    (path / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.13.5\n")
    (packages / "pip.py").write_text("")
    return path


def its_python(venv: Path, app: Path) -> Path:
    (venv / "bin/python3").unlink()
    python = file(app / "python3", b"", OWNER, 0o755)
    (venv / "bin/python3").symlink_to(python)
    return app


def its_home(venv: Path, app: Path) -> Path:
    (venv / "pyvenv.cfg").write_text(f"home = {directory(app / 'bin', OWNER)}\n")
    return app


def its_packages(venv: Path, _: Path) -> Path:
    return owned(venv / "lib/python3/site-packages", OWNER, 0o755)


def its_configuration(venv: Path, _: Path) -> Path:
    return owned(venv / "pyvenv.cfg", OWNER, 0o644)


@pytest.mark.parametrize("change", [its_python, its_home, its_packages, its_configuration])
def test_root_runs_no_environment_of_its_own_in_which_somebody_else_may_change_something(
    text: str, place: Path, app: Path, change: Callable[[Path, Path], Path]
) -> None:
    venv = environment(place / "venv", Path("/usr/bin/env"))
    assert told(text, "own", str(venv), "5", "id", "-un").stdout == b"root\n"
    change(venv, app)
    done = told(text, "own", str(venv), "5", "touch", str(place / "run"))
    assert f"{venv} is root's, but {OWNER} may change".encode() in done.stderr
    assert done.returncode == 1
    assert not (place / "run").exists()
    for path in (venv, *venv.rglob("*")):
        os.lchown(path, pwd.getpwnam(OWNER).pw_uid, -1)
    assert told(text, "own", str(venv), "5", "id", "-un").stdout == f"{OWNER}\n".encode()


def test_root_goes_by_no_file_that_somebody_else_may_change(
    text: str, place: Path, app: Path
) -> None:
    """Such as requirements, by which pip runs what they name."""
    venv = environment(place / "venv", Path("/usr/bin/env"))
    for path, reason in (
        (place / "requirements.txt", ""),
        (app / "none.txt", f"{OWNER} may change {app}/none.txt"),
        (file(place / "his.txt", b"", OWNER, 0o644), f"{OWNER} may change {place}/his.txt"),
    ):
        done = told(text, "own", str(venv), "5", "--by", str(path), "id", "-un")
        assert reason.encode() in done.stderr
        assert (done.stdout == b"root\n") is not bool(reason)


def acl(path: Path, user: str) -> None:
    """An access control list by which that user may do what he likes in a directory."""
    uid = pwd.getpwnam(user).pw_uid
    nobody = 2**32 - 1
    entries = [(1, 7, nobody), (2, 7, uid), (4, 5, nobody), (16, 7, nobody), (32, 5, nobody)]
    packed = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(path, "system.posix_acl_access", packed)


def test_directory_with_an_access_control_list_is_not_taken_for_what_its_mode_says(
    privileges: Any, place: Path
) -> None:
    sites = directory(place / "sites", "root")
    assert privileges.is_roots_alone(str(sites / "x"))
    try:
        acl(sites, OWNER)
    except OSError as error:
        pytest.skip(f"no access control lists here: {error.strerror}")
    assert not privileges.is_roots_alone(str(sites / "x"))
    refused(privileges, lambda: privileges.replace(str(sites / "x"), b"x", user=APP))
    assert list(sites.iterdir()) == []


MOUNTS = """
import os, socket, subprocess, sys
subprocess.run(("mount", "-t", "tmpfs", "none", sys.argv[1]), check=True)
fd = os.open(sys.argv[1], os.O_RDONLY)
socket.send_fds(socket.socket(fileno=0), [b"."], [fd])
"""


def test_what_is_mounted_in_another_namespace_is_refused(privileges: Any, place: Path) -> None:
    """As every user can make one, with whatever he likes mounted in it."""
    ours, theirs = socket.socketpair()
    command = ("unshare", "--mount", sys.executable, "-c", MOUNTS, place)
    done = subprocess.run(
        command, stdin=theirs.fileno(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no mount namespace here: {done.stderr.splitlines()[-1]}")
    _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
    own = os.open(place, os.O_PATH)
    assert (privileges._is_mounted_here(fd), privileges._is_mounted_here(own)) == (False, True)
    for each in (fd, own):
        os.close(each)
    ours.close()
    theirs.close()


# -- whose the way is


def test_way_is_roots_alone_only_if_no_step_of_it_is_anothers(
    privileges: Any, place: Path, app: Path, roots: Path
) -> None:
    (app / "link").symlink_to(roots)
    (place / "to-app").symlink_to("app/x")
    steps = {
        str(roots): [],
        str(app): [],
        str(app / "x"): [str(app)],
        str(app / "link"): [str(app)],
        str(place / "to-app"): [str(app)],
        "/tmp/x": ["/tmp"],  # noqa: S108
        "/etc/../etc/passwd": [],
    }
    assert {path: list(privileges.foreign_steps(path)) for path in steps} == steps
    assert privileges.is_roots_alone(str(place / "to-app"), follow=False)


def test_group_without_members_is_nobodys(privileges: Any, place: Path) -> None:
    """As Debian 12 has it for /usr/local."""
    within = place / "local"
    within.mkdir()
    shutil.chown(within, "root", "staff")
    within.chmod(0o2775)
    assert privileges.is_roots_alone(str(within / "x"))
    shutil.chown(within, "root", APP)
    assert not privileges.is_roots_alone(str(within / "x"))


def test_circle_of_links_is_refused(privileges: Any, place: Path) -> None:
    (place / "a").symlink_to("b")
    (place / "b").symlink_to("a")
    assert "too many links" in refused(privileges, lambda: privileges.is_roots_alone(f"{place}/a"))


# -- as the deploy has it, by its text


def told(text: str, *words: str, sent: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = (sys.executable, "-I", "-c", text, *words)
    return subprocess.run(command, input=sent, capture_output=True, timeout=60, check=False)


def test_deploy_needs_nothing_but_the_text(text: str, app: Path) -> None:
    env = str(app / ".env")
    assert json.loads(told(text, "show", APP, env).stdout) == {}
    assert told(text, "replace", APP, OWNER, "640", env, sent=b"A=\xff\n").returncode == 0
    assert json.loads(told(text, "show", APP, env).stdout) == {
        **{"mode": "640", "user": APP, "group": OWNER},
        "content": "QT3/Cg==",
    }
    assert told(text, "give", APP, "", "600", env).returncode == 0
    assert state(app / ".env") == (APP, 0o600)
    assert told(text, "make", APP, "", "-", str(app / "media")).returncode == 0
    assert state(app / "media") == (APP, 0o755)
    assert told(text, "run", APP, "/usr/bin/id", "-un").stdout == f"{APP}\n".encode()


def test_refusal_is_one_sentence_and_status_1(text: str, app: Path, roots: Path) -> None:
    (app / ".env").symlink_to(roots)
    done = told(text, "replace", APP, "", "600", str(app / ".env"), sent=b"theirs")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().startswith(f"celery-pi: {app / '.env'} leads into a directory")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("command", "words"), [("show", (APP,)), ("give", (APP, "", "600")), ("run", (APP,))]
)
def test_name_from_outside_is_printed_without_its_control_characters(
    text: str, app: Path, command: str, words: tuple[str, ...]
) -> None:
    name = "\x1b]0;title\x07\rlog\u202e"
    if command == "show":
        (app / name).mkdir()  # which is refused; without it the other command fails
    done = told(text, command, *words, str(app / name))
    shown = "\\x1b]0;title\\x07\\rlog\\u202e"
    assert done.returncode == 1
    assert shown in done.stderr.decode()
    assert not re.search(rb"[\x00-\x09\x0b-\x1f]", done.stderr)


@pytest.mark.parametrize("command", ["run", "own"])
def test_output_of_another_user_is_made_printable_for_a_terminal_alone(
    text: str, app: Path, command: str
) -> None:
    how = (APP,) if command == "run" else (str(app), "5")
    words = (command, *how, "/usr/bin/printf", r"\033[2Jall is well\n\302")
    assert told(text, *words).stdout == b"\x1b[2Jall is well\n\xc2"
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal, os.fdopen(theirs, "wb") as end:
        subprocess.run((sys.executable, "-I", "-c", text, *words), stdout=end, check=True)
        assert terminal.read(1000) == "\\x1b[2Jall is well\r\n\ufffd".encode()
