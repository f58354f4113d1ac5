"""`python -m marketplace.object_store put|get|list|delete s3://BUCKET/KEY`: S3, for backups.

`put` reads standard input and `get` writes to standard output, whatever their size; `list` prints
the keys below a prefix, and `delete` removes them. The credentials and the endpoint are those of
the application's AWS_* variables.
"""

import os
import sys
from typing import Any
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError


def client() -> Any:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "marketplace.settings")
    from django.conf import settings

    return boto3.client(
        "s3", endpoint_url=settings.AWS_ENDPOINT_URL or None, region_name=settings.AWS_REGION
    )


def keys(s3: Any, bucket: str, prefix: str) -> list[str]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def run(command: str, bucket: str, key: str) -> None:
    s3 = client()
    if command == "put":
        s3.upload_fileobj(sys.stdin.buffer, bucket, key)
    elif command == "get":
        s3.download_fileobj(bucket, key, sys.stdout.buffer)
    elif command == "list":
        print(*keys(s3, bucket, key), sep="\n")
    else:
        for found in keys(s3, bucket, key):
            s3.delete_object(Bucket=bucket, Key=found)


def main() -> None:
    arguments = sys.argv[1:]
    if len(arguments) != 2 or arguments[0] not in ("put", "get", "list", "delete"):
        sys.exit("usage: python -m marketplace.object_store put|get|list|delete s3://BUCKET/KEY")
    command, url = arguments
    parts = urlsplit(url)
    try:
        run(command, parts.netloc, parts.path.lstrip("/"))
    except (BotoCoreError, ClientError, Boto3Error) as error:
        sys.exit(f"error: {url}: {error}")


if __name__ == "__main__":
    main()
