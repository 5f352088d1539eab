"""Our variables in the app's `.env`: they are set, and every other byte is the owner's."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from pyinfra.api import Host, OperationError

from celery_pi.operations import env_file as module
from celery_pi.operations.env_file import env_file, with_variables
from celery_pi.secrets import redis_url
from celery_pi.settings import Settings
from tests.helpers.fake import ME, Run, as_root, inode, mode, run

URL = redis_url("pa/ss+w#rd? % @:&'\"\\$HOME %41 é✓ long enough", Settings())
SECRET = URL.split("@")[0].split(":")[-1]
OURS = {"CELERY_BROKER_URL": URL, "CELERY__BROKER_URL": URL}

FOREIGN = [
    b"",
    b"\n",
    b"DEBUG=false\n",
    b"# CELERY_BROKER_URL=redis://old\n",
    b"#CELERY_BROKER_URL=redis://old\n",
    b"CELERY_BROKER_URL_OLD=redis://old\n",
    b"MY_CELERY_BROKER_URL=redis://old\n",
    b"CELERY_BROKER_URL\n",
    b"export SECRET_KEY='x y'\n",
    b"  INDENTED = 1 # comment \n",
    b'PRIVATE="a=b"\r\nOTHER=2\r\n',
    b"LATIN=\xe9\xff\x00\n",
    b"ends without a line end",
    b"ends with a carriage return\r",
    b"\xef\xbb\xbfBOM=1\n\n\n# last comment\n\n",
    b"form\x0cfeed\x0band\x1ctab=1\n\x85\xe2\x80\xa8\n",
]


def as_systemd_reads(text: bytes) -> dict[str, str]:
    """systemd.exec(5), EnvironmentFile=, for values that need no quotes; the last one counts.

    As systemd 252 does it: a backslash joins lines, also in a comment, and `export` makes a name
    invalid.
    """
    found = {}
    for line in text.decode(errors="replace").replace("\\\n", "").splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name.strip()):
            found[name.strip()] = value.strip()
    return found


def as_dotenv_reads(text: bytes) -> dict[str, str]:
    """python-dotenv's grammar: `export`, comments behind a blank, `${NAME}` and escapes."""
    found = {}
    for line in text.decode(errors="replace").splitlines():
        match = re.match(r"\s*(?:export\s+)?([^=#\s]+)\s*=\s*([^\r\n]*)", line)
        if match:
            assert "${" not in match[2]
            found[match[1]] = re.sub(r"\s+#.*", "", match[2]).rstrip()
    return found


def as_a_shell_reads(text: bytes) -> dict[str, str]:
    ours = b"\n".join(line for line in text.splitlines() if b"CELERY" in line)
    shown = subprocess.run(
        ["sh", "-c", 'set -a; eval "$(cat)"; env -0'], input=ours, capture_output=True, check=True
    ).stdout
    return dict(pair.split("=", 1) for pair in shown.decode().split("\0") if pair)


Reader = Callable[[bytes], dict[str, str]]
READERS: list[Reader] = [as_systemd_reads, as_dotenv_reads, as_a_shell_reads]


@pytest.mark.parametrize("before", FOREIGN)
def test_every_byte_that_was_there_stays_where_it_was(before: bytes) -> None:
    assert with_variables(before, OURS).startswith(before)


@pytest.mark.parametrize("before", FOREIGN)
@pytest.mark.parametrize("reader", READERS[:2])
def test_added_values_are_what_a_reader_of_the_file_sees(reader: Reader, before: bytes) -> None:
    seen = reader(with_variables(before, OURS))
    assert {name: seen.get(name) for name in OURS} == OURS


@pytest.mark.parametrize(
    "before", [*FOREIGN, b"CELERY_BROKER_URL=1\nCELERY_BROKER_URL=2\nexport CELERY__BROKER_URL=\n"]
)
def test_second_application_changes_nothing(before: bytes) -> None:
    once = with_variables(before, OURS)
    assert with_variables(once, OURS) == once


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"V=old\n", b"V=new\n"),
        (b"V=\n", b"V=new\n"),
        (b"V=old\r\n", b"V=new\r\n"),
        (b"V=old", b"V=new"),
        (b"  V = 'old' # comment\n", b"V=new\n"),
        (b"export V=old\n", b"V=new\n"),
        (b"export\tV=old\n", b"V=new\n"),
        (b"V=old\nV=older\n", b"V=new\n"),
        (b"V=old\nA=1\nexport V=older\nB=2", b"V=new\nA=1\nB=2"),
        (b"A=1\r\nV=old\r\n# V=x\r\n", b"A=1\r\nV=new\r\n# V=x\r\n"),
        (b"W=V=1\nV=new\n", b"W=V=1\nV=new\n"),
    ],
)
def test_assignment_is_changed_in_place_and_a_further_one_goes(
    line: bytes, expected: bytes
) -> None:
    assert with_variables(line, {"V": "new"}) == expected


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (b"A=1\n", b"A=1\n#\nV=new\n"),
        (b"A=1", b"A=1\n#\nV=new\n"),
        (b"A=1\r\nB=2", b"A=1\r\nB=2\r\n#\r\nV=new\r\n"),
        (b"", b"#\nV=new\n"),
    ],
)
def test_missing_variable_is_added_below_a_heading_with_the_files_line_ends(
    before: bytes, expected: bytes
) -> None:
    added = with_variables(before, {"V": "new"})
    assert re.sub(rb"#[^\r\n]*", b"#", added) == expected


def test_heading_is_there_once_however_often_variables_are_added() -> None:
    text = with_variables(with_variables(b"A=1\n", {"V": "1"}), {"V": "1", "W": "2"})
    assert text.count(b"#") == 1


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("before", [b"", b"CELERY_BROKER_URL=old\n", b"A=1\nCELERY_BROKER_URL ="])
def test_url_of_any_password_comes_through_each_reader(reader: Reader, before: bytes) -> None:
    seen = reader(with_variables(before, OURS))
    assert {name: seen.get(name) for name in OURS} == OURS


def test_url_behind_export_reaches_the_services() -> None:
    text = with_variables(b"export CELERY_BROKER_URL=old\n", OURS)
    assert as_systemd_reads(text)["CELERY_BROKER_URL"] == URL


@pytest.mark.parametrize("last", [b"A=1\\\n", b"# C:\\\n"])
def test_url_behind_a_line_that_ends_in_a_backslash_reaches_the_services(last: bytes) -> None:
    before = with_variables(b"", {"OTHER": "1"}) + last  # our heading is there already
    assert as_systemd_reads(with_variables(before, OURS)).get("CELERY_BROKER_URL") == URL


def deploy(path: Path, variables: Mapping[str, str] = OURS, user: str = ME) -> Run:
    return run(
        lambda: env_file(
            name="Set the broker in .env",
            path=str(path),
            variables=variables,
            user=user,
            group="root" if user == "root" else path.parent.group(),
        )
    )


def test_file_is_made_for_its_user_alone(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    done = deploy(env)
    assert (done.planned, done.changed, done.error) == ([True], [True], "")
    assert as_systemd_reads(env.read_bytes()) == OURS
    assert (mode(env), env.owner()) == (0o600, ME)
    assert list(tmp_path.iterdir()) == [env]


@pytest.mark.parametrize("content", [b"", b"A=\xff\x00\r\nB=2"])
def test_file_of_the_owner_keeps_his_bytes_and_is_left_alone_afterwards(
    tmp_path: Path, content: bytes
) -> None:
    env = tmp_path / ".env"
    env.write_bytes(content)
    assert deploy(env).changed == [True]
    assert env.read_bytes() == with_variables(content, OURS)
    before = inode(env)
    second = deploy(env)
    assert (second.planned, second.changed, inode(env)) == ([False], [False], before)


def test_wrong_mode_is_mended_without_a_rewrite(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    deploy(env)
    before = inode(env)
    env.chmod(0o644)
    assert deploy(env).changed == [True]
    assert (mode(env), inode(env)) == (0o600, before)
    assert deploy(env).changed == [False]


@as_root
def test_wrong_owner_is_mended(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    deploy(env)
    os.chown(env, 65534, 65534)
    assert deploy(env).changed == [True]
    assert (env.owner(), env.group()) == (ME, tmp_path.group())


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A directory that belongs to the unprivileged user nobody, and that he can reach."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        path.chmod(0o755)
        (path / "app").mkdir()
        os.chown(path / "app", 65534, 65534)
        yield path / "app"


@as_root
def test_file_in_a_directory_of_the_users_is_written_as_him(theirs: Path) -> None:
    env = theirs / ".env"
    env.write_text("A=1\n")
    assert deploy(env, user="nobody").changed == [True]
    assert (env.owner(), mode(env)) == ("nobody", 0o600)
    assert as_systemd_reads(env.read_bytes()) == {"A": "1", **OURS}
    env.chmod(0o644)
    assert deploy(env, user="nobody").changed == [True]
    assert mode(env) == 0o600
    assert deploy(env, user="nobody").changed == [False]


@pytest.fixture
def roots(theirs: Path) -> Iterator[Path]:
    """A file of root's in a directory of root's, which nothing here may read or change."""
    directory = theirs.parent / "roots"
    directory.mkdir()
    file = directory / ".env"
    file.write_text("ROOTS=s3cret-of-roots\n")
    file.chmod(0o600)
    before = inode(file), file.stat()
    yield file
    assert (inode(file), file.stat().st_uid, mode(file)) == (before[0], 0, 0o600)
    assert file.stat().st_ctime_ns == before[1].st_ctime_ns, "owner and mode were not touched"


def put(env: Path, what: str, roots: Path) -> None:
    """What somebody who may write the directory puts there in the place of the file."""
    env.unlink(missing_ok=True)
    if what == "link":
        env.symlink_to(roots)
    elif what == "link to a directory":
        env.symlink_to(roots.parent)
    elif what == "hard link":
        os.link(roots, env)
    elif what == "fifo":
        os.mkfifo(env)
    elif what == "device":
        env.symlink_to("/dev/zero")
    elif what == "sparse":
        env.touch()
        os.truncate(env, 8 * 2**30)
        os.chown(env, 65534, 65534)
    else:
        env.write_text("ROOTS=s3cret-of-roots\n")
        env.chmod(0o600)


PUT = {
    "link": "leads into a directory that nobody may not write",
    "link to a directory": "leads into a directory that nobody may not write",
    "hard link": "nobody cannot read it: Permission denied; it is root's: chown nobody",
    "root's file": "nobody cannot read it: Permission denied; it is root's: chown nobody",
    "fifo": "no regular file",
    "device": "leads into a directory that nobody may not write",
    "sparse": "is larger than 1048576 bytes",
}


@as_root
@pytest.mark.parametrize(("what", "said"), PUT.items(), ids=PUT)
def test_what_others_put_there_is_refused_with_a_sentence_and_shown_to_nobody(
    theirs: Path, roots: Path, capsys: pytest.CaptureFixture[str], what: str, said: str
) -> None:
    if what == "hard link":
        roots = theirs.parent / "hard"
        roots.write_text("ROOTS=s3cret-of-roots\n")
        roots.chmod(0o600)
    put(theirs / ".env", what, roots)
    started = time.monotonic()
    with pytest.raises(OperationError) as refused:
        deploy(theirs / ".env", user="nobody")
    assert time.monotonic() - started < 10
    assert f"@local: {theirs}/.env" in str(refused.value)
    assert said in str(refused.value)
    assert "s3cret" not in str(refused.value) + capsys.readouterr().out
    assert [path.name for path in theirs.iterdir()] == [".env"]


@as_root
@pytest.mark.parametrize("what", ["link", "hard link", "fifo"])
def test_what_is_put_there_between_reading_and_writing_is_replaced_and_nothing_else(
    theirs: Path, roots: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The race, by a hook: the write is planned, and now it is another file."""
    other = theirs.parent / "hard"
    other.write_text("root's\n")

    def swap(host: Host, path: str) -> None:
        if host.state.is_executing:
            put(Path(path), what, other if what == "hard link" else roots)

    monkeypatch.setattr(module, "announce_write", swap)
    done = deploy(theirs / ".env", user="nobody")
    assert other.read_text() == "root's\n"
    if what == "link":
        assert "leads into a directory that nobody may not write" in done.shown
        assert done.error
    else:
        assert as_systemd_reads((theirs / ".env").read_bytes()) == OURS


@as_root
@pytest.mark.parametrize("what", ["link", "hard link"])
def test_mode_is_mended_of_no_file_of_roots(
    theirs: Path, roots: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    env = theirs / ".env"
    deploy(env, user="nobody")
    env.chmod(0o644)
    read = module._read

    def swap(path: str, user: str) -> module.EnvFile:
        found = read(path, user)
        if module.host.state.is_executing:
            put(Path(path), what, roots)
        return found

    other = theirs.parent / "hard"
    other.write_text("root's\n")
    before = other.stat().st_uid, mode(other)
    if what == "hard link":
        roots = other
    monkeypatch.setattr(module, "_read", swap)
    done = deploy(env, user="nobody")
    assert done.error
    assert "celery-pi: " in done.shown
    assert (other.read_text(), (other.stat().st_uid, mode(other))) == ("root's\n", before)


@as_root
def test_link_in_the_place_of_a_workspace_does_not_lead_root_to_a_file_of_roots(
    theirs: Path, roots: Path
) -> None:
    (theirs / ".celery-pi.new").symlink_to(roots.parent)
    assert deploy(theirs / ".env", user="nobody").changed == [True]


@as_root
def test_file_that_only_another_user_may_read_is_read_by_him(theirs: Path) -> None:
    """As when the owner of the code wrote it himself, for himself."""
    env = theirs / ".env"
    env.write_text("A=1\n")
    env.chmod(0o600)
    os.chown(env, 65534, 65534)
    assert deploy(env, user="daemon").changed == [True]
    assert (env.owner(), mode(env)) == ("daemon", 0o600)
    assert as_systemd_reads(env.read_bytes()) == {"A": "1", **OURS}


def test_content_that_was_cut_off_on_its_way_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = tmp_path / ".env"
    env.write_text("A=1\n")
    monkeypatch.setattr(module, "WHOLE", module.WHOLE.replace("sent=$(cat)", "sent=$(head -c 40)"))
    done = deploy(env)
    assert done.error
    assert f"celery-pi: {env} was cut off on its way" in done.shown
    assert env.read_text() == "A=1\n"


def test_mode_behind_a_link_is_mended_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "env").touch()
    env = tmp_path / ".env"
    env.symlink_to("env")
    deploy(env)
    (tmp_path / "env").chmod(0o644)
    assert deploy(env).changed == [True]
    assert mode(tmp_path / "env") == 0o600
    assert env.readlink() == Path("env")
    assert as_systemd_reads((tmp_path / "env").read_bytes()) == OURS
    assert deploy(env).changed == [False]


def test_link_to_a_shared_file_stays_a_link(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "env").write_text("A=1\n")
    env = tmp_path / ".env"
    env.symlink_to("shared/env")
    assert deploy(env).changed == [True]
    assert env.readlink() == Path("shared/env")
    assert as_systemd_reads((shared / "env").read_bytes()) == {"A": "1", **OURS}
    assert deploy(env).changed == [False]


def test_nothing_of_the_file_is_shown_or_in_a_command(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text("SECRET_KEY=owners-own-secret\nCELERY_BROKER_URL=redis://:0ld-secret@x\n")
    before = base64.b64encode(env.read_bytes()).decode()
    done = deploy(env)
    after = base64.b64encode(env.read_bytes()).decode()
    assert "set CELERY_BROKER_URL" in done.shown
    assert "add CELERY__BROKER_URL" in done.shown
    for secret in (SECRET, "owners-own-secret", "0ld-secret", before, after[:76]):
        assert secret not in done.shown
        assert secret not in "".join(done.commands)


def test_value_that_a_shell_would_take_apart_is_quoted_once() -> None:
    url = "rediss://celery:x@127.0.0.1:6380/0?ssl_cert_reqs=required&ssl_ca_certs=/etc/ca.crt"
    text = with_variables(b"", {"CELERY_BROKER_URL": url})
    assert as_a_shell_reads(text)["CELERY_BROKER_URL"] == url
    assert with_variables(text, {"CELERY_BROKER_URL": url}) == text
    assert with_variables(b"", {"EMPTY": ""}).endswith(b"EMPTY=\n")
