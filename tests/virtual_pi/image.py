"""The image of the virtual Pi: a root file system, our overlay, and the emulation's cures."""

import hashlib
import shutil
import tempfile
from pathlib import Path

from docker.errors import BuildError, ImageNotFound

from tests.virtual_pi.certificates import bundles, extra_certificates
from tests.virtual_pi.console import VirtualPiError, step, tail
from tests.virtual_pi.engine import connect, explained, require_disk_space
from tests.virtual_pi.platforms import (
    DEFAULT_PLATFORM,
    DEFAULT_RELEASE,
    architecture,
    is_emulated,
)
from tests.virtual_pi.rootfs import cache_directory, ensure_rootfs, recipe

_SOURCES = Path(__file__).parent / "image"
_INPUTS_LABEL = "celery-pi.inputs"
_GIGABYTES = 6


def image_name(platform: str, release: str = DEFAULT_RELEASE) -> str:
    """`virtual-pi`, followed by what is not the default: `virtual-pi-debian12-amd64`."""
    debian = "" if release == DEFAULT_RELEASE else f"-debian{release}"
    suffix = "" if platform == DEFAULT_PLATFORM else f"-{architecture(platform)}"
    return f"virtual-pi{debian}{suffix}"


def ensure_image(platform: str, release: str = DEFAULT_RELEASE, fresh: bool = False) -> str:
    """Return the name of that image, built anew if anything it is made of has changed.

    `fresh` builds it from new packages in any case.
    """
    name, digest = image_name(platform, release), _digest(platform, release)
    if not fresh and _label(name) == digest:
        return name
    require_disk_space(_GIGABYTES)
    rootfs = ensure_rootfs(connect(), platform, release, fresh)
    usually = "about 1 minute" if is_emulated(platform) else "about 15 seconds"
    with step(f"Building the image {name}", usually):
        _build(name, platform, release, rootfs, digest)
    return name


def _label(name: str) -> str | None:
    """The digest of the inputs the present image was built from; None if there is no image."""
    with explained(f"The image {name} cannot be looked up"):
        try:
            return connect().images.get(name).labels.get(_INPUTS_LABEL)
        except ImageNotFound:
            return None


def _layers(platform: str, release: str) -> list[Path]:
    """The trees laid over the root file system, in order."""
    layers = [_SOURCES / "overlay", _SOURCES / f"debian{release}"]
    layers += [_SOURCES / "emulated"] if is_emulated(platform) else []
    return [layer for layer in layers if layer.is_dir()]


def _digest(platform: str, release: str) -> str:
    """One value that changes with every input of the image."""
    parts = [platform, recipe(platform, release)]
    files = [path for tree in _layers(platform, release) for path in sorted(tree.rglob("*"))]
    for path in [_SOURCES / "Dockerfile", *filter(Path.is_file, files), *bundles()]:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        parts.append(f"{path.name} {_mode(path):o} {content} {path.parent.name}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _build(name: str, platform: str, release: str, rootfs: Path, digest: str) -> None:
    with tempfile.TemporaryDirectory(dir=cache_directory(), prefix="context-") as directory:
        context = Path(directory)
        _fill(context, _layers(platform, release), rootfs)
        with explained(f"The image {name} could not be built"):
            try:
                connect().images.build(
                    path=directory,
                    tag=name,
                    platform=platform,
                    labels={_INPUTS_LABEL: digest},
                    rm=True,
                    forcerm=True,
                )
            except BuildError as error:
                said = "".join(str(line.get("stream", "")) for line in error.build_log)
                message = f"The image {name} could not be built: {error}"
                raise VirtualPiError(message, tail(said)) from error


def _fill(context: Path, layers: list[Path], rootfs: Path) -> None:
    """Lay out what the Dockerfile expects, with modes that do not depend on our umask."""
    shutil.copy(_SOURCES / "Dockerfile", context)
    (context / "rootfs.tar").hardlink_to(rootfs)
    overlay = context / "overlay"
    for tree in layers:
        shutil.copytree(tree, overlay, dirs_exist_ok=True)
    authorities = overlay / "usr/local/share/ca-certificates"
    authorities.mkdir(parents=True, exist_ok=True)
    for file_name, pem in extra_certificates(rootfs).items():
        (authorities / file_name).write_text(pem)
    for path in [overlay, *overlay.rglob("*")]:
        path.chmod(_mode(path))


def _mode(path: Path) -> int:
    executable = path.is_dir() or path.stat().st_mode & 0o100
    return 0o755 if executable else 0o644
