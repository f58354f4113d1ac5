"""What follows from another app's change."""

from typing import Any

from django.conf import settings
from django.db.models.signals import post_save
from django.dispatch import receiver

from promotions.models import ShopperProfile


@receiver(post_save, sender=settings.AUTH_USER_MODEL, dispatch_uid="promotions.shopper_profile")
def give_every_user_a_profile(instance: Any, created: bool, raw: bool, **kwargs: Any) -> None:
    if created and not raw:
        ShopperProfile.objects.get_or_create(user=instance)
