"""Managed by celery-pi. Ways from another user to root: what the app's user and the owner of its
code may do, by the kernel, by groups, by sudo and by files that change who runs them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from celery_pi_tools.checks.escalation import units
from celery_pi_tools.checks.registry import Finding, check, ok, warn, wrong
from celery_pi_tools.commands import CannotRead
from celery_pi_tools.privileges import Refused, account, attempt, group_name, user_name
from celery_pi_tools.system import System
from celery_pi_tools.table import few

PTRACE = Path("/proc/sys/kernel/yama/ptrace_scope")
NGINX = Path("/etc/nginx/nginx.conf")
NGINX_USER = re.compile(r"^\s*user\s+([\w.-]+)", re.MULTILINE)
SUDO = "/usr/bin/sudo"
WITHOUT_PASSWORD = re.compile(r"^\s*\((?:ALL|root)\b[^)]*\)(?:\s+\w+:)*\s+NOPASSWD:", re.MULTILINE)
# Members of the first are root whenever they like; of the second, they read what root has kept.
TO_ROOT = {"root", "sudo", "docker", "disk", "lxd", "incus", "incus-admin", "kmem", "shadow"}
READ_MORE = {"adm", "systemd-journal", "redis"}
FIND = ("/usr/bin/find", "-xdev", "-type", "f", "-perm", "/6000", "-printf", "%m %u %p\\0")
PATIENCE = 10  # seconds for a walk through the app


@check("Escalation", "Memory of other processes (ptrace)", "audit")
def ptrace(system: System) -> Finding:
    user, web = system.settings["app_user"], web_user()
    if PTRACE.exists():
        scope = int(PTRACE.read_text())
        if scope:
            return ok(f"a process may look into its children's only ({scope})", scope=scope)
        evidence = f"every process of {user} may look into the memory of the others"
        return wrong(evidence, "deploy again, which sets kernel.yama.ptrace_scope = 1", scope=0)
    evidence = f"this kernel has no Yama: processes of {user} can read each other's memory"
    if user != web:
        return ok(f"{evidence}, and nobody else's", scope=None)
    return warn(
        f"{evidence}, nginx' key among it",
        "give the app a user of its own (app_user): docs/operate/app-user.md",
        scope=None,
    )


@check("Escalation", "User of the app", "audit")
def shared(system: System) -> Finding:
    user, web = system.settings["app_user"], web_user()
    if user != web:
        return ok(f"{user}; nginx' workers are {web}", user=user)
    return warn(
        f"{user}, as nginx' workers are: the app reaches what the web server holds, its files and "
        "sockets and, without Yama, the certificate's key and the logins in its memory",
        "give the app a user of its own (app_user): docs/operate/app-user.md",
        user=user,
    )


def web_user() -> str:
    """The user of nginx' workers."""
    text = NGINX.read_text() if NGINX.exists() else ""
    match = NGINX_USER.search(text)
    return match[1] if match else "www-data"


@check("Escalation", "Groups of the app's user", "audit")
def groups(system: System) -> Finding:
    user = system.settings["app_user"]
    names = {group_name(gid) for gid in account(user).groups}
    powers = [
        f"{unit.name} has {unit.capabilities}"
        for unit in units(system)
        if unit.user == user and unit.capabilities
    ]
    roots, readers = sorted(names & TO_ROOT), sorted(names & READ_MORE)
    values = {"groups": sorted(names), "capabilities": powers}
    if roots or powers:
        evidence = [f"{user} is in {', '.join(roots)}"] if roots else []
        remedy = f"gpasswd -d {user} GROUP; systemctl edit the unit: AmbientCapabilities="
        return wrong("; ".join([*evidence, *powers]), remedy, **values)
    if readers:
        evidence = [f"{user} is in {', '.join(readers)}: it reads logs, or Redis' files"]
        return warn(evidence[0], f"gpasswd -d {user} GROUP; then restart its services", **values)
    return ok(", ".join(sorted(names)), **values)


@check("Escalation", "Rules of sudo", "audit")
def sudo(system: System) -> Finding | None:
    if not Path(SUDO).exists():
        return None
    user = system.settings["app_user"]
    owner = user_name(os.stat(system.settings["app_dir"]).st_uid)  # noqa: PTH116
    if allowed(user):
        remedy = "grep -r it in /etc/sudoers.d, and take its rule out: visudo -f FILE"
        return wrong(f"{user}, as whom the app runs, may use sudo", remedy, users=[user])
    if owner not in ("root", user) and WITHOUT_PASSWORD.search(allowed(owner)):
        return warn(
            f"{owner}, who owns the code, is root without a password: whoever gets a shell, or an "
            "ssh key, of that user is root (Raspberry Pi OS has it so)",
            "give the code to a user who has no sudo; or have sudo ask: visudo -f "
            "/etc/sudoers.d/010_pi-nopasswd",
            users=[owner],
        )
    return ok(f"none for {user}, none without a password for {owner}", users=[])


def allowed(user: str) -> str:
    """sudo's rules for that user; empty if there are none. Raises CannotRead."""
    done = attempt("root", (SUDO, "-n", "-l", "-U", user), timeout=PATIENCE)
    output = (done.out + done.err).decode(errors="replace")
    if "is not allowed to run sudo" in output:
        return ""
    if "may run the following commands" not in output:
        raise CannotRead(f"sudo says: {done.last_words}", f"run it by hand: sudo -l -U {user}")
    return output


@check("Escalation", "Files that change the user", "audit")
def set_ids(system: System) -> Finding:
    """Set-gid directories are not meant: they only pass on their group."""
    app = system.settings["app_dir"]
    program, *test = FIND
    by_hand = f"find {app} -xdev -type f -perm /6000"
    try:
        done = attempt("root", (program, app, *test), timeout=PATIENCE)
    except Refused as error:
        return warn(f"not looked for to the end: {error}", f"look by hand: {by_hand}", files=[])
    files = done.out.decode(errors="replace").split("\0")[:-1]
    if files:
        return wrong(
            f"set-uid or set-gid: {few(files)}",
            f"{by_hand} -exec chmod a-s {{}} +",
            files=files[:100],
        )
    return ok("none below the app", files=[])
