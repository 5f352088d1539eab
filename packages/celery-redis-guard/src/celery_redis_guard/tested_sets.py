"""Sets of versions on which this package's whole suite passes: `make sets` runs it on each."""

from typing import NamedTuple


class PackageSet(NamedTuple):
    """Versions that are installed together."""

    celery: str
    kombu: str
    billiard: str
    redis: str


TESTED_SETS = {
    "A": PackageSet("5.5.3", "5.5.4", "4.3.2", "5.2.1"),
    "Observations Nids": PackageSet("5.6.0", "5.6.1", "4.3.2", "7.1.0"),
    "C": PackageSet("5.6.3", "5.7.0", "4.3.2", "8.1.0"),
    "B": PackageSet("5.7.0", "5.7.0", "4.3.2", "8.1.0"),
}
