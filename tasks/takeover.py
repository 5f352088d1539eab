"""What somebody set up by hand for this app: ours takes its place."""

from pyinfra import host

from celery_pi.component import deploys
from celery_pi.facts.handmade import HandMade, HandmadeItem
from celery_pi.operations.take_over import take_over, taken_over
from celery_pi.settings import Settings


@deploys("Takeover")
def begin(settings: Settings) -> None:
    """The old worker ends its tasks and stops, while Redis is still as it knows it."""
    take_over(
        name="Stop what was set up by hand, and put it aside",
        items=_items(settings),
        patience=settings.celery_time_limit + 30,
    )


@deploys("Takeover")
def end(settings: Settings) -> None:
    """The new one runs."""
    taken_over(name="Leave it aside", planned=bool(_items(settings)))


def _items(settings: Settings) -> list[HandmadeItem]:
    return host.get_fact(HandMade, app=settings.app_dir) if settings.replace_handmade else []
