"""The SNS topic that announces promos, and the SQS queue subscribed to it."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from django.conf import settings

if TYPE_CHECKING:
    from mypy_boto3_sns.client import SNSClient
    from mypy_boto3_sqs.client import SQSClient

T = TypeVar("T")

#: SNS and SQS take at most ten messages a call.
BATCH = 10
AWS_ERRORS = (BotoCoreError, ClientError)


@dataclass(frozen=True)
class Message:
    """One SQS message; `notification_id` is None when its body cannot be read."""

    receipt: str
    body: str
    notification_id: int | None
    receive_count: int


@dataclass(frozen=True)
class PromoQueue:
    sns: "SNSClient"
    sqs: "SQSClient"
    topic_arn: str
    url: str

    def publish(self, notification_ids: Sequence[int]) -> dict[int, str]:
        """Publish up to ten notifications; return the reason for each that failed."""
        try:
            answer = self.sns.publish_batch(
                TopicArn=self.topic_arn,
                PublishBatchRequestEntries=[
                    {"Id": str(pk), "Message": json.dumps({"notification_id": pk})}
                    for pk in notification_ids
                ],
            )
        except AWS_ERRORS as error:
            return dict.fromkeys(notification_ids, str(error))
        return {
            int(failure["Id"]): f"{failure['Code']}: {failure.get('Message', '')}"
            for failure in answer.get("Failed", [])
        }

    def receive(self, wait_seconds: int) -> list[Message]:
        """Up to ten messages, as soon as there is one or after `wait_seconds`."""
        answer = self.sqs.receive_message(
            QueueUrl=self.url,
            MaxNumberOfMessages=BATCH,
            WaitTimeSeconds=min(wait_seconds, 20),
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        return [
            Message(
                receipt=message["ReceiptHandle"],
                body=message["Body"],
                notification_id=_notification_id(message["Body"]),
                receive_count=int(message["Attributes"]["ApproximateReceiveCount"]),
            )
            for message in answer.get("Messages", [])
        ]

    def delete(self, messages: Iterable[Message]) -> None:
        for batch in in_tens(messages):
            self.sqs.delete_message_batch(
                QueueUrl=self.url,
                Entries=[
                    {"Id": str(index), "ReceiptHandle": message.receipt}
                    for index, message in enumerate(batch)
                ],
            )

    def postpone(self, messages: Iterable[tuple[Message, int]]) -> None:
        """Show each message again after its number of seconds."""
        for batch in in_tens(messages):
            self.sqs.change_message_visibility_batch(
                QueueUrl=self.url,
                Entries=[
                    {
                        "Id": str(index),
                        "ReceiptHandle": message.receipt,
                        "VisibilityTimeout": min(seconds, 43_200),
                    }
                    for index, (message, seconds) in enumerate(batch)
                ],
            )


def in_tens(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def _notification_id(body: str) -> int | None:
    try:
        value: Any = json.loads(body)["notification_id"]
    except (ValueError, TypeError, KeyError):
        return None
    return value if type(value) is int and 0 < value < 2**63 else None


def _options() -> dict[str, Any]:
    """Options under which no call hangs for ever."""
    return {
        "region_name": settings.AWS_REGION,
        "endpoint_url": settings.AWS_ENDPOINT_URL or None,
        "config": Config(
            connect_timeout=5,
            read_timeout=30,
            retries={"mode": "standard", "max_attempts": 3},
            max_pool_connections=max(settings.SQS_RECEIVERS, settings.SNS_PUBLISHERS) + 2,
        ),
    }


def sns_client() -> "SNSClient":
    return boto3.session.Session().client("sns", **_options())


def sqs_client() -> "SQSClient":
    return boto3.session.Session().client("sqs", **_options())


@lru_cache
def promo_queue() -> PromoQueue:
    """The queue of this process; clients are safe between threads."""
    sqs = sqs_client()
    return PromoQueue(
        sns=sns_client(),
        sqs=sqs,
        topic_arn=settings.SNS_TOPIC_ARN,
        url=sqs.get_queue_url(QueueName=settings.SQS_QUEUE_NAME)["QueueUrl"],
    )
