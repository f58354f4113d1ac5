"""What is to be seen of a deployment at one moment."""

import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.ops.deployment import Deployment, Service
from deploy.ops.errors import OpsError
from deploy.ops.system import system_state

#: The names that scripts/backup gives, by UTC time.
BACKUP = re.compile(r"(\d{8}T\d{6}Z)")
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Space:
    """Bytes of a disk or of the memory."""

    name: str
    total: int
    free: int

    @property
    def share(self) -> float:
        return self.free / self.total if self.total else 1.0


@dataclass(frozen=True)
class Observation:
    deployment: str
    way: str
    is_production: bool
    #: Empty with `services_error`.
    services: list[Service]
    services_error: str
    #: Of manage.py system_state.
    state: dict[str, Any]
    disks: list[Space]
    memory: Space
    #: When the newest complete backup was begun.
    backup_at: datetime | None

    def as_json(self) -> dict[str, Any]:
        told = asdict(self)
        for service in told["services"]:
            service["started_at"] = service["started_at"] and service["started_at"].isoformat()
        told["backup_at"] = self.backup_at and self.backup_at.isoformat()
        return told


def observe(deployment: Deployment) -> Observation:
    """Whatever of it can be seen, also while half of it is down."""
    with ThreadPoolExecutor() as pool:
        state = pool.submit(system_state, deployment)
        services, error = [], ""
        try:
            services = deployment.services()
        except OpsError as failure:
            error = str(failure)
        return Observation(
            deployment=deployment.describe(),
            way=deployment.way,
            is_production=deployment.is_production,
            services=services,
            services_error=error,
            state=state.result(),
            disks=disks(deployment.folders()),
            memory=memory(),
            backup_at=last_backup(deployment.data / "backups"),
        )


def disks(folders: list[Path]) -> list[Space]:
    """Each disk once, by the first folder on it."""
    found: dict[int, Space] = {}
    for folder in folders:
        try:
            device = folder.stat().st_dev
            usage = shutil.disk_usage(folder)
        except OSError:  # not made yet, or not for this user
            continue
        found.setdefault(device, Space(str(folder), usage.total, usage.free))
    return list(found.values())


def memory() -> Space:
    """Of this host; free is what programs can have without swapping."""
    text = Path("/proc/meminfo").read_text()
    facts = {name: int(kilobytes) * 1024 for name, kilobytes in re.findall(r"(\w+):\s+(\d+)", text)}
    return Space("memory", facts["MemTotal"], facts["MemAvailable"])


def last_backup(folder: Path) -> datetime | None:
    """When the newest backup was begun that is complete: its manifest can be read."""
    try:
        names = sorted((entry.name for entry in os.scandir(folder)), reverse=True)
    except OSError:
        return None
    for name in names:
        match = BACKUP.fullmatch(name)
        if match and _is_complete(folder / name):
            return datetime.strptime(match[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return None


def _is_complete(backup: Path) -> bool:
    try:
        json.loads((backup / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
