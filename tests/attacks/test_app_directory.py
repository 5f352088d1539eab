"""Root in the app's directory, where whoever may write swaps a link, a FIFO or a great file in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import pytest

from tests.attacks.attacker import (
    APP,
    BACKUPS,
    ENV,
    SECRET,
    Victim,
    newest_backup,
    swapping_new_files,
    swaps,
)

pytestmark = pytest.mark.native

TARGET = "/etc/celery-pi-attack"
PROFILE = "/etc/profile.d/celery-pi-attack.sh"

# Each file that root hands over in a workspace is a link to a file of root's before root has given
# it away. He may not list the workspace; but names in it are the same each time, and programs that
# run for him are told them.
SWAP_HANDED = """
target, = sys.argv[1:]
told()
done = set()
while time.monotonic() < END:
    rooms = set(glob.glob("/var/tmp/celery-pi-*"))
    names = {f"{room}/{name}" for room in rooms
             for name in ("app", "check", "put", "keep", "data", "run", "archive", "room")}
    for room in names:
        try:
            if os.stat(room).st_uid != ME:
                continue
            for entry in os.scandir(room):
                # Without its socket, a server that has to load data is waited for.
                if entry.path not in done and entry.is_file(follow_symlinks=False):
                    link(target, entry.path)
                    done.add(entry.path)
                    print("swapped", entry.name)
        except OSError:
            pass
"""


def handed_over(victim: Victim, user: str) -> str:
    """What root gives that user, in a drill and in a backup, is a link to a file of root's."""
    with victim.database(), victim.planted(TARGET) as before:
        newest_backup(victim)
        with victim.attacked(user, SWAP_HANDED, TARGET):
            told = victim.root(*victim.delayed("celery-pi", "drill"), check=False)
            victim.root(*victim.delayed("celery-pi", "backup"), check=False)
        after = victim.stat(TARGET)
    assert victim.is_old or "can be restored" in told, told
    return "" if after == before else f"{before} -> {after}"


@pytest.mark.parametrize("user", ["www-data", "redis"])
def test_what_root_hands_over_is_no_file_of_roots(victim: Victim, user: str) -> None:
    victim.judge(handed_over(victim, user))


@contextmanager
def _as_owner(victim: Victim, user: str) -> Iterator[None]:
    """The app's directory is that user's: `pi` owns it by itself."""
    with nullcontext() if user == "pi" else victim.theirs():
        yield


def restored(victim: Victim, user: str) -> str:
    """`.env` is a link to a file that is not there, where root's shells look for files."""
    swap = 'mv "$1" "$1.old" && ln -s "$2" "$1"'
    with victim.kept(ENV, PROFILE), _as_owner(victim, user):
        backup = newest_backup(victim)
        victim.sh(swap, ENV, PROFILE, user=user)
        victim.root("celery-pi", "restore", "--yes", "--only", "app", backup, check=False)
        got = victim.stat(PROFILE)
        victim.sh('rm -rf "$@"', backup, f"{ENV}.old", PROFILE)
    for unit in ("celery-worker", "celery-beat"):
        victim.root("systemctl", "start", unit)
    return got


@pytest.mark.parametrize("user", ["www-data", "pi"])
def test_a_restore_makes_no_file_where_a_link_leads(victim: Victim, user: str) -> None:
    victim.judge(restored(victim, user))


# Whoever reads `.env` is given a text; before it ends, the path leads to a file of root's.
FEED = """
env, target = sys.argv[1:]
os.remove(env)
os.mkfifo(env, 0o600)
told()
for turn in (1, 2):
    with open(env, "w") as fifo:
        fifo.write("OURS=chosen by the app\\n")
        print("read", turn, flush=True)
        if turn == 2:
            link(target, env)
    time.sleep(0.05)  # the next to open it must not be this reader still
"""


def doctored(victim: Victim) -> str:
    """`.env` is a FIFO as root looks at it, and a link to a file of root's as he writes it."""
    with victim.kept(ENV), victim.theirs(), victim.planted(TARGET, mode="644") as before:
        with victim.attacked("www-data", FEED, ENV, TARGET):
            victim.root("celery-pi", "doctor", "--fix", check=False)
        after, text = victim.stat(TARGET), victim.sh(f"cat {TARGET}")
    assert after == before or "chosen by the app" in text, text
    return "" if after == before else text


def test_a_repair_writes_no_text_of_the_apps_into_a_file_of_roots(victim: Victim) -> None:
    victim.judge(doctored(victim))


# Until he is ended, the path is now his own file or directory, now a link to a file of root's. He
# waits for the victim to be at the place, or, where nobody comes there, swaps as fast as he can.
SWAP = """
path, target, program, words, blindly = sys.argv[1:]
kept = path + ".kept"
told()
while time.monotonic() < END:
    if blindly or seen(program, words):
        os.rename(path, kept)
        os.symlink(target, path)
        while not blindly and seen(program, words):
            pass
        time.sleep(0.001 if blindly else 0.1)
        os.replace(kept, path) if os.path.isfile(kept) else (os.remove(path), os.rename(kept, path))
        SWAPS[0] += 1
    if blindly:
        time.sleep(0.001)
"""
PUT_BACK = '[ ! -e "$1.kept" ] || { rm -rf "$1"; mv "$1.kept" "$1"; }'
TRIES = 200
Place = tuple[str, str]


def raced(
    victim: Victim,
    user: str,
    path: str,
    place: tuple[str, str],
    got: Callable[[], str],
    **data: str,
) -> str:
    """What a deploy of the app gives to that user, who swaps the path while root is at a place:
    in a program, stopped there, that is given these words. Where it is no more, in many tries."""
    tries = 0
    for blindly in ("", *("blindly",) * 8):
        swap = victim.attacked(user, SWAP, path, TARGET, *place, blindly)
        with victim.slowed(*place), swap as said:
            outcome = victim.deploy("tasks.app.deploy", **data)
        victim.sh(PUT_BACK, path)
        # It got there: by an operation, or by its plan, which looks at the same things.
        assert "App | " in outcome.output or APP in outcome.output, outcome.output
        tries += swaps(said) if blindly else 0
        if (found := got()) or tries >= TRIES:
            return found
    raise AssertionError(f"no more than {tries} tries")


def read_by_root(victim: Victim) -> str:
    """`.env` is a link to a secret while a deploy reads it; the deploy writes what it has read."""

    def got() -> str:
        text = victim.sh('cat "$1"* 2>/dev/null; true', ENV, user="www-data")
        return SECRET if SECRET in text else ""

    with victim.kept(ENV, f"{ENV}.kept"), victim.theirs(), victim.planted(TARGET):
        return raced(victim, "www-data", ENV, ("runuser", "test -w"), got)


def test_a_deploy_reads_no_file_of_roots_for_the_app(victim: Victim) -> None:
    victim.judge(read_by_root(victim))


def given_away(victim: Victim) -> str:
    """A directory that a deploy is to give to the app becomes a link to a file of root's."""
    path = f"{APP}/attack"
    with victim.kept(path, f"{path}.kept"), victim.planted(TARGET) as before:

        def got() -> str:
            after = victim.stat(TARGET)
            return "" if after == before else f"{before} -> {after}"

        victim.sh('mkdir "$1"', path, user="pi")
        place, writable = ("chown", path), "media,logs,attack"
        return raced(victim, "pi", path, place, got, app_writable=writable)


def test_a_deploy_gives_no_file_of_roots_away(victim: Victim) -> None:
    victim.judge(given_away(victim))


def written_beside(victim: Victim) -> str:
    """A deploy puts a variable back into `.env`, in a directory that `pi` may write."""
    with victim.kept(ENV), victim.planted(TARGET) as before:
        victim.sh("sed -i /^CELERY_KEY_PREFIX/d $1", ENV)
        with swapping_new_files(victim, "pi", APP, TARGET):
            outcome = victim.deploy("tasks.app.deploy")
        after = victim.stat(TARGET)
    assert "Set the broker" in outcome.output, outcome.output
    return "" if after == before else f"{before} -> {after}"


def test_a_deploy_gives_no_file_away_for_what_it_writes_beside(victim: Victim) -> None:
    victim.judge(written_beside(victim))


SCHEDULE = "/var/lib/celery-beat/schedule"


def hanging_status(victim: Victim) -> str:
    """What Beat keeps is a FIFO that nobody writes to."""
    start = time.monotonic()
    victim.root("celery-pi", "status", check=False)
    limit = str(8 + 5 * (time.monotonic() - start))
    with victim.beat_stopped(), victim.kept(SCHEDULE):
        victim.sh('rm "$1" && mkfifo "$1"', SCHEDULE, user=victim.app_user)
        done = victim.pi.run("timeout", limit, "celery-pi", "status", check=False)
    assert done.returncode in (0, 1, 124), done.stderr
    return "it hangs" if done.returncode == 124 else ""


def test_a_fifo_of_the_apps_keeps_no_status_from_being_told(victim: Victim) -> None:
    victim.judge(hanging_status(victim))


# The most memory that a command and its children have used, in KiB.
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], capture_output=True, check=False, timeout=50)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
SPARSE = 512 * 2**20


def memory_of(victim: Victim, path: str, *command: str) -> str:
    """A file of the app's that takes no room on the disk takes root's memory."""
    with victim.beat_stopped(), victim.kept(path):
        victim.sh('truncate -s "$2" "$1"', path, str(SPARSE), user=victim.app_user)
        used = int(victim.sh('python3 -c "$@"', MEASURE, *command)) * 1024
    victim.sh(f"rm -f {BACKUPS}/*")
    return f"{used} bytes" if used > SPARSE * 3 // 4 else ""


@pytest.mark.parametrize(
    ("path", "command"), [(SCHEDULE, "status"), (ENV, "backup"), (ENV, "doctor")]
)
def test_a_great_file_of_the_apps_takes_none_of_roots_memory(
    victim: Victim, path: str, command: str
) -> None:
    victim.judge(memory_of(victim, path, "celery-pi", command))
