"""The virtual Pi of this machine's own kind shows what emulation cannot, and needs no cures."""

from __future__ import annotations

from tests.virtual_pi import VirtualPi

RUN = ("systemd-run", "--quiet", "--wait", "--pipe", "--collect")


def test_forbidden_system_call_is_refused(fresh_native_pi: VirtualPi) -> None:
    filtered = (*RUN, "-p", "SystemCallFilter=~mkdir mkdirat", "mkdir", "/root/made")
    assert fresh_native_pi.run(*filtered, check=False).returncode != 0
    assert fresh_native_pi.run("test", "-e", "/root/made", check=False).returncode == 1
    fresh_native_pi.run(*RUN, "mkdir", "/root/made")


def test_user_namespaces_work_with_a_hidden_proc(fresh_native_pi: VirtualPi) -> None:
    sandbox = ("-p", "PrivateUsers=yes", "-p", "ProtectProc=invisible", "-p", "User=www-data")
    assert fresh_native_pi.run(*RUN, *sandbox, "id", "-un").stdout == "www-data\n"


def test_no_cure_of_emulation_is_on_it(fresh_native_pi: VirtualPi) -> None:
    found = fresh_native_pi.run("find", "/etc", "/usr/local", "-name", "*emulated*").stdout
    assert found == ""
    assert fresh_native_pi.run("dpkg-divert", "--list", "*redis*").stdout == ""
