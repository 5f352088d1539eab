"""The virtual Pi from the command line: `python -m tests.virtual_pi up|down|shell|build`."""

import argparse
import os
import sys

from tests.virtual_pi.app import SOURCE, put_app
from tests.virtual_pi.console import VirtualPiError
from tests.virtual_pi.host import ensure_host
from tests.virtual_pi.image import ensure_image, image_name
from tests.virtual_pi.machine import VirtualPi
from tests.virtual_pi.platforms import DEFAULT_PLATFORM, DEFAULT_RELEASE, PLATFORMS, RELEASES

_SUMMARY = 'uname -m; read -r debian < /etc/debian_version; echo "$debian"'


def main() -> int:
    """Run the command; what goes wrong ends as one sentence and status 1."""
    arguments = _parser().parse_args()
    try:
        _COMMANDS[arguments.command](arguments)
    except VirtualPiError as error:
        print(error, error.detail, sep="\n", end="\n" if error.detail else "", file=sys.stderr)
        return 1
    return 0


def up(arguments: argparse.Namespace) -> None:
    """Bring the machine up with the Django project on it, and say what it is."""
    pi = _pi(arguments)
    pi.up()
    if SOURCE.is_dir():
        put_app(pi)
    machine, debian = pi.run("sh", "-c", _SUMMARY).stdout.split()
    print(f"{pi.name}: {machine}, Debian {debian}, systemd running")  # `up` accepts nothing less


def down(arguments: argparse.Namespace) -> None:
    """Remove the machine and everything on it."""
    _pi(arguments).down()


def shell(arguments: argparse.Namespace) -> None:
    """Become a shell of the user pi, who may sudo."""
    name = _name(arguments)
    inside = ["--interactive", "--user", "pi", "--workdir", "/home/pi", name, "bash", "--login"]
    terminal = ["--tty"] if sys.stdin.isatty() else []
    try:
        # in our place, so that the terminal and the exit status are the shell's own
        os.execvp("docker", ["docker", "exec", *terminal, *inside])  # noqa: S606
    except OSError as error:
        raise VirtualPiError(f"The docker command cannot be run ({error.strerror}).") from error


def build(arguments: argparse.Namespace) -> None:
    """Build the image, if anything it is made of has changed."""
    ensure_host(arguments.platform)
    print(ensure_image(arguments.platform, arguments.release, arguments.fresh))


_COMMANDS = {"up": up, "down": down, "shell": shell, "build": build}


def _pi(arguments: argparse.Namespace) -> VirtualPi:
    return VirtualPi(_name(arguments), arguments.platform, release=arguments.release)


def _name(arguments: argparse.Namespace) -> str:
    """The container is called like its image, unless told otherwise."""
    return arguments.name or image_name(arguments.platform, arguments.release)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.virtual_pi", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in _COMMANDS.items():
        command = commands.add_parser(name, help=function.__doc__)
        command.add_argument("--name", help="the container's name (default: the image's)")
        command.add_argument("--platform", default=DEFAULT_PLATFORM, choices=PLATFORMS)
        command.add_argument("--release", default=DEFAULT_RELEASE, choices=RELEASES)
    fresh = "build it from new packages in any case"
    commands.choices["build"].add_argument("--fresh", action="store_true", help=fresh)
    return parser


if __name__ == "__main__":
    sys.exit(main())
