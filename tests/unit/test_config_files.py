"""Configuration files: written whole or not at all, and only when they differ."""

from __future__ import annotations

import base64
import grp
import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from celery_pi.operations.config_files import ConfigFile, FileState, FileStates, config_files
from celery_pi.shell import assign, replace_file
from tests.helpers.fake import ME, Run, as_root, inode, mode, run, sh

EVERY_BYTE = bytes(range(256)) * 40 + b"no line end"
OURS = grp.getgrgid(os.getgid()).gr_name


def replace(
    path: Path, content: bytes, check: str = "", file_mode: str = "0640"
) -> subprocess.CompletedProcess[bytes]:
    """Run the command as a connector does: the text to `sh -c`, the content to its input."""
    command = replace_file(str(path), content, user=ME, group=OURS, mode=file_mode, check=check)
    return subprocess.run(
        ["sh", "-c", command.get_raw_value()],
        input=str(command.connector_arguments["_stdin"]).encode(),
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("content", [b"", b"\n", b"one line\n", b"\r\n\t $x `y`", EVERY_BYTE])
@pytest.mark.parametrize("before", [None, b"old\n"])
def test_content_arrives_to_the_byte_with_its_mode(
    tmp_path: Path, content: bytes, before: bytes | None
) -> None:
    live = tmp_path / "x.conf"
    if before is not None:
        live.write_bytes(before)
    assert replace(live, content).returncode == 0
    assert (live.read_bytes(), mode(live), live.owner()) == (content, 0o640, ME)
    assert list(tmp_path.iterdir()) == [live]


@pytest.mark.parametrize("name", ["a b.conf", "it's", 'say "x"', "$(touch oops)", "-rf", "ü;x&"])
def test_any_path_is_taken_as_it_is_and_its_parents_are_made(tmp_path: Path, name: str) -> None:
    live = tmp_path / name / "deep" / name
    assert replace(live, b"new").returncode == 0
    assert live.read_bytes() == b"new"
    assert mode(live.parent) == mode(live.parent.parent) == 0o755
    assert list(tmp_path.iterdir()) == [tmp_path / name]


@as_root
def test_owner_and_group_are_set(tmp_path: Path) -> None:
    live = tmp_path / "x"
    command = replace_file(str(live), b"", user="nobody", group="nogroup", mode="0600")
    subprocess.run(["sh", "-c", command.get_raw_value()], input=b"", check=True)
    assert (live.owner(), live.group()) == ("nobody", "nogroup")


@pytest.mark.parametrize(
    "spoiler",
    ["check", "owner", "mode", "input"],
)
def test_failure_leaves_the_live_file_and_no_debris(tmp_path: Path, spoiler: str) -> None:
    live = tmp_path / "x.conf"
    live.write_bytes(b"good\n")
    before = inode(live)
    command = replace_file(
        str(live),
        b"bad\n",
        user="no-such-user" if spoiler == "owner" else ME,
        group=OURS,
        mode="rubbish" if spoiler == "mode" else "0644",
        check="false" if spoiler == "check" else "",
    )
    sent = b"\xff no base64" if spoiler == "input" else base64.b64encode(b"bad\n")
    done = subprocess.run(
        ["sh", "-c", command.get_raw_value()], input=sent, capture_output=True, check=False
    )
    assert done.returncode != 0
    assert (live.read_bytes(), inode(live)) == (b"good\n", before)
    assert list(tmp_path.iterdir()) == [live]


def test_check_sees_the_finished_candidate_under_the_name_of_the_live_file(tmp_path: Path) -> None:
    live = tmp_path / "x.service"
    live.write_text("old")
    check = (
        f'cp -p "$NEW" {tmp_path}/candidate && cp -p {live} {tmp_path}/live && echo "${{NEW##*/}}"'
    )
    done = replace(live, b"new", check, file_mode="0604")
    candidate = tmp_path / "candidate"
    assert (candidate.read_text(), mode(candidate), candidate.owner()) == ("new", 0o604, ME)
    assert (tmp_path / "live").read_text() == "old"
    assert (done.stdout, done.stderr) == (b"", b"x.service\n")


def test_candidate_is_hidden_from_others_until_it_is_live(tmp_path: Path) -> None:
    check = f'stat -c %a "${{NEW%/*}}" >{tmp_path}/seen'
    assert replace(tmp_path / "x", b"secret", check, file_mode="0600").returncode == 0
    assert (tmp_path / "seen").read_text() == "700\n"


def test_run_that_was_cut_off_leaves_the_live_file_and_the_next_clears_its_remains(
    tmp_path: Path,
) -> None:
    live = tmp_path / "x.conf"
    live.write_bytes(b"old\n")
    assert replace(live, b"half\n", check="kill -9 $$").returncode != 0
    assert live.read_bytes() == b"old\n"
    assert len(list(tmp_path.iterdir())) == 2
    assert replace(live, b"new\n").returncode == 0
    assert live.read_bytes() == b"new\n"
    assert list(tmp_path.iterdir()) == [live]


def test_reader_that_has_the_file_open_keeps_the_old_content_whole(tmp_path: Path) -> None:
    live = tmp_path / "x"
    live.write_bytes(b"old" * 1000)
    with live.open("rb") as reader:
        replace(live, b"new")
        assert reader.read() == b"old" * 1000


def test_content_is_not_in_the_command() -> None:
    command = replace_file("/x", b"s3cret", user="a", group="b", mode="0600")
    text = command.get_raw_value()
    assert "s3cret" not in text
    assert base64.b64encode(b"s3cret").decode()[:6] not in text


def test_assigned_values_reach_the_shell_as_they_are() -> None:
    value = "a b'c\"d$HOME`x`\\;#\n*"
    script = assign(one=value, two="").get_raw_value() + ' printf "%s|%s" "$one" "$two"'
    assert subprocess.check_output(["sh", "-c", script]).decode() == f"{value}|"


def ours(path: Path, content: str = "new\n", **more: object) -> ConfigFile:
    return ConfigFile(str(path), content, user=ME, group=OURS, **more)  # type: ignore[arg-type]


def deploy(*files: ConfigFile, dry: bool = False) -> Run:
    return run(lambda: config_files(name="Configure", files=files), dry=dry)


def states(*paths: Path) -> dict[str, FileState]:
    fact = FileStates()
    return fact.process(sh(fact.command(paths=[str(path) for path in paths])))


def test_fact_tells_the_state_of_regular_files_alone(tmp_path: Path) -> None:
    there, link, directory = tmp_path / "a b'c", tmp_path / "link", tmp_path / "d"
    there.write_bytes(EVERY_BYTE)
    there.chmod(0o4640)
    link.symlink_to(there)
    directory.mkdir()
    digest = hashlib.sha256(EVERY_BYTE).hexdigest()
    expected = FileState("4640", there.owner(), there.group(), digest)
    found = states(tmp_path / "none", there, link, directory, tmp_path / "none2")
    assert found == {str(there): expected}
    assert states(tmp_path / "none") == {}


def test_declared_state_is_what_the_fact_finds_once_written(tmp_path: Path) -> None:
    file = ours(tmp_path / "x", "é✓\r\nno line end", mode="0604")
    deploy(file)
    assert states(tmp_path / "x") == {file.path: file.state}


def test_files_as_declared_are_not_touched_and_cost_one_command(tmp_path: Path) -> None:
    files = [ours(tmp_path / f"{number}.conf", f"{number}\n") for number in range(5)]
    assert deploy(*files).changed == [True]
    before = [inode(Path(file.path)) for file in files]
    again = deploy(*files, dry=True)
    assert (again.planned, len(again.commands)) == ([False], 1)
    assert deploy(*files).changed == [False]
    assert [inode(Path(file.path)) for file in files] == before


def test_plan_writes_nothing(tmp_path: Path) -> None:
    assert deploy(ours(tmp_path / "sub" / "x"), dry=True).planned == [True]
    assert list(tmp_path.iterdir()) == []


def test_only_the_file_that_differs_is_written(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    deploy(ours(one), ours(two))
    kept = inode(one)
    two.write_text("edited by hand\n")
    assert deploy(ours(one), ours(two)).changed == [True]
    assert (inode(one), two.read_text()) == (kept, "new\n")


def test_wrong_mode_alone_is_mended_without_a_rewrite_or_a_check(tmp_path: Path) -> None:
    live = tmp_path / "x"
    deploy(ours(live))
    before = inode(live)
    live.chmod(0o600)
    assert deploy(ours(live, check="false")).changed == [True]
    assert (mode(live), inode(live)) == (0o644, before)
    assert deploy(ours(live)).changed == [False]


@as_root
def test_wrong_owner_alone_is_mended_without_a_rewrite(tmp_path: Path) -> None:
    live = tmp_path / "x"
    deploy(ours(live))
    before = inode(live)
    os.chown(live, 65534, 65534)
    assert deploy(ours(live)).changed == [True]
    assert (live.owner(), live.group(), inode(live)) == (ME, OURS, before)


@pytest.mark.parametrize("target", ["same", "other", "dangling"])
def test_link_at_the_path_is_replaced_and_not_followed(tmp_path: Path, target: str) -> None:
    live, elsewhere = tmp_path / "x", tmp_path / "elsewhere"
    if target != "dangling":
        elsewhere.write_text("new\n" if target == "same" else "of another\n")
    live.symlink_to(elsewhere)
    before = elsewhere.read_text() if elsewhere.exists() else None
    assert deploy(ours(live)).changed == [True]
    assert not live.is_symlink()
    assert live.read_text() == "new\n"
    assert (elsewhere.read_text() if elsewhere.exists() else None) == before


def test_directory_at_the_path_is_an_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    done = deploy(ours(tmp_path / "x"))
    assert done.error
    assert [path.name for path in tmp_path.rglob("*")] == ["x"]


def test_refused_candidate_fails_the_operation_and_says_why(tmp_path: Path) -> None:
    live, after = tmp_path / "x", tmp_path / "after"
    live.write_text("good\n")
    done = deploy(ours(live, check='echo "no: $(cat "$NEW")"; false'), ours(after))
    assert done.error
    assert "no: new" in done.shown
    assert live.read_text() == "good\n"
    assert not after.exists()


def test_diff_shows_what_changes(tmp_path: Path) -> None:
    live = tmp_path / "x"
    live.write_text("kept\nold line\n")
    live.chmod(0o600)
    shown = deploy(ours(live, "kept\nnew line\n"), dry=True).shown
    assert f"Will modify {live}" in shown
    assert "old line" in shown
    assert "new line" in shown
    assert f"600 {ME} {OURS} -> 644 {ME} {OURS}" in shown
    assert f"Will create {tmp_path}/y" in deploy(ours(tmp_path / "y"), dry=True).shown


def test_secret_file_is_shown_in_no_way_neither_old_nor_new(tmp_path: Path) -> None:
    live = tmp_path / "x"
    live.write_text("0ld-secret\n")
    done = deploy(ours(live, "n3w-secret\n", secret=True))
    assert live.read_text() == "n3w-secret\n"
    assert f"Will modify {live}" in done.shown
    for secret in ("0ld-secret", "n3w-secret"):
        encoded = base64.b64encode(f"{secret}\n".encode()).decode()
        for form in (secret, encoded):
            assert form not in done.shown
            assert form not in "".join(done.commands)
    assert "n3w-secret" not in repr(ours(live, "n3w-secret", secret=True))
