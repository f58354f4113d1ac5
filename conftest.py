"""Fixtures of every test: rows made short, a queue of one's own."""

import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import User
from django.utils import timezone
from rest_framework.test import APIClient
from rest_framework_simplejwt.tokens import AccessToken

from promotions.clients.promo_queue import PromoQueue, promo_queue, sns_client, sqs_client
from promotions.clients.provision import provision
from promotions.models import FlashPromo, Product, ShopperProfile, Store
from tests.sandbox import Sandbox, running_sandbox
from tests.servers import operator

#: Where the test stores stand; a degree of latitude is 111.19 km.
HERE = (19.4326, -99.1332)


def pytest_configure() -> None:
    # Ignored where a shell runs this in the background, and so it would be in all that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits for workers comes first: no process is left with a long file at the end."""
    items.sort(key=lambda item: item.get_closest_marker("worker") is None)


@pytest.fixture
def make_store(db: None) -> Callable[..., Store]:
    def make(**fields: Any) -> Store:
        defaults = {"name": "Corner", "latitude": HERE[0], "longitude": HERE[1]}
        return Store.objects.create(**(defaults | fields))

    return make


@pytest.fixture
def make_promo(make_store: Callable[..., Store]) -> Callable[..., FlashPromo]:
    """A promo that is open now; `store`, `product` and any field may be given.

    A time may be a timedelta from now, for what is parametrized when the tests are collected.
    """

    def make(
        *, store: Store | None = None, product: Product | None = None, **fields: Any
    ) -> FlashPromo:
        if product is None:
            store = store or Store.objects.first() or make_store()
            product = Product.objects.create(
                store=store, name=f"Product {Product.objects.count()}", list_price=100
            )
        now = timezone.now()
        defaults = {
            "promo_price": 60,
            "starts_at": now - timedelta(minutes=5),
            "ends_at": now + timedelta(hours=1),
            "quantity": 10,
            "status": FlashPromo.Status.ACTIVE,
        }
        given = {
            name: now + value if isinstance(value, timedelta) else value
            for name, value in fields.items()
        }
        return FlashPromo.objects.create(product=product, **(defaults | given))

    return make


@pytest.fixture
def make_shopper(db: None) -> Callable[..., User]:
    """An active user at the test store; any field of the profile, or `email`, may be given."""

    def make(username: str | None = None, *, email: str = "", **profile: Any) -> User:
        username = username or f"shopper{User.objects.count()}"
        user = User.objects.create_user(username, email=email, password="pass")
        place = {"latitude": HERE[0], "longitude": HERE[1], "segment": "regular"}
        ShopperProfile.objects.filter(user=user).update(**(place | profile))
        return user

    return make


@pytest.fixture
def callers(make_shopper: Callable[..., User]) -> dict[str, User | None]:
    """Who calls the API, for tables of permissions."""
    users = {name: make_shopper(name) for name in ("other", "owner", "staff", "superuser")}
    for name in ("staff", "superuser"):
        users[name].is_staff = True
        users[name].is_superuser = name == "superuser"
        users[name].save()
    return {"anonymous": None, **users}


class ReadingClient(APIClient):
    """Reads streamed answers to their ends, as clients do: an unread export keeps its place."""

    def request(self, **kwargs: Any) -> Any:
        response: Any = super().request(**kwargs)
        if response.streaming:
            response.streaming_content = [response.getvalue()]
        return response


@pytest.fixture
def client_of() -> Callable[..., APIClient]:
    """The client of a user with a real token, or of nobody."""

    def make(user: User | None = None) -> APIClient:
        client = ReadingClient()
        if user:
            client.credentials(HTTP_AUTHORIZATION=f"Bearer {AccessToken.for_user(user)}")
        return client

    return make


@pytest.fixture
def queue() -> Iterator[PromoQueue]:
    """The topic and its queues, empty, on the real SNS/SQS server of the test run."""
    promo_queue.cache_clear()
    sns, sqs = sns_client(), sqs_client()
    provision(
        sns=sns,
        sqs=sqs,
        topic_name=settings.SNS_TOPIC_ARN.rpartition(":")[2],
        queue_name=settings.SQS_QUEUE_NAME,
        dead_letter_name=settings.SQS_DEAD_LETTER_QUEUE_NAME,
        attempts=settings.NOTIFICATION_MAX_ATTEMPTS,
    )
    yield promo_queue()
    for name in (settings.SQS_QUEUE_NAME, settings.SQS_DEAD_LETTER_QUEUE_NAME):
        sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName=name)["QueueUrl"])
    sns.delete_topic(TopicArn=settings.SNS_TOPIC_ARN)
    promo_queue.cache_clear()


@pytest.fixture(scope="module")
def worker_database(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """For a worker of a whole module: it finds an empty broker, and leaves nothing behind.

    The history that it writes after the last test goes, too.
    """
    with operator(settings.REDIS_URL) as client:
        client.flushdb()
        yield
        client.flushdb()
    with django_db_blocker.unblock():
        for model in apps.get_app_config("task_manager").get_models():
            model._default_manager.all().delete()


@pytest.fixture
def broker() -> Iterator[redis.Redis]:
    """The Redis database of this test process, empty, to somebody who may do everything."""
    client = operator(settings.REDIS_URL)
    client.flushdb()
    yield client
    client.flushdb()
    client.close()


@pytest.fixture(scope="module")
def simulator() -> Iterator[Sandbox]:
    """Of PanAccess, for the tests of a module; each says what it needs of faults and records."""
    with running_sandbox() as sandbox:
        yield sandbox
