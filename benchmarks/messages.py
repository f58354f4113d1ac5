"""(d) Publishing and draining against the SNS/SQS server's own rate, bare boto3 in tens."""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import connection as django_connection

from benchmarks import data
from benchmarks.rounds import best, deal, interleave, seconds
from benchmarks.servers import calm, connect, execute
from benchmarks.table import Row
from promotions.clients.promo_queue import (
    PromoQueue,
    in_tens,
    promo_queue,
    sns_client,
    sqs_client,
)
from promotions.clients.provision import provision
from promotions.services import notifications

#: Bounds a run on a server that has stopped answering.
SECONDS = 600.0

_OUTBOX = """
    INSERT INTO promotions_notification (promo_id, shopper_id, local_day, channel)
    SELECT %s, user_id, current_date, channel FROM promotions_shopperprofile
    ORDER BY user_id LIMIT %s
"""


def run(options: argparse.Namespace) -> list[Row]:
    shoppers = data.shoppers_make(min(options.scale, 0.01))
    count = min(data.scaled(options.messages, options.scale, 100), shoppers)
    # The last poll of an empty queue is a wait, not work: neither side has it in its time.
    settings.SQS_WAIT_SECONDS = 0
    settings.SNS_TOPIC_ARN = provision_all()
    promo_queue.cache_clear()
    flow = Flow(promo_queue(), data.promo_make("messages"), count)
    try:
        return _compare(options.rounds, flow)
    finally:
        remove(flow.queue)
        execute("TRUNCATE promotions_notification")


def provision_all() -> str:
    return provision(
        sns=sns_client(),
        sqs=sqs_client(),
        topic_name=settings.SNS_TOPIC_ARN.rpartition(":")[2],
        queue_name=settings.SQS_QUEUE_NAME,
        dead_letter_name=settings.SQS_DEAD_LETTER_QUEUE_NAME,
        attempts=settings.NOTIFICATION_MAX_ATTEMPTS,
    )


def remove(queue: PromoQueue) -> None:
    queue.sns.delete_topic(TopicArn=queue.topic_arn)
    for name in (settings.SQS_QUEUE_NAME, settings.SQS_DEAD_LETTER_QUEUE_NAME):
        queue.sqs.delete_queue(QueueUrl=queue.sqs.get_queue_url(QueueName=name)["QueueUrl"])


def _compare(rounds: int, flow: "Flow") -> list[Row]:
    publishers, receivers = settings.SNS_PUBLISHERS, settings.SQS_RECEIVERS
    several = f"{publishers}+{receivers} threads"
    measured = interleave(
        "(d) publish, drain",
        rounds,
        {
            "service": flow.service,
            "1+1 threads": lambda: flow.bare(1, 1),
            several: lambda: flow.bare(publishers, receivers),
        },
    )
    rows = []
    for step, (name, service, threads) in enumerate(
        (
            ("publish", "notifications_publish", publishers),
            ("drain", "queue_drain", receivers),
        )
    ):
        rates = {side: [rate[step] for rate in values] for side, values in measured.items()}
        baseline = best(rates, "1+1 threads", several)
        of = f"{threads if baseline == several else 1} thread(s)"
        case = f"(d) {name} {flow.count:,}: `{service}`, {threads} threads / bare boto3, {of}"
        rows.append(Row(case, rates["service"], rates[baseline], "/s", "at least 0.8"))
    return rows


@dataclass(frozen=True)
class Flow:
    """Fills the queue and empties it, through the services or without; returns both rates."""

    queue: PromoQueue
    promo_id: int
    count: int

    def service(self) -> tuple[float, float]:
        execute("TRUNCATE promotions_notification")
        with closing(connect()) as connection, connection.cursor() as cursor:
            cursor.execute(_OUTBOX, [self.promo_id, self.count])
        calm("promotions_notification")
        django_connection.ensure_connection()
        publish = self._rate(lambda: notifications.notifications_publish(seconds=SECONDS))
        drain = self._rate(lambda: notifications.queue_drain(seconds=SECONDS)["delivered"])
        return publish, drain

    def bare(self, publishers: int, receivers: int) -> tuple[float, float]:
        batches = list(in_tens(range(1_000_000, 1_000_000 + self.count)))
        publish = self._rate(lambda: _each(publishers, self._publish, deal(batches, publishers)))
        drain = self._rate(lambda: _each(receivers, self._drain, range(receivers)))
        return publish, drain

    def _rate(self, work: Callable[[], int]) -> float:
        results: list[int] = []
        duration = seconds(lambda: results.append(work()))
        # moto, asked by several threads at once, now and then gives one message twice.
        if not self.count <= results[0] <= 1.1 * self.count:
            raise RuntimeError(f"{results[0]} messages went through, not {self.count}")
        return self.count / duration

    def _publish(self, batches: Sequence[Sequence[int]]) -> int:
        for batch in batches:
            self.queue.sns.publish_batch(
                TopicArn=self.queue.topic_arn,
                PublishBatchRequestEntries=[
                    {"Id": str(pk), "Message": json.dumps({"notification_id": pk})} for pk in batch
                ],
            )
        return sum(map(len, batches))

    def _drain(self, _: int) -> int:
        drained = 0
        while messages := self.queue.sqs.receive_message(
            QueueUrl=self.queue.url, MaxNumberOfMessages=10, WaitTimeSeconds=0
        ).get("Messages"):
            self.queue.sqs.delete_message_batch(
                QueueUrl=self.queue.url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                    for number, message in enumerate(messages)
                ],
            )
            drained += len(messages)
        return drained


def _each(threads: int, work: Callable[[Any], int], shares: Iterable[Any]) -> int:
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(work, shares))
