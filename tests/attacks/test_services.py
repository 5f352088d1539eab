"""What the app's code, which runs as the app's user, makes of root's units, timers and terminal."""

from __future__ import annotations

import json
import re
from base64 import b64encode

import pytest

from tests.attacks.attacker import APP, DATABASE, ENV, MEDIA, SECRET, Victim
from tests.helpers.harness import redis
from tests.helpers.site import ask, login

pytestmark = pytest.mark.native

MARK = f"{MEDIA}/attack-mark"

# A program of the name that a script of root's calls; to all others it is what it was.
PROGRAM = f"""#!/bin/sh
[ "$(/usr/bin/id -u)" != 0 ] || /usr/bin/id >{MARK}
exec /usr/bin/${{0##*/}} "$@"
"""
NAMES = ("systemctl", "sh", "sleep", "env", "cat", "python3", "id")


def environment(victim: Victim) -> str:
    """`PATH` in the app's own `.env` leads to programs of his; then the services end."""
    user = victim.app_user
    before = {unit: victim.pid(unit) for unit in ("celery-beat", "celery-worker")}
    with victim.kept(ENV):
        plant = 'umask 022; mkdir -p "$1"; for n in $3; do printf %s "$2" >"$1/$n"; done; '
        plant += 'chmod 755 "$1"/*; printf "\\nPATH=%s:/usr/bin:/bin\\n" "$1" >>"$4"; kill $5'
        words = (f"{MEDIA}/bin", PROGRAM, " ".join(NAMES), ENV, " ".join(before.values()))
        victim.sh(plant, *words, user=user)
        for unit, pid in before.items():
            before[unit] = victim.wait_for_service(unit, pid)
        got = victim.sh(f"cat {MARK} 2>/dev/null; rm -rf {MARK} {MEDIA}/bin")
    victim.sh("kill $1", " ".join(before.values()))
    for unit, pid in before.items():
        victim.wait_for_service(unit, pid)
    return got


def test_an_environment_of_the_apps_makes_no_program_of_its_root(victim: Victim) -> None:
    victim.judge(environment(victim))


# Once the copy of his log is there, the log is a link to a file of root's.
SWAP_LOG = """
log, target = sys.argv[1:]
told()
while time.monotonic() < END:
    try:
        whole = os.stat(log + ".1").st_size >= 8192
    except OSError:
        continue
    if whole:
        link(target, log)
        print("swapped")
        break
"""
ROTATED = "/etc/celery-pi-attack"


def rotation(victim: Victim) -> str:
    """While logrotate works, a log becomes a link to a file of root's."""
    log, user = f"{APP}/logs/attack.log", victim.app_user
    with victim.planted(ROTATED, "x" * 65536) as before:
        victim.sh('head -c 10000 /dev/zero | tr "\\0" l >"$1"', log, user=user)
        with victim.attacked(user, SWAP_LOG, log, ROTATED) as said:
            command = ("logrotate", "-f", "/etc/logrotate.d/celery-pi")
            slow = victim.delayed(*command, calls="execve", seconds=0.3)
            victim.root(*slow, check=False)
        after = victim.stat(ROTATED)
        victim.sh('rm -f "$1"*', log)
    assert "swapped" in said, "logrotate made no copy: there was nothing to attack"
    return "" if after == before else f"{before} -> {after}"


def test_a_log_that_becomes_a_link_damages_no_file_of_roots(victim: Victim) -> None:
    victim.judge(rotation(victim))


# A command on a terminal of root's, who has typed something for whatever comes next.
TERMINAL = """
import os, pty, select, sys, time
typed, argv = sys.argv[1], sys.argv[2:]
pid, master = pty.fork()
if pid == 0:
    os.execvp(argv[0], argv)
os.write(master, typed.encode() + b"\\n")
end = time.monotonic() + 50
while time.monotonic() < end and select.select([master], [], [], 50)[0]:
    try:
        if not os.read(master, 4096):
            break
    except OSError:
        break
os.close(master)
print(os.waitpid(pid, 0)[1])
"""
# What the app does as it is loaded.
READ_TERMINAL = f"""
import os, select
for place in (0, "/dev/tty"):
    try:
        fd = os.open(place, os.O_RDWR) if place else 0
        if os.isatty(fd) and select.select([fd], [], [], 5)[0]:
            open({MARK!r}, "wb").write(os.read(fd, 100))
            break
    except OSError:
        pass
"""


def typed_at_check(victim: Victim) -> str:
    """The app's code, loaded for `celery-pi check`, reads from root's terminal."""
    code = f"{APP}/observations_nids/__init__.py"
    with victim.kept(code):
        victim.sh('printf %s "$2" >>"$1"', code, READ_TERMINAL)
        status = victim.root("python3", "-c", TERMINAL, SECRET, "celery-pi", "check")
        assert status == "0\n", "the app's code was not loaded to its end"
    return victim.sh(f"cat {MARK} 2>/dev/null; rm -f {MARK}")


def test_the_apps_code_reads_nothing_that_root_types(victim: Victim) -> None:
    victim.judge(typed_at_check(victim))


# He keeps root's child waiting, by a lock on his own database, and takes the terminal from it.
STEAL_TERMINAL = """
import select, sqlite3
holder = sqlite3.connect(sys.argv[1], isolation_level=None)
holder.execute("BEGIN EXCLUSIVE")
libc = ctypes.CDLL(None, use_errno=True)
told()
known, new = {pid for pid, _ in processes()}, set()
end = time.monotonic() + 40
while time.monotonic() < end:
    for pid, _ in processes():
        try:
            if pid in known or os.stat(f"/proc/{pid}").st_uid != ME:
                continue
            if pid not in new:  # as long as no other comes, it is the last
                new.add(pid)
                end = time.monotonic() + 4
            names = [n for n in os.listdir(f"/proc/{pid}/fd")
                     if os.readlink(f"/proc/{pid}/fd/{n}").startswith("/dev/pts/")]
            handle = os.pidfd_open(pid)
        except OSError:
            continue
        for name in names:
            fd = libc.syscall(438, handle, int(name), 0)  # pidfd_getfd
            if fd >= 0 and select.select([fd], [], [], 2)[0]:
                print("read", os.read(fd, 100))
                end = 0
                break
        os.close(handle)
print("waited")
"""


def terminal_of_a_child(victim: Victim) -> str:
    """A child of root's that runs as the app's user has root's terminal open."""
    victim.needs_ptrace()
    steal = victim.attacked(victim.app_user, STEAL_TERMINAL, DATABASE, patience=45)
    with victim.database(), steal as said:
        status = victim.root("python3", "-c", TERMINAL, SECRET, "celery-pi", "backup")
    assert said[-1] == "waited", said
    assert status == "0\n", "there is no backup, and so nobody read his database"
    return "".join(line for line in said if SECRET in line)


def test_a_child_of_roots_has_no_terminal_to_be_taken(victim: Victim) -> None:
    victim.judge(terminal_of_a_child(victim))


# The workers of nginx run as the same user; what they have read of a request is in their memory.
READ_NGINX = """
import re
for pid, line in processes():
    if not line.startswith("nginx: worker"):
        continue
    try:
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
            for area in maps:
                where, mode = area.split()[:2]
                start, end = (int(number, 16) for number in where.split("-"))
                if mode.startswith("rw"):
                    try:
                        memory.seek(start)
                        found = memory.read(end - start)
                    except OSError:
                        continue
                    for login in re.findall(rb"Authorization: Basic ([A-Za-z0-9+/=]+)", found):
                        print(login.decode())
    except OSError as error:
        print("refused", error.errno)
print("looked")
"""


def login_in_memory(victim: Victim) -> str:
    """The owner has looked at Flower; the app's user looks for his login in nginx' memory."""
    assert ask(victim.pi, "/flower/", login(victim.pi)).status == 200
    wanted = b64encode(login(victim.pi).encode()).decode()
    assert wanted in victim.python(READ_NGINX, user="root"), "it is not there at all"
    said = victim.python(READ_NGINX, user=victim.app_user).splitlines()
    assert said[-1:] == ["looked"], said
    return wanted if wanted in said else ""


def test_the_old_app_reads_the_owners_login_out_of_nginx(victim: Victim) -> None:
    """Now too while both are one user, on a kernel without Yama; but then the owner is told."""
    victim.needs_ptrace()
    got = login_in_memory(victim)
    if victim.is_old:
        victim.judge(got)
    elif got:
        told = json.loads(victim.root("celery-pi", "audit", "--json", check=False))["checks"]
        about = [each for each in told if "ptrace" in f"{each['name']} {each['evidence']}".lower()]
        assert [each["state"] for each in about] in (["warn"], ["wrong"]), about


def test_an_app_with_a_user_of_its_own_reads_nothing_out_of_nginx(birds: Victim) -> None:
    assert birds.app_user == "birds"
    birds.judge(login_in_memory(birds))


# More than the limit allows, by a script that says it may.
BEYOND = """
script = "#!lua flags=allow-oom\\nreturn redis.call('SET', KEYS[1], string.rep('x', ARGV[1]))"
try:
    redis.eval(script, 1, "unacked_mutex", sys.argv[1])
    print("held")
except Exception as error:
    print("refused", type(error).__name__)
"""
LIMIT, MORE = 20 * 2**20, 80 * 2**20


def memory_of_redis(victim: Victim) -> str:
    """The app has Redis hold four times what it may, and no limit of the machine's is near."""
    before = redis(victim.pi, "config", "get", "maxmemory").split()[-1]
    most = victim.sh("systemctl show -P MemoryMax redis-server").strip()
    try:
        redis(victim.pi, "config", "set", "maxmemory", str(LIMIT))
        said = victim.in_app(BEYOND, str(MORE))
        used = int(re.findall(r"used_memory:(\d+)", redis(victim.pi, "info", "memory"))[0])
    finally:
        redis(victim.pi, "del", "unacked_mutex")
        redis(victim.pi, "config", "set", "maxmemory", before)
    assert said == "held" or said.startswith("refused"), said
    assert most == "infinity" or int(before) < int(most) < 4 * int(before) + 2**30, most
    return f"{used} bytes at a limit of {LIMIT}" if most == "infinity" and used > 3 * LIMIT else ""


def test_what_redis_holds_is_bounded_though_a_script_is_not(victim: Victim) -> None:
    victim.judge(memory_of_redis(victim))
