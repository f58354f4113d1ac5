"""`scripts/backup`: make, list and check backups."""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.ops import backups, cli
from deploy.ops.backups import Backup
from deploy.ops.deployment import Deployment, find
from deploy.ops.errors import OpsError, UsageError
from deploy.ops.remote import Remote

DESCRIPTION = """\
Makes a backup while everything runs: PostgreSQL in one consistent state, Redis, the uploaded files
and the environment file, with a manifest that has each file's SHA-256 and each table's number of
rows. It is written under a temporary name, checked, and then renamed: what is in the folder is
whole. Older ones than the newest --keep are removed after that.
"""

EPILOG = """\
examples:
  scripts/backup                              into the deployment's own folder of backups
  scripts/backup --to /mnt/disk --keep 30     elsewhere, and the newest 30 stay
  scripts/backup --s3 s3://promos/backups     and a copy in S3, by the application's AWS_* variables
  scripts/backup list                         what there is
  scripts/backup verify                       are all of them still what they were?

`scripts/restore latest --into rehearsal` tries a restore beside the live database.
docs/backups.md says how to make one each night, and how secrets are kept out of it.
"""


def parser() -> argparse.ArgumentParser:
    made = cli.parser("backup", DESCRIPTION, EPILOG)
    made.add_argument(
        "action",
        nargs="?",
        choices=("make", "list", "verify"),
        default="make",
        metavar="list|verify",
        help="show the backups; read and check all of them, or the one that is named",
    )
    made.add_argument("name", nargs="?", help="the backup to verify, or `latest` (all)")
    made.add_argument("--to", type=Path, metavar="DIR", help="the folder of the backups")
    made.add_argument("--keep", type=_positive, metavar="N", default=14, help="how many stay (14)")
    made.add_argument("--s3", metavar="URL", help="a copy below s3://BUCKET/PREFIX, as many of it")
    made.add_argument(
        "--with-secrets", action="store_true", help="keep the environment's secrets in it, too"
    )
    made.add_argument("--json", action="store_true", help="list: as JSON")
    return made


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def main() -> None:
    arguments = parser().parse_args()
    if arguments.name and arguments.action != "verify":
        raise UsageError(f"{arguments.name}: only `verify` takes the name of a backup")
    deployment = find(arguments.on)
    folder = (arguments.to or backups.default_folder(deployment)).absolute()
    if arguments.action == "list":
        show(backups.complete(folder), folder, as_json=arguments.json)
    elif arguments.action == "verify":
        verify(deployment, folder, arguments.name)
    else:
        make(deployment, folder, arguments)


def make(deployment: Deployment, folder: Path, arguments: argparse.Namespace) -> None:
    remote = Remote(deployment, arguments.s3) if arguments.s3 else None
    with backups.locked(deployment):
        cli.say(f"Backing up {deployment.describe()}")
        if remote:
            remote.names()  # a wrong address or login ends it here
        backup = backups.take(deployment, folder, with_secrets=arguments.with_secrets)
        gone = backups.retain(folder, arguments.keep)
        if remote:
            with cli.step(f"Copying it to {remote.url}"):
                remote.upload(backup)
            gone += [f"{remote.url.rstrip('/')}/{name}" for name in remote.retain(arguments.keep)]
    for name in gone:
        cli.say(f"Removed {name}")
    rows = sum(backup.manifest["postgres"]["counts"].values())
    cli.say(f"{backup.path}: {cli.size(backup.size)}, {rows} rows")


def show(found: list[Backup], folder: Path, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([facts(backup) for backup in found], indent=2))
        return
    if not found:
        raise OpsError(f"there is no backup in {folder}")
    rows = [["NAME", "AGE", "SIZE", "RELEASE", "ROWS", "REDIS", "SECRETS"]]
    for backup in found:
        about = facts(backup)
        age = (datetime.now(UTC) - backup.created_at).total_seconds()
        rows.append(
            [
                backup.name,
                cli.duration(age),
                cli.size(about["bytes"]),
                about["release"] or "-",
                str(about["rows"]),
                about["redis"] or "-",
                "yes" if about["with_secrets"] else "no",
            ]
        )
    print(cli.table(rows))


def facts(backup: Backup) -> dict[str, Any]:
    manifest = backup.manifest
    return {
        "name": backup.name,
        "path": str(backup.path),
        "created_at": manifest["created_at"],
        "bytes": backup.size,
        "release": manifest["release"],
        "rows": sum(manifest["postgres"]["counts"].values()),
        "redis": (manifest["redis"] or {}).get("version", ""),
        "with_secrets": manifest["with_secrets"],
    }


def verify(deployment: Deployment, folder: Path, name: str | None) -> None:
    found = backups.complete(folder)
    if name == "latest":
        found = found[-1:]
    elif name:
        found = [backup for backup in found if backup.name == name]
    if not found:
        raise OpsError(f"there is no backup {name or ''} in {folder}".replace("  ", " "))
    bad = 0
    for backup in found:
        try:
            backup.check_sums()
            backup.check_formats(deployment)
            cli.say(f"{backup.name}: whole")
        except OpsError as error:
            bad += 1
            cli.say(f"{backup.name}: {error}")
    if bad:
        raise OpsError(f"{bad} of {len(found)} backups are damaged")


if __name__ == "__main__":
    cli.run(main)
