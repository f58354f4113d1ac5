#!/usr/bin/env python
"""Makes the topic, the queue, its dead-letter queue and the subscription; repeating it is harmless.

Needs boto3 and the AWS_*, SNS_TOPIC_ARN and SQS_* variables alone, so that LocalStack runs this
very file as its init hook.
"""

import json
import os
from typing import Any

import boto3

VISIBILITY_TIMEOUT = 30
RETENTION = 14 * 24 * 3600


def provision(
    *, sns: Any, sqs: Any, topic_name: str, queue_name: str, dead_letter_name: str, attempts: int
) -> str:
    """Return the topic's ARN."""

    def queue_arn(url: str) -> str:
        answer = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        arn: str = answer["Attributes"]["QueueArn"]
        return arn

    def ensure_queue(name: str, attributes: dict[str, str]) -> str:
        # Created bare, then configured: create_queue refuses an existing queue that differs.
        url: str = sqs.create_queue(QueueName=name)["QueueUrl"]
        sqs.set_queue_attributes(QueueUrl=url, Attributes=attributes)
        return url

    retention = {"MessageRetentionPeriod": str(RETENTION)}
    topic_arn: str = sns.create_topic(Name=topic_name)["TopicArn"]
    dead_letter_arn = queue_arn(ensure_queue(dead_letter_name, retention))
    url = ensure_queue(queue_name, {**retention, "VisibilityTimeout": str(VISIBILITY_TIMEOUT)})
    arn = queue_arn(url)
    sqs.set_queue_attributes(
        QueueUrl=url,
        Attributes={
            "RedrivePolicy": json.dumps(
                {"deadLetterTargetArn": dead_letter_arn, "maxReceiveCount": str(attempts)}
            ),
            "Policy": json.dumps(
                {
                    "Version": "2012-10-17",
                    "Statement": [
                        {
                            "Effect": "Allow",
                            "Principal": {"Service": "sns.amazonaws.com"},
                            "Action": "sqs:SendMessage",
                            "Resource": arn,
                            "Condition": {"ArnEquals": {"aws:SourceArn": topic_arn}},
                        }
                    ],
                }
            ),
        },
    )
    sns.subscribe(
        TopicArn=topic_arn,
        Protocol="sqs",
        Endpoint=arn,
        Attributes={"RawMessageDelivery": "true"},
        ReturnSubscriptionArn=True,
    )
    return topic_arn


def main() -> None:
    region = os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or None
    topic = os.environ.get("SNS_TOPIC_ARN") or "promo-notifications"
    queue = os.environ.get("SQS_QUEUE_NAME") or "promo-notifications"
    arn = provision(
        sns=boto3.client("sns", region_name=region, endpoint_url=endpoint),
        sqs=boto3.client("sqs", region_name=region, endpoint_url=endpoint),
        topic_name=topic.rpartition(":")[2],
        queue_name=queue,
        dead_letter_name=os.environ.get("SQS_DEAD_LETTER_QUEUE_NAME") or "promo-notifications-dead",
        attempts=int(os.environ.get("NOTIFICATION_MAX_ATTEMPTS") or 5),
    )
    print(f"topic {arn}, queue {queue}")


if __name__ == "__main__":
    main()
