"""`manage.py seed_demo`."""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone

from promotions.management.commands._imports import ReportingCommand
from promotions.services.demo import demo_seed


class Command(ReportingCommand):
    help = (
        "Make the demonstration catalogue, with promos that open now, soon and later. The variable "
        "DEMO_PASSWORD, if set, becomes the password of the user demo-shopper."
    )

    def handle(self, **options: Any) -> None:
        with self.errors():
            demo = demo_seed(now=timezone.now(), password=settings.DEMO_PASSWORD)
        self.summarise(demo.catalogue)
        self.summarise(demo.shoppers)
        now, soon = (f"{demo.hour + timedelta(hours=hours):%H:%M}" for hours in (0, 1))
        self.stdout.write(f"promos open at {now} UTC, at {soon} UTC and on later days")
        name = demo.shopper.get_username()
        if demo.shopper.has_usable_password():
            self.stdout.write(f"{name} can log in")
        else:
            self.stdout.write(f"{name} has no password: set DEMO_PASSWORD and run this again")
