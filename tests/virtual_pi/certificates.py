"""The certificate authorities this host trusts beyond Debian's own, for use inside the image."""

import hashlib
import os
import re
import ssl
import tarfile
from pathlib import Path

_LOCAL = Path("/usr/local/share/ca-certificates")
_DEBIAN = "usr/share/ca-certificates"
_SETTINGS = ("SSL_CERT_FILE", "PIP_CERT")
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def bundles() -> list[Path]:
    """The files in which this host may name further authorities."""
    named = {Path(os.environ[name]) for name in _SETTINGS if os.environ.get(name)}
    return sorted(path for path in {*_LOCAL.glob("**/*.crt"), *named} if path.is_file())


def extra_certificates(rootfs: Path) -> dict[str, str]:
    """File name and text of every certificate the host has and Debian's own set lacks."""
    known = _in_archive(rootfs)
    for path in Path("/", _DEBIAN).glob("**/*.crt"):
        known |= _certificates(path.read_text(errors="replace")).keys()
    found: dict[bytes, str] = {}
    for bundle in bundles():
        found |= _certificates(bundle.read_text(errors="replace"))
    return {
        f"host-{hashlib.sha256(der).hexdigest()[:12]}.crt": pem + "\n"
        for der, pem in found.items()
        if der not in known
    }


def _in_archive(rootfs: Path) -> set[bytes]:
    """The certificates of Debian's package as the root file system has it."""
    known: set[bytes] = set()
    with tarfile.open(rootfs) as archive:
        for member in archive:
            inside = member.isfile() and _DEBIAN in member.name and member.name.endswith(".crt")
            content = archive.extractfile(member) if inside else None
            if content is not None:
                known |= _certificates(content.read().decode(errors="replace")).keys()
    return known


def _certificates(text: str) -> dict[bytes, str]:
    """Every certificate of a PEM text by its binary form, which is the same however written."""
    return {ssl.PEM_cert_to_DER_cert(pem): pem for pem in _PEM.findall(text)}
