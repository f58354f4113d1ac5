"""Celery's messages on Redis, each held by a lease from the moment a worker takes it.

kombu's own transport takes a message out of its queue and notes only then that it is held: what
a worker was given in its last moment before a kill is gone. And what is held stands under one
name for ever: a worker that was frozen past its time acknowledges another's run away. Here
taking and holding is one step in Redis, and each taking has a name of its own.

A worker waits for messages without taking any: it reads a stream of one entry, the bell, which
every publication rings. Whoever publishes by other means than this is heard within a second.
"""

import logging
from collections.abc import Callable
from hashlib import sha1
from queue import Empty
from time import monotonic
from typing import Any
from uuid import uuid4

import redis
from kombu.exceptions import OperationalError
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.json import dumps, loads

from marketplace import sentinel

logger = logging.getLogger(__name__)

#: Rung at each publication.
BELL = "broker:bell"
#: Messages that nobody can run, the newest first, and as many bytes of each.
UNREADABLE = "broker:unreadable"
UNREADABLE_KEPT = 100
UNREADABLE_BYTES = 65_536
#: How many there ever were, by what was wrong with them: each counted under `broker:refused:…`.
REFUSED = "broker:refused:"
REASONS = ("unreadable", "content", "invalid")

#: How many publications found a queue full, by queue.
FULL = "broker:full"
#: The last message of each entry of beat's schedule.
PERIODIC_MESSAGES = "broker:periodic"

#: A message's header: how often a worker took it and did not finish.
FAILED_DELIVERIES = "failed_deliveries"
#: A message's header: beat's entry that it comes from.
PERIODIC = "periodic"

# --- Scripts -------------------------------------------------------------------------------------
# Times are by Redis' clock: the hosts' need not agree. What frees memory, or moves it, works when
# there is none left.
_NOW = "local t = redis.call('TIME'); local now = string.format('%d.%06d', t[1], t[2])\n"
RING = "redis.call('XADD', KEYS[{}], 'MAXLEN', 1, '*', 'rung', '')\n"
_TAKE = (
    "#!lua flags=allow-oom\n"
    + _NOW
    + """
for i = 4, #KEYS do
    local message = redis.call('RPOP', KEYS[i])
    if message then
        redis.call('ZADD', KEYS[2], now, ARGV[1])
        redis.call('HSET', KEYS[1], ARGV[1], '[' .. message .. ',"","' .. ARGV[i - 2] .. '"]')
        return {message, ARGV[i - 2]}
    end
end
local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)[1]
return {last and last[1] or '0-0'}
"""
)
_PUT = (
    """
local periodic = ARGV[4]
if periodic ~= '' then
    local last = redis.call('HGET', KEYS[2], periodic)
    if last and redis.call('LPOS', ARGV[1], last) then return 'waits' end
end
local limit = tonumber(ARGV[3])
if limit > 0 then
    local waiting = 0
    for i = 4, #KEYS do waiting = waiting + redis.call('LLEN', KEYS[i]) end
    if waiting >= limit then
        redis.call('HINCRBY', KEYS[3], ARGV[5], 1)
        return waiting
    end
end
redis.call('LPUSH', ARGV[1], ARGV[2])
if periodic ~= '' then redis.call('HSET', KEYS[2], periodic, ARGV[2]) end
"""
    + RING.format(1)
    + "return ''"
)
_GIVE_BACK = (
    """#!lua flags=allow-oom
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
for i = 4, #KEYS do redis.call(ARGV[2], KEYS[i], ARGV[3]) end
"""
    + RING.format(3)
    + "return 1"
)
_RENEW = (
    "#!lua flags=allow-oom\n"
    + _NOW
    + """
local gone = {}
for _, tag in ipairs(ARGV) do
    if redis.call('ZSCORE', KEYS[1], tag) then redis.call('ZADD', KEYS[1], 'XX', now, tag)
    else gone[#gone + 1] = tag end
end
return gone
"""
)
_EXPIRED = (
    _NOW
    + """
return redis.call('ZRANGE', KEYS[1], '-inf', now - ARGV[1], 'BYSCORE', 'LIMIT', 0, ARGV[2])
"""
)


#: What a stranger's bytes make of a parser.
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


class QueueFull(OperationalError):
    """The queue holds as many messages as it may; nothing was published."""

    def __init__(self, queue: str, waiting: int, limit: int) -> None:
        super().__init__(
            f"The queue {queue!r} is full: {waiting} messages wait, and {limit} may "
            "(QUEUE_LIMIT). Add workers, or publish later."
        )
        self.queue, self.waiting, self.limit = queue, waiting, limit


class StillWaiting(Exception):
    """The last message of this entry of beat's schedule is in its queue; nothing was published."""


class QoS(kombu_redis.QoS):
    """The messages that a channel has taken and not acknowledged."""

    # kombu says nothing of these.
    channel: Any
    _delivered: Any
    _dirty: Any
    _quick_ack: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._renewed_at = monotonic()
        self._lost: set[str] = set()
        #: Of a tag, whether its task goes on although the channel closes.
        self.is_under_way: Callable[[str], bool] = lambda _: False

    def adopt(self, message: Any) -> None:
        """Hold on to what a channel held whose connection was lost."""
        message.channel = self.channel
        virtual.QoS.append(self, message, message.delivery_tag)

    def append(self, message: Any, delivery_tag: str) -> None:
        if delivery_tag == self.channel.taken:  # Redis knows already
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def held(self) -> list[str]:
        """The tags of the messages that this channel holds."""
        return [tag for tag in self._delivered if tag not in self._dirty]

    def renew(self) -> list[str]:
        """Hold them for another `visibility_timeout`; the tags of those that another may have."""
        gone: list[str] = []
        asked = monotonic()
        if tags := self.held():
            with self.channel.conn_or_acquire() as client:
                answer = client.register_script(_RENEW)(keys=[self.unacked_index_key], args=tags)
            gone = [tag.decode() for tag in answer]
        self._renewed_at = asked
        self._lost.update(gone)
        for tag in gone:
            self._quick_ack(tag)  # no longer one of ours
        return gone

    def has_lost(self, tag: str) -> bool:
        """Whether another worker may have the message: this one did not renew its lease."""
        if monotonic() - self._renewed_at > self.visibility_timeout / 2:
            self.renew()
        return tag in self._lost

    def restore_visible(self, start: int = 0, num: int | None = 0, interval: int = 10) -> None:
        """Give back what nobody held on to."""
        with self.channel.conn_or_acquire() as client:
            expired = client.register_script(_EXPIRED)(
                keys=[self.unacked_index_key], args=[self.visibility_timeout, num or 1000]
            )
            for tag in expired:
                self.restore_by_tag(tag.decode(), client)

    def give_back(self, tag: str, headers: dict[str, Any]) -> None:
        """Give up a message whose task did not begin: to its queue's end, with more headers."""
        self.restore_by_tag(tag, leftmost=True, failed=False, headers=headers)
        self._quick_ack(tag)  # no longer one of ours

    def restore_by_tag(
        self,
        tag: str,
        client: Any = None,
        leftmost: bool = False,
        *,
        failed: bool = True,
        headers: dict[str, Any] | None = None,
    ) -> None:
        """Give a message back to its queue; `failed` when its task may have begun."""
        with self.channel.conn_or_acquire(client) as client:
            held = client.hget(self.unacked_key, tag)
            message, keys = None, []
            if held:
                try:
                    message, exchange, routing_key = loads(held)
                    _mark(message, failed=failed)
                    message["headers"].update(headers or {})
                    keys = self.channel.keys_of(message, exchange, routing_key)
                except _UNREADABLE:  # its worker was killed before it had a look
                    self.channel.put_aside(held, reason="unreadable", client=client)
            client.register_script(_GIVE_BACK)(
                keys=[self.unacked_key, self.unacked_index_key, BELL, *keys],
                args=[tag, "LPUSH" if leftmost else "RPUSH", dumps(message)],
            )

    def restore_unacked(self, client: Any = None) -> None:
        """When the channel closes: what it holds has not begun, or is about to be ended."""
        with self.channel.conn_or_acquire(client) as client:
            for tag in self.held():
                if not self.is_under_way(tag):
                    self.restore_by_tag(tag, client, failed=False)
        self._delivered.clear()


def _mark(message: dict[str, Any], *, failed: bool) -> None:
    headers = message.setdefault("headers", {})
    headers["redelivered"] = True
    message["properties"]["delivery_info"]["redelivered"] = True
    if failed:
        count = headers.get(FAILED_DELIVERIES)
        headers[FAILED_DELIVERIES] = (count if isinstance(count, int) else 0) + 1


class Channel(kombu_redis.Channel):
    QoS = QoS

    #: Seconds without a renewal after which a message goes back to its queue.
    visibility_timeout = 30
    #: Messages that may wait in each queue; none named, or 0: any number.
    queue_limits: dict[str, int] = {}
    from_transport_options = (*kombu_redis.Channel.from_transport_options, "queue_limits")

    #: The tag under which the last message was taken.
    taken = ""
    #: The bell's last ring, once the queues were found empty.
    _heard: bytes | None = None
    _waits = False
    _knows_script = False
    #: Whether the last command was kombu's own, which holds nothing.
    _is_plain = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.global_keyprefix:
            raise ValueError("broker_transport_options: there is no global_keyprefix here")
        self._put_script = self.client.register_script(_PUT)
        #: The consumers that do not acknowledge, such as those of replies.
        self._careless: set[str] = set()

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **kwargs: Any
    ) -> Any:
        if no_ack and queue not in self._fanout_queues:
            self._careless.add(consumer_tag)
        return super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)

    def _basic_cancel(self, consumer_tag: str) -> Any:
        self._careless.discard(consumer_tag)
        return super()._basic_cancel(consumer_tag)

    def _connparams(self, asynchronous: bool = False) -> Any:
        # Celery 5.7.0 asks a channel whose connection was closed, and its worker ends with an
        # AttributeError. As a lost connection, which this is, it connects anew.
        if self.connection is None or self.connection.client is None:
            raise redis.ConnectionError("The channel's connection was closed.")
        return super()._connparams(asynchronous)

    @property
    def connection_class(self) -> Any:
        return sentinel.options().get("connection_class", redis.Connection)

    # --- Taking ---
    def _brpop_start(self, timeout: float | None = None) -> None:
        self._is_plain = bool(self._careless)
        if self._is_plain:
            super()._brpop_start(timeout)
            return
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        connection = self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()
        self._waits = self._heard is not None
        if self._waits:
            pause = int((timeout or self.brpop_timeout) * 1000)
            connection.send_command("XREAD", "BLOCK", pause, "STREAMS", BELL, self._heard)
            self._heard = None
        else:
            self.taken = str(uuid4())
            lists = [(self._q_for_pri(q, step), q) for step in self.priority_steps for q in queues]
            keys = [self.unacked_key, self.unacked_index_key, BELL, *(key for key, _ in lists)]
            how = ("EVALSHA", _TAKE_SHA) if self._knows_script else ("EVAL", _TAKE)
            connection.send_command(*how, len(keys), *keys, self.taken, *(q for _, q in lists))

    def _brpop_read(self, **options: Any) -> bool:
        if self._is_plain:
            return bool(super()._brpop_read(**options))
        try:
            answer = self._answer()
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        if self._waits or answer is None:
            raise Empty
        if len(answer) == 1:
            self._heard = answer[0]
            raise Empty
        message, queue = answer
        self._deliver(message, queue.decode())
        return True

    def _answer(self) -> Any:
        """What Redis says to the last command; None when it is to be sent again."""
        try:
            answer = self.client.parse_response(self.client.connection, "")
        except redis.exceptions.NoScriptError:  # Redis was started anew
            self._knows_script = False
            return None
        except self.connection_errors:
            self.client.connection.disconnect()
            self._heard, self._knows_script = None, False
            raise
        self._knows_script = True
        return answer

    def _deliver(self, data: bytes, queue: str) -> None:
        try:
            message = loads(data.decode())
            message["properties"]["delivery_tag"] = self.taken
            self._check(message)
        except _UNREADABLE:
            logger.error("The queue %r held what is no message: %r", queue, data[:200])
            self.put_aside(data, reason="unreadable")
            self._forget()
            raise Empty from None
        self._queue_cycle.rotate(queue)
        self.connection._deliver(message, queue)

    def _check(self, message: dict[str, Any]) -> None:
        """Raise what kombu would, deep in the worker's loop, of a message that it cannot build."""
        built = self.Message(message, channel=self)
        for part in (built.headers, built.properties, built.delivery_info):
            part.keys()

    def _forget(self) -> None:
        """Hold the message that was just taken no longer."""
        with self.conn_or_acquire() as client, client.pipeline() as pipe:
            pipe.zrem(self.unacked_index_key, self.taken)
            pipe.hdel(self.unacked_key, self.taken)
            pipe.execute()

    def put_aside(self, data: bytes, *, reason: str, client: Any = None) -> None:
        """Keep what nobody can run where somebody may look at it, and count it."""
        with self.conn_or_acquire(client) as client, client.pipeline() as pipe:
            pipe.lpush(UNREADABLE, data[:UNREADABLE_BYTES])
            pipe.ltrim(UNREADABLE, 0, UNREADABLE_KEPT - 1)
            pipe.incrby(REFUSED + reason, 1)
            pipe.execute()

    # --- Putting ---
    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        batch = kwargs.get("_publish_batch")
        headers = message.get("headers") or {}
        limit = self._limit(queue, headers)
        if batch is not None or queue in self._expires:
            if batch is not None:
                self._find_room(batch, queue, limit)
            super()._put(queue, message, **kwargs)
            if batch is not None:
                batch.add("xadd", BELL, {"rung": ""}, "*", 1, False)
            return
        key = self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
        lists = [self._q_for_pri(queue, step) for step in self.priority_steps]
        with self.conn_or_acquire() as client:
            answer = self._put_script(
                keys=[BELL, PERIODIC_MESSAGES, FULL, *lists],
                args=[key, dumps(message), limit, headers.get(PERIODIC) or "", queue],
                client=client,
            )
        if answer == b"waits":
            raise StillWaiting(headers[PERIODIC])
        if answer:
            raise QueueFull(queue, answer, limit)

    def _find_room(self, batch: Any, queue: str, limit: int) -> None:
        """A batch asks when what was free is used up: once for most."""
        if not limit:
            return
        rooms: dict[str, int] = batch.__dict__.setdefault("rooms", {})
        if not rooms.get(queue):
            batch.flush()
            waiting = self._size(queue)
            if waiting >= limit:
                with self.conn_or_acquire() as client:
                    client.hincrby(FULL, queue)
                raise QueueFull(queue, waiting, limit)
            rooms[queue] = limit - waiting
        rooms[queue] -= 1

    def _limit(self, queue: str, headers: dict[str, Any]) -> int:
        """How many messages may wait; 0: any number.

        A retry takes the place of a message that was there, and of each entry of beat's schedule
        there is one; tasks that publish find room when others do not, so that what has begun can
        go on.
        """
        if headers.get("retries") or headers.get(PERIODIC):
            return 0
        limit = self.queue_limits.get(queue, 0)
        return 2 * limit if headers.get("parent_id") else limit

    def keys_of(self, message: dict[str, Any], exchange: str, routing_key: str) -> list[str]:
        """The lists that a message goes back to."""
        priority = self._get_message_priority(message, reverse=False)
        return [self._q_for_pri(queue, priority) for queue in self._lookup(exchange, routing_key)]


class Transport(kombu_redis.Transport):
    Channel = Channel


_TAKE_SHA = sha1(_TAKE.encode()).hexdigest()  # noqa: S324 - Redis' name of a script
