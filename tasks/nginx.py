"""nginx, which shows Flower to who has its password."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from pyinfra import host, logger
from pyinfra.facts.files import File, FindInFile
from pyinfra.facts.server import Hostname

from celery_pi.component import Component, Secret, Unit, deploys
from celery_pi.facts import nginx as nginx_facts
from celery_pi.facts.nginx import NginxState
from celery_pi.operations.config_files import config_files
from celery_pi.operations.debian_packages import debian_packages
from celery_pi.operations.idle_service import idle_service
from celery_pi.operations.reconcile_script import reconcile_script
from celery_pi.operations.remove_units import remove_units
from celery_pi.operations.service import CHECK_UNIT, service
from celery_pi.render import from_file, from_template
from celery_pi.settings import Settings

UNIT = "nginx.service"
LIBRARY = "/usr/local/lib/celery-pi"
CHECK = from_file(f"{LIBRARY}/check-nginx-config", mode="0755")
LOGIN = from_file(f"{LIBRARY}/nginx-login", mode="0755")
CERTIFICATE = from_file(f"{LIBRARY}/nginx-certificate", mode="0755")
SANDBOX = from_file(f"/etc/systemd/system/{UNIT}.d/celery-pi.conf")
COMMON = "/etc/nginx/conf.d/celery-pi.conf"
LOCATION = "/etc/nginx/snippets/celery-pi-flower.conf"
MAINTENANCE = "/etc/nginx/snippets/celery-pi-maintenance.conf"
SERVER = "/etc/nginx/sites-enabled/zz-celery-pi"
PASSWORD = "/etc/nginx/celery-pi.htpasswd"  # noqa: S105  its path
NAMES = "/etc/celery-pi/site_names"
SELF_SIGNED = "/etc/celery-pi/site.pem"
RELOAD = "nginx-certificate.service"
WATCH = "nginx-certificate.path"
GOOD = "nginx -t -q"
NO_DEFAULT = from_file(nginx_facts.DEFAULT)


def is_needed(settings: Settings) -> bool:
    """Whether nginx is to be there, on this machine."""
    return nginx_facts.is_needed(settings, host.get_fact(NginxState))


def without_debians_site() -> None:
    """nginx as we bring it serves nothing: Debian's site is off before apt could switch it on."""
    if host.get_fact(NginxState).default_is_ours_to_end:
        config_files(name="Keep Debian's default site off", files=[NO_DEFAULT])


NGINX = Component[Settings](
    "nginx",
    enabled=is_needed,
    packages=("nginx", "openssl"),
    no_start=(UNIT,),
    before_packages=without_debians_site,
    units=(
        Unit(
            UNIT,
            "the site and /flower/ cannot be reached",
            root=True,  # it opens ports
            exposure=4.0,  # with room for a site
            drop_ins=("celery-pi.conf",),
            debian=True,
        ),
        Unit(WATCH, "nginx does not read a new certificate", daemon=False),
        Unit(RELOAD, "nginx does not read a new certificate", root=True, daemon=False),
    ),
    secrets=(Secret(PASSWORD, "640", group="www-data"), Secret(SELF_SIGNED, "600")),
    writes=(
        *(SERVER, CERTIFICATE.path, NAMES, LOCATION, MAINTENANCE, COMMON, NO_DEFAULT.path),
        *(LOGIN.path, CHECK.path),  # the check goes last: only a whole removal lacks it
    ),
)
OF_SERVER = (SERVER, CERTIFICATE.path, NAMES, SELF_SIGNED)


@deploys(NGINX, off=lambda settings: _leave(settings))
def deploy(settings: Settings) -> None:
    """nginx shows Flower by https and with a password; or knows nothing of it.

    The site's own configuration is not touched. Where nobody needs nginx it is not installed, and
    one that we have brought does not run.
    """
    without_debians_site()
    debian_packages(name="Install nginx", packages=NGINX.packages, no_start=NGINX.no_start)
    config_files(name="Install the helpers", files=[CHECK, LOGIN])
    reconcile_script(name="Hash the login", script=LOGIN)
    # Given twice, it is an error to nginx.
    pattern = r"^[[:space:]]*server_names_hash_bucket_size"
    set_by_owner = bool(host.get_fact(FindInFile, path="/etc/nginx/nginx.conf", pattern=pattern))
    common = from_template(COMMON, check=_check(COMMON), has_bucket_size=set_by_owner)
    snippets = [from_file(path, check=_check(path)) for path in (LOCATION, MAINTENANCE)]
    config_files(name="Configure Flower's location", files=[SANDBOX, common, *snippets])
    if settings.nginx_server:
        _configure_server(settings)
    else:
        _remove(OF_SERVER)
    service(
        name="Run",
        unit=UNIT,
        # Told to reload, it would keep an address that it has listened on.
        watch=[SANDBOX.path, SERVER],
        reload_for=[COMMON, LOCATION, MAINTENANCE, NO_DEFAULT.path, *_certificate(settings)],
        check=GOOD,
    )


def _leave(settings: Settings) -> None:
    """Flower is not shown. What is the owner's goes on without it; what is ours alone stops."""
    state = host.get_fact(NginxState)
    if settings.flower:
        message = "Flower is reached by an ssh tunnel alone (docs/operate/flower.md)"
        host.log(message, logger.warning)
    if state.may_stop:
        idle_service(name="Stop it", unit=UNIT)
    default_goes = state.default == "ours" or (state.may_stop and state.default == "debian")
    kept_files = [] if default_goes else [NO_DEFAULT.path]
    _remove([path for path in NGINX.files if path not in kept_files])
    if not state.may_stop:
        service(name="Run without it", unit=UNIT, watch=[SERVER, COMMON], managed=False, check=GOOD)


def _configure_server(settings: Settings) -> None:
    name = host.get_fact(Hostname)
    names = settings.nginx_names or (name, f"{name}.local")
    pair = _certificate(settings)
    if settings.nginx_certificate is None:
        name_file = from_template(NAMES, names=names)
        config_files(name="Install the certificate's helper", files=[CERTIFICATE, name_file])
        reconcile_script(name="Make a certificate", script=CERTIFICATE)
        remove_units(name="Remove the watch over the owner's", units=[WATCH, RELOAD], files=[])
    else:
        _watch(pair)
    block = from_template(
        SERVER,
        check=_check(SERVER),
        names=names,
        ipv6=host.get_fact(File, path="/proc/net/if_inet6") is not None,
        certificate=pair[0],
        key=pair[-1],
    )
    config_files(name="Configure the server", files=[block])
    if settings.nginx_certificate is not None:
        remove_units(name="Remove the certificate's helper", units=[], files=[CERTIFICATE.path])


def _watch(certificate: list[str]) -> None:
    """nginx reads a new one, also where a link leads elsewhere."""
    directories = sorted({str(PurePosixPath(path).parent) for path in certificate})
    units = [
        from_file(f"/etc/systemd/system/{RELOAD}", check=CHECK_UNIT),
        from_template(f"/etc/systemd/system/{WATCH}", check=CHECK_UNIT, directories=directories),
    ]
    config_files(name="Configure the watch over the certificate", files=units)
    service(name="Watch the certificate", unit=WATCH, watch=[unit.path for unit in units])


def _certificate(settings: Settings) -> list[str]:
    """Paths of the certificate and its key, which may be one file."""
    if not settings.nginx_server:
        return []
    own = (settings.nginx_certificate, settings.nginx_certificate_key)
    return [path for path in own if path] or [SELF_SIGNED]


def _check(path: str) -> str:
    return f'{CHECK.path} "$NEW" {path}'


def _remove(files: Sequence[str]) -> None:
    """Remove these files and the watch over a certificate, unless nginx could not start then."""
    # An nginx that somebody has removed needs nothing.
    without = f"[ ! -e {CHECK.path} ] || {CHECK.path} --without {' '.join(files)}"
    remove_units(
        name="Remove",
        units=NGINX.own_units,
        files=files,
        check=without if host.get_fact(NginxState).installed else "true",
    )
