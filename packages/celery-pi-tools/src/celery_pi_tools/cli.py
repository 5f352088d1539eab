"""Managed by celery-pi. The command `celery-pi`: looks at this Pi's Redis and Celery.

Exit status: 0 all is well, 1 something is wrong, 2 it could not look.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from celery_pi_tools import config

WITHOUT_SETTINGS = {"deploys", "backup", "restore", "drill"}  # the last three report it themselves
RENAMED = {"prove": "smoke-test", "set-aside": "dead-letters"}  # accepted until 2027-06


def build_parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    parser = argparse.ArgumentParser(
        prog="celery-pi", description="Looks at this Pi's Redis and Celery."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "smoke-test", aliases=["prove"], help="run a task through broker, worker and result store"
    )
    dead = commands.add_parser(
        "dead-letters", aliases=["set-aside"], help="list tasks that were lost with their process"
    )
    dead.add_argument("--return", action="store_true", help="put them back to their queues")
    doctor = commands.add_parser("doctor", help="find the known problems, and repair them")
    doctor.add_argument("--fix", action="store_true", help="do what is safe, and look again")
    doctor.add_argument("--json", action="store_true", help="for programs")
    check = commands.add_parser(
        "check", help="show whether the worker would run the app as it is now"
    )
    check.add_argument("--candidate", metavar="DIRECTORY", help=argparse.SUPPRESS)
    for name, what in (("status", "how all is"), ("audit", "whether all is as closed as it was")):
        view = commands.add_parser(name, help=f"show {what}")
        view.add_argument("--json", action="store_true", help="for programs")
    deploys = commands.add_parser("deploys", help="list the deploys that changed something")
    deploys.add_argument("--json", action="store_true", help="for programs")
    maintenance = commands.add_parser("maintenance", help="show a page, and begin no task")
    maintenance.add_argument("state", nargs="?", choices=("on", "off"))
    maintenance.add_argument("--message", help="the text of the page")
    commands.add_parser("backup", help="make a backup of Redis and the app now")
    commands.add_parser("drill", help="restore the newest backup on trial, and compare")
    restore = commands.add_parser("restore", help="replace what is there by a backup")
    restore.add_argument("file", help="such as the newest in /var/backups/celery-pi")
    restore.add_argument("--yes", action="store_true", help="do not ask")
    restore.add_argument("--only", choices=("redis", "app"), help="leave the other as it is")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Runs a command, by default that of this process; its exit status."""
    arguments = with_new_name(build_parser().parse_args(words))
    if os.geteuid() != 0:
        print("celery-pi: must run as root: sudo celery-pi", file=sys.stderr)
        return 2
    settings: config.Settings = {}
    if arguments.command not in WITHOUT_SETTINGS:
        try:
            settings = config.load()
        except config.CannotLoad as error:
            return cannot_look(error)
    try:
        return run(arguments, settings)
    except config.CannotLoad as error:  # the manifest
        return cannot_look(error)


def with_new_name(arguments: argparse.Namespace) -> argparse.Namespace:
    """The same with the present name of the command; prints a sentence for an old one."""
    if new := RENAMED.get(arguments.command):
        print(f"celery-pi: {arguments.command} is called {new} now", file=sys.stderr)
        arguments.command = new
    return arguments


def cannot_look(error: config.CannotLoad) -> int:
    """Prints the reason; the exit status."""
    print(f"celery-pi: {error}", file=sys.stderr)
    return 2


def run(arguments: argparse.Namespace, settings: config.Settings) -> int:
    """Each command imports what it needs, and no more."""
    match arguments.command:
        case "status" | "audit":
            from celery_pi_tools.checks import report

            return report.main(arguments.command, settings, arguments.json)
        case "doctor":
            from celery_pi_tools.doctor import command

            return command.main(settings, arguments.fix, arguments.json)
        case "check":
            from celery_pi_tools import app_check

            return app_check.main(settings, arguments.candidate)
        case "smoke-test":
            from celery_pi_tools import smoke_test

            return smoke_test.main(settings)
        case "dead-letters":
            from celery_pi_tools import dead_letters

            return dead_letters.main(settings, vars(arguments)["return"])
        case "deploys":
            from celery_pi_tools import deploys

            return deploys.main(arguments.json)
        case "maintenance":
            from celery_pi_tools import maintenance

            return maintenance.main(settings, arguments.state, arguments.message)
        case "backup":
            from celery_pi_tools.backup import create

            return create.main()
        case "drill":
            from celery_pi_tools.backup import drill

            return drill.main()
        case _:
            from celery_pi_tools.backup import restore

            return restore.main(arguments.file, arguments.yes, arguments.only)
