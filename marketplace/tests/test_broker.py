"""The broker's own way to take messages, on a real Redis."""

import inspect
import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from operator import attrgetter
from typing import Any

import pytest
import redis
from celery import current_app
from django.conf import settings
from kombu import Connection, Consumer, Queue
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

from marketplace.broker import (
    BELL,
    FAILED_DELIVERIES,
    FULL,
    PERIODIC,
    UNREADABLE,
    UNREADABLE_KEPT,
    Channel,
    QoS,
    QueueFull,
    StillWaiting,
    Transport,
)

pytestmark = pytest.mark.usefixtures("broker")


def connect(**options: Any) -> Any:
    return Connection(
        settings.CELERY_BROKER_URL,
        transport_options={**settings.CELERY_BROKER_TRANSPORT_OPTIONS, **options},
    )


class Taker:
    """A consumer as a worker has one; keeps the messages that it was given."""

    def __init__(self, *queues: str, **options: Any) -> None:
        self.connection = connect(**options)
        self.channel: Any = self.connection.channel()
        self.messages: list[Any] = []
        consumer = Consumer(
            self.channel,
            [Queue(name, routing_key=name, no_declare=True) for name in queues or ("default",)],
            on_message=self.messages.append,
            accept=["json"],
        )
        consumer.qos(prefetch_count=10)
        consumer.consume()

    def take(self, count: int = 1) -> Any:
        """The last of the next messages."""
        wanted = len(self.messages) + count
        while len(self.messages) < wanted:
            self.connection.drain_events(timeout=10)
        return self.messages[-1]

    def finds_nothing(self) -> bool:
        before = len(self.messages)
        with pytest.raises(TimeoutError):
            self.connection.drain_events(timeout=0.2)
        return len(self.messages) == before

    def vanish(self) -> None:
        """Give nothing back, as after a kill."""
        self.channel.do_restore = False
        self.connection.release()


@pytest.fixture
def taker() -> Iterator[Callable[..., Taker]]:
    made: list[Taker] = []

    def make(*queues: str, **options: Any) -> Taker:
        made.append(Taker(*queues, **options))
        return made[-1]

    yield make
    for one in made:
        one.vanish()


def publish(body: Any = "hello", queue: str = "default", **options: Any) -> None:
    with connect() as connection, connection.Producer() as producer:
        producer.publish(body, routing_key=queue, exchange="", serializer="json", **options)


def held(broker: redis.Redis) -> int:
    index, messages = broker.zcard("unacked_index"), broker.hlen("unacked")
    assert index == messages
    return int(messages)


def let_expire(broker: redis.Redis) -> None:
    tags: Any = broker.zrange("unacked_index", 0, -1)
    for tag in tags:
        broker.zadd("unacked_index", {tag: 1})


def deliveries(message: Any) -> int:
    return int(message.headers.get(FAILED_DELIVERIES, 0))


# --- kombu ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("module", "name", "digest"),
    [
        (kombu_redis, "Channel._brpop_start", "06723d707ddf"),
        (kombu_redis, "Channel._brpop_read", "c42518699709"),
        (kombu_redis, "Channel._connparams", "e9a4295085a8"),
        (kombu_redis, "Channel._put", "1c0cf9749576"),
        (kombu_redis, "Channel._do_restore_message", "8b430df94e45"),
        (kombu_redis, "Channel.close", "101e9b9cdad4"),
        (kombu_redis, "QoS.append", "35c655f6ecc6"),
        (kombu_redis, "QoS.ack", "1bc15a4ddf54"),
        (kombu_redis, "QoS.reject", "747a02434344"),
        (kombu_redis, "QoS.restore_by_tag", "58e161d81b6f"),
        (kombu_redis, "QoS.restore_unacked", "8954efef014d"),
        (kombu_redis, "QoS.restore_visible", "d4a4a40a3eaf"),
        (kombu_redis, "MultiChannelPoller.on_poll_start", "414f76caaa67"),
        (kombu_redis, "MultiChannelPoller._register_BRPOP", "85724582464a"),
        (kombu_redis, "MultiChannelPoller.maybe_restore_messages", "6c267815d521"),
        (virtual, "Channel.basic_consume", "0fec96269493"),
        (virtual, "Channel._lookup", "82b0e60149b5"),
        (virtual, "QoS", "f884d8db8d64"),
    ],
)
def test_kombu_is_as_the_broker_knows_it(module, name, digest):
    """The broker builds on these. When one changes: read it, look whether `marketplace.broker`
    still fits, and give its new digest here."""
    source = inspect.getsource(attrgetter(name)(module))
    assert sha256(source.encode()).hexdigest()[:12] == digest


def test_celery_uses_it():
    with current_app.connection_for_write() as connection:
        assert type(connection.transport) is Transport
        assert type(connection.default_channel) is Channel
        assert type(connection.default_channel.qos) is QoS
        assert connection.default_channel.visibility_timeout == 30


# --- Taking --------------------------------------------------------------------------------------
def test_a_message_is_held_from_the_moment_it_is_taken(broker, taker):
    publish()
    worker = taker()
    message = worker.take()
    assert (message.payload, held(broker), broker.llen("default")) == ("hello", 1, 0)
    message.ack()
    assert held(broker) == 0


def test_a_message_whose_worker_never_heard_of_it_is_held(broker, taker):
    """As when the worker is killed while Redis' answer is on its way."""
    publish()
    worker = taker()
    worker.channel.client.connection = worker.channel.client.connection_pool.get_connection()
    worker.channel._brpop_start()
    while not held(broker):
        pass
    worker.vanish()
    let_expire(broker)
    other = taker()
    other.channel.qos.restore_visible()
    assert other.take().payload == "hello"


def test_what_nobody_renews_goes_to_another(broker, taker):
    publish()
    dead, alive = taker(), taker()
    assert deliveries(dead.take()) == 0
    dead.vanish()
    alive.channel.qos.restore_visible()
    assert (held(broker), broker.llen("default")) == (1, 0)
    let_expire(broker)
    alive.channel.qos.restore_visible()
    message = alive.take()
    assert (message.payload, deliveries(message), message.headers["redelivered"]) == (
        "hello",
        1,
        True,
    )
    assert message.delivery_info["redelivered"]


def test_what_is_renewed_stays(broker, taker):
    publish()
    worker = taker()
    worker.take()
    let_expire(broker)
    assert worker.channel.qos.renew() == []
    worker.channel.qos.restore_visible()
    assert (held(broker), broker.llen("default")) == (1, 0)


def test_a_worker_that_stood_still_takes_nothing_from_another(broker, taker):
    publish()
    frozen, other = taker(), taker()
    old = frozen.take()
    let_expire(broker)
    other.channel.qos.restore_visible()
    new = other.take()
    assert old.delivery_tag != new.delivery_tag
    old.ack()
    assert held(broker) == 1
    new.ack()
    assert held(broker) == 0


def test_a_worker_knows_that_it_lost_a_message(broker, taker):
    publish("one")
    publish("two")
    worker, other = taker(), taker()
    worker.take(2)
    first, second = worker.messages
    broker.zadd("unacked_index", {first.delivery_tag: 1})
    other.channel.qos.restore_visible()
    qos = worker.channel.qos
    assert not qos.has_lost(first.delivery_tag)  # it renewed a moment ago, as far as it knows
    qos._renewed_at -= qos.visibility_timeout
    assert qos.has_lost(first.delivery_tag)
    assert not qos.has_lost(second.delivery_tag)
    assert qos.held() == [second.delivery_tag]


def test_a_rejected_message_goes_back(broker, taker):
    publish("one")
    worker = taker()
    worker.take().reject(requeue=True)
    assert held(broker) == 0
    message = worker.take()
    assert deliveries(message) == 1
    message.reject(requeue=False)
    assert (held(broker), broker.llen("default")) == (0, 0)


def test_a_worker_that_ends_gives_back_what_it_holds(broker, taker):
    for number in range(3):
        publish(number)
    worker = taker()
    worker.take(3)
    worker.messages[0].ack()
    worker.connection.release()
    assert (held(broker), broker.llen("default")) == (0, 2)
    other = taker()
    other.take(2)
    assert sorted(message.payload for message in other.messages) == [1, 2]
    assert [deliveries(message) for message in other.messages] == [0, 0]


def test_priorities_and_queues_take_turns(taker):
    for queue in ("default", "low_priority"):
        for number in range(3):
            publish(f"{queue} {number}", queue)
    publish("urgent", "low_priority", priority=0)
    publish("whenever", "default", priority=9)
    worker = taker("default", "low_priority")
    worker.take(8)
    order = [message.payload for message in worker.messages]
    assert order[-1] == "whenever"
    assert {text.partition(" ")[0] for text in order[:2]} == {"default", "low_priority"}
    assert [text for text in order if text.startswith("default")] == [
        f"default {number}" for number in range(3)
    ]


@pytest.fixture
def patient(monkeypatch) -> None:
    """Who waits is woken, or the test is over."""
    monkeypatch.setattr(Transport, "brpop_timeout", 60)


def test_a_publication_wakes_who_waits(patient, taker):
    worker = taker()
    assert worker.finds_nothing()
    publish()
    assert worker.take().payload == "hello"


def test_a_message_that_comes_back_wakes_who_waits(broker, patient, taker):
    publish()
    dead, worker = taker(), taker()
    dead.take()
    assert worker.finds_nothing()
    let_expire(broker)
    dead.channel.qos.restore_visible()
    assert worker.take().payload == "hello"


def test_a_batch_wakes_who_waits(patient, taker):
    worker = taker()
    assert worker.finds_nothing()
    with connect() as connection, connection.Producer() as producer, producer.batch():
        for number in range(5):
            producer.publish(number, routing_key="default", exchange="", serializer="json")
    worker.take(5)
    assert [message.payload for message in worker.messages] == [0, 1, 2, 3, 4]


def test_who_publishes_by_other_means_is_heard(broker, taker):
    worker = taker()
    publish()
    raw = broker.rpop("default")
    broker.delete(BELL)
    assert worker.finds_nothing()
    broker.lpush("default", raw)
    assert worker.take().payload == "hello"


def test_a_consumer_that_does_not_acknowledge_holds_nothing(broker, taker):
    """As a worker has one for a moment at its start, on the same channel."""
    worker = taker()
    replies: list[Any] = []
    consumer = Consumer(
        worker.channel,
        [Queue("low_priority", routing_key="low_priority", no_declare=True)],
        on_message=replies.append,
        no_ack=True,
    )
    consumer.consume()
    publish("reply", "low_priority")
    while not replies:
        worker.connection.drain_events(timeout=10)
    assert held(broker) == 0
    consumer.cancel()
    publish()
    worker.take()
    assert not worker.channel._is_plain
    assert held(broker) == 1


def test_redis_forgets_the_script(broker, taker):
    worker = taker()
    for text in ("one", "two"):
        publish(text)
        assert worker.take().payload == text
        broker.script_flush()


@pytest.mark.parametrize("data", [b"no json", b"\x80\x04pickle", b"[]", b'{"body": 1}'])
def test_what_is_no_message_stops_nobody(broker, taker, caplog, data):
    for _ in range(UNREADABLE_KEPT + 1):
        broker.lpush("default", data)
    publish()
    assert taker().take().payload == "hello"
    assert "held what is no message" in caplog.text
    assert (held(broker), broker.llen(UNREADABLE)) == (1, UNREADABLE_KEPT)
    assert broker.lindex(UNREADABLE, 0) == data


def test_there_is_no_key_prefix():
    with (
        connect(global_keyprefix="x") as connection,
        pytest.raises(ValueError, match="global_keyprefix"),
    ):
        connection.channel()


def test_a_closed_connection_is_a_lost_one(taker):
    worker = taker()
    worker.connection.release()
    worker.channel.connection = None
    with pytest.raises(redis.ConnectionError):
        worker.channel._connparams()


# --- Limits --------------------------------------------------------------------------------------
def test_a_full_queue_refuses(broker):
    with connect(queue_limits={"default": 3}) as connection, connection.Producer() as producer:
        for number in range(3):
            producer.publish(number, routing_key="default", priority=number * 3)
        with pytest.raises(QueueFull, match="'default' is full: 3 messages wait, and 3 may"):
            producer.publish(3, routing_key="default")
        producer.publish(3, routing_key="low_priority")
    assert broker.llen("low_priority") == 1


def test_a_task_for_a_full_queue_is_not_published(broker):
    with connect(queue_limits={"default": 1}) as connection:
        current_app.send_task("tests.task", connection=connection)
        with pytest.raises(QueueFull):
            current_app.send_task("tests.task", connection=connection)
    assert broker.llen("default") == 1


def test_taking_goes_on_without_memory(broker, taker):
    for number in range(20):
        publish("x" * 10_000 + str(number))
    broker.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.OutOfMemoryError):
            publish()
        worker = taker()
        worker.take(3)
        assert worker.channel.qos.renew() == []
        worker.messages[0].ack()
        worker.messages[1].reject(requeue=True)
        let_expired = json.loads(broker.hget("unacked", worker.messages[2].delivery_tag))
        assert let_expired[1:] == ["", "default"]
    finally:
        broker.config_set("maxmemory", 0)
    assert (held(broker), broker.llen("default")) == (1, 18)


@pytest.mark.parametrize(
    ("headers", "limit"), [({}, 2), ({"parent_id": "another"}, 4), ({"retries": 1}, 100)]
)
def test_what_has_begun_finds_room_when_others_do_not(broker, headers, limit):
    with connect(queue_limits={"default": 2}) as connection, connection.Producer() as producer:
        for number in range(limit):
            producer.publish(number, routing_key="default", headers=headers)
        if limit < 100:
            with pytest.raises(QueueFull):
                producer.publish(limit, routing_key="default", headers=headers)
    assert broker.llen("default") == limit


def test_beats_messages_find_room_in_a_full_queue(broker):
    with connect(queue_limits={"default": 1}) as connection, connection.Producer() as producer:
        producer.publish(0, routing_key="default")
        producer.publish(1, routing_key="default", headers={PERIODIC: "entry"})
    assert broker.llen("default") == 2


def test_refused_publications_are_counted(broker):
    with connect(queue_limits={"default": 1}) as connection, connection.Producer() as producer:
        producer.publish(0, routing_key="default")
        for _ in range(3):
            with pytest.raises(QueueFull):
                producer.publish(1, routing_key="default")
    assert broker.hgetall(FULL) == {b"default": b"3"}


def test_a_batch_does_not_go_past_the_limit(broker):
    with connect(queue_limits={"default": 5}) as connection, connection.Producer() as producer:
        producer.publish(0, routing_key="default")

        def publish_many() -> None:
            with producer.batch():
                for number in range(1, 9):
                    producer.publish(number, routing_key="default")

        with pytest.raises(QueueFull):
            publish_many()
    assert broker.llen("default") == 5
    assert broker.hgetall(FULL) == {b"default": b"1"}


def test_of_a_periodic_entry_one_message_waits(broker, taker):
    with connect() as connection, connection.Producer() as producer:

        def publish_periodic(entry: str) -> None:
            producer.publish(entry, routing_key="default", headers={PERIODIC: entry})

        for entry in ("a", "b"):
            publish_periodic(entry)
            with pytest.raises(StillWaiting):
                publish_periodic(entry)
        assert broker.llen("default") == 2
        worker = taker()
        worker.take()
        publish_periodic("a")  # the one before is taken
        with pytest.raises(StillWaiting):
            publish_periodic("b")
    assert broker.llen("default") == 2
