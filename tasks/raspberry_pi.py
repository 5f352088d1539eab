"""The Raspberry Pi itself: memory that is counted, swap that wears no card, a watchdog."""

from pyinfra import host, logger

from celery_pi.component import Component, deploys
from celery_pi.facts.raspberry_pi import CMDLINE, COUNTED, SWAP, WATCHDOG, Pi, RaspberryPi
from celery_pi.operations.config_files import config_files
from celery_pi.operations.debian_packages import debian_packages
from celery_pi.operations.kernel_cmdline import KernelCmdline, kernel_cmdline, refusal
from celery_pi.operations.runtime_watchdog import runtime_watchdog
from celery_pi.operations.zram_swap import Swaps, on_disk, zram_swap
from celery_pi.render import from_file, from_template
from celery_pi.settings import Settings

RASPBERRY_PI = Component[Settings]("Raspberry Pi")


@deploys(RASPBERRY_PI)
def deploy(settings: Settings) -> None:
    """The Pi is set up for a service that runs for years from an SD card.

    What the machine has not, or somebody else has seen to, is left alone, and logged in one line.
    """
    if not settings.raspberry_pi:
        return
    pi = host.get_fact(RaspberryPi)
    if pi is None:
        logger.info(
            f"{host.name} is no Raspberry Pi: kernel command line, swap and watchdog are left alone"
        )
        return
    count_memory(pi)
    swap_to_memory(pi)
    watch(pi)


def count_memory(pi: Pi) -> None:
    """The kernel counts the memory of services, without which no MemoryMax= holds."""
    if pi.has("counted"):
        return
    reason = refusal(host.get_fact(KernelCmdline, path=CMDLINE), [COUNTED])
    if reason:
        logger.warning(f"{host.name}: {CMDLINE} is left as it is, because {reason}")
    elif pi.has("requested"):
        logger.warning(f"{host.name}: its kernel {pi.kernel} does not go by {COUNTED}: update it")
    else:
        logger.warning(f"{host.name} must be restarted, for {COUNTED} to count services' memory")
    kernel_cmdline(name="Have the memory of services counted", path=CMDLINE, words=[COUNTED])


def swap_to_memory(pi: Pi) -> None:
    """Swap is compressed memory and no longer a file on the card."""
    if pi.has_zram_of_others:
        logger.info(f"{host.name} swaps to zram by other means: its swap is left alone")
        return
    if not pi.has("able"):
        logger.info(f"{host.name} has a kernel without zram: its swap is left alone")
        return
    disk_swaps = on_disk(host.get_fact(Swaps))
    if disk_swaps:
        logger.warning(f"{host.name} also swaps to {', '.join(disk_swaps)}, which is left to you")
    # First: the package starts by itself, and what it starts would pass for somebody else's.
    config_files(name="Configure swap in memory", files=[from_file(SWAP)])
    debian_packages(name="Install zram-generator", packages=["systemd-zram-generator"])
    zram_swap(name="Swap to memory")


def watch(pi: Pi) -> None:
    """A machine that hangs is reset by its hardware."""
    if not pi.has("watchdog"):
        logger.info(f"{host.name} has no /dev/watchdog0: no watchdog is set")
        return
    if pi.is_watched_by_others:
        logger.info(f"{host.name} has its watchdog at {pi.watched}: it is left alone")
        return
    config_files(name="Configure", files=[from_template(WATCHDOG, timeout=pi.timeout)])
    runtime_watchdog(name="Set the watchdog", timeout=pi.timeout)
