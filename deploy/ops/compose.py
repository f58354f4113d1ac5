"""Docker Compose: the project whose containers were made from this folder."""

import json
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from deploy.ops import shell
from deploy.ops.deployment import PROJECT, Deployment, Service, State
from deploy.ops.errors import NotRunning, OpsError
from deploy.ops.redis import ComposeRedis
from deploy.ops.settings_file import SettingsFile

LABEL = "com.docker.compose"
PRODUCTION = "docker-compose.yml:docker-compose.prod.yml"

#: A line of `docker stats`, in a form of our own.
USED = re.compile(r"(?P<id>[0-9a-f]{12})\S* (?P<amount>[0-9.]+)(?P<unit>[kKMG]?i?B) ")
UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "kB": 10**3, "MB": 10**6, "GB": 10**9}


class Compose(Deployment):
    way = "compose"
    MISSING = "no container was made from this folder: docker compose up --detach --wait"

    def __init__(self, project: str, files: str) -> None:
        self.project = project
        #: As COMPOSE_FILE has them.
        self.files = files

    @classmethod
    def find(cls) -> "Compose | None":
        """By the containers' labels, so that nobody needs to name files or project; variables of
        Compose's own and `.env` win."""
        own = os.environ | (
            SettingsFile(PROJECT / ".env").read() if (PROJECT / ".env").exists() else {}
        )
        wanted, files = own.get("COMPOSE_PROJECT_NAME"), own.get("COMPOSE_FILE")
        try:
            listed = shell.try_run(
                [
                    "docker",
                    "ps",
                    "--all",
                    "--format",
                    "json",
                    "--filter",
                    f"label={LABEL}.project.working_dir={PROJECT}",
                ],
                timeout=20,
            )
        except OpsError:
            return None
        if listed.returncode:
            return None
        projects: dict[str, str] = {}
        for line in listed.stdout.splitlines():
            labels = dict(
                pair.split("=", 1) for pair in _labels(json.loads(line)["Labels"]) if "=" in pair
            )
            if labels.get(f"{LABEL}.oneoff") != "True":
                name = labels[f"{LABEL}.project"]
                projects[name] = labels.get(f"{LABEL}.project.config_files", "").replace(",", ":")
        if wanted:
            projects = {name: found for name, found in projects.items() if name == wanted}
        if not projects:
            return None
        if len(projects) > 1:
            raise OpsError(
                f"several Compose projects run from {PROJECT}: set COMPOSE_PROJECT_NAME to one of "
                + ", ".join(sorted(projects))
            )
        ((name, found),) = projects.items()
        return cls(name, files or found)

    @classmethod
    def of_files(cls) -> "Compose":
        """The project that `docker compose up` would make here, though no container is."""
        command = ["docker", "compose", "--project-directory", str(PROJECT), "config"]
        project = json.loads(shell.run([*command, "--format", "json"], cwd=PROJECT))["name"]
        own = SettingsFile(PROJECT / ".env").read() if (PROJECT / ".env").exists() else {}
        files = os.environ.get("COMPOSE_FILE") or own.get("COMPOSE_FILE")
        return cls(project, files or "docker-compose.yml")

    def describe(self) -> str:
        kind = "production" if self.is_production else "development"
        return f"Compose project {self.project} ({kind}) in {PROJECT}"

    @property
    def is_production(self) -> bool:  # type: ignore[override]
        return "docker-compose.prod.yml" in self.files

    @property
    def settings_file(self) -> SettingsFile:
        return SettingsFile(PROJECT / ".env")

    @property
    def data(self) -> Path:
        return PROJECT / "var" / "compose"

    def environment(self) -> dict[str, str]:
        return os.environ | {"COMPOSE_PROJECT_NAME": self.project, "COMPOSE_FILE": self.files}

    def compose(self, *arguments: str, **options: Any) -> str:
        return shell.run(self.command(*arguments), env=self.environment(), cwd=PROJECT, **options)

    def command(self, *arguments: str) -> list[str]:
        return ["docker", "compose", "--project-directory", str(PROJECT), *arguments]

    @cached_property
    def config(self) -> dict[str, Any]:
        """What Compose makes of the files and variables."""
        read: dict[str, Any] = json.loads(self.compose("config", "--format", "json"))
        return read

    def folders(self) -> list[Path]:
        done = shell.try_run(["docker", "info", "--format", "{{.DockerRootDir}}"], timeout=20)
        # Docker may be another machine's.
        return [PROJECT, *(path for path in [Path(done.stdout.strip())] if path.is_absolute())]

    # --- Services ---

    def containers(self) -> list[dict[str, Any]]:
        """`docker inspect` of each, those of `compose run` left out."""
        filters = (
            *("--filter", f"label={LABEL}.project={self.project}"),
            *("--filter", f"label={LABEL}.oneoff=False"),
        )
        ids = shell.run(["docker", "ps", "--all", "--quiet", "--no-trunc", *filters]).split()
        if not ids:
            return []
        found: list[dict[str, Any]] = json.loads(shell.run(["docker", "inspect", *ids]))
        return sorted(found, key=lambda item: item["Name"])

    def services(self) -> list[Service]:
        return self._services(self._memory())

    def running(self, name: str) -> list[Service]:
        # The memory takes Docker seconds to find out.
        services = self._services({})
        return [service for service in services if service.name == name and service.is_running]

    def _services(self, memory: dict[str, int]) -> list[Service]:
        found = [
            _service(item, memory.get(item["Id"][:12]))
            for item in self.containers()
            if item["Config"]["Labels"][f"{LABEL}.service"] != "migrate"
        ]
        missing = set(self.config["services"]) - {service.name for service in found} - {"migrate"}
        return found + [Service(name, "", State.STOPPED) for name in sorted(missing)]

    def _memory(self) -> dict[str, int]:
        """Bytes that each container uses, by the first half of its id."""
        done = shell.try_run(
            ["docker", "stats", "--no-stream", "--format", "{{.ID}} {{.MemUsage}}"], timeout=30
        )
        return used_memory(done.stdout)

    # --- Commands inside ---

    def application(self, *command: str, interactive: bool = False) -> list[str]:
        """In a running container of ours, else in one made for it."""
        terminal = [] if interactive and os.isatty(0) else ["-T"]
        for name in ("worker", "web", "beat"):
            if self._running_ids(name):
                return self.command("exec", *terminal, name, *command)
        quiet = ("--quiet-pull",)
        return self.command("run", "--rm", "--no-deps", *quiet, *terminal, "worker", *command)

    def _running_ids(self, name: str) -> list[str]:
        return self.compose("ps", "--quiet", "--status", "running", name).split()

    def postgres(self, *command: str) -> list[str]:
        database = self.config["services"]["postgres"]["environment"]["POSTGRES_DB"]
        tool, *rest = command
        return self.command(
            "exec", "-T", "postgres", tool, "--username=postgres", f"--dbname={database}", *rest
        )

    def postgres_environment(self) -> dict[str, str]:
        return self.environment()

    def postgres_admin(self, *command: str) -> tuple[list[str], dict[str, str] | None]:
        """The container's own user is the superuser."""
        return self.command("exec", "-T", "postgres", *command), self.environment()

    def keep_database_password(self, verifier: str) -> None:
        self.compose(
            *("exec", "-T", "postgres", "/opt/flash-promos/entrypoint", "keep-password"),
            input=f"{verifier}\n",
        )

    def redis(self) -> ComposeRedis | None:
        """With Sentinel there are several, and who is the master changes."""
        return None if "compose/sentinel.yml" in self.files else ComposeRedis(self)

    def log_command(
        self, service: Service, *, lines: int | None, follow: bool, since: datetime | None = None
    ) -> list[str]:
        more = ["--follow"] if follow else []
        more += ["--tail", str(lines)] if lines is not None else []
        more += ["--since", since.isoformat()] if since else []
        # A container's two streams in their order.
        script = 'exec docker logs "$@" 2>&1'
        return ["sh", "-c", script, "logs", *more, service.instance]

    # --- Changes ---

    def start(self, name: str) -> None:
        count = sum(
            item["Config"]["Labels"][f"{LABEL}.service"] == name for item in self.containers()
        )
        scale = ("--scale", f"{name}={count}") if count else ()
        wait = ("--detach", "--wait", "--no-deps", "--no-recreate", "--no-build")
        self.compose("up", *wait, *scale, name)

    def stop(self, name: str) -> None:
        self.compose("stop", name)

    def restart(self, name: str) -> None:
        """Without an interruption where production's proxy makes it possible."""
        if self.is_production:
            self._rolling_restart(name)
        else:
            self.compose("up", "--detach", "--wait", "--no-deps", "--force-recreate", name)

    def restart_each(self, names: Sequence[str]) -> None:
        if self.is_production:
            self._rolling_restart(*names)
        else:
            super().restart_each(names)

    def _rolling_restart(self, *names: str) -> None:
        script = str(PROJECT / "scripts" / "rolling-restart")
        shell.run([script, *names], env=self.environment())

    def stop_instance(self, service: Service) -> None:
        shell.run(["docker", "stop", service.instance])

    def scale_workers(self, count: int) -> None:
        if not self.containers():
            raise NotRunning(self.MISSING)
        scale = ("--scale", f"worker={count}")
        # Not --no-deps: the next `up` would take such a worker for a changed one.
        self.compose("up", "--detach", "--wait", "--no-build", "--no-recreate", *scale, "worker")
        if self.settings_file.path.exists():
            self.settings_file.write(WORKER_REPLICAS=str(count))


def used_memory(stats: str) -> dict[str, int]:
    """Bytes, by the first half of each container's id. Of one that ends just now `docker stats` has
    nothing to tell: `-- / --`, and not even its id; 0 is what the engine does not know."""
    found = (USED.match(line) for line in stats.splitlines())
    used = {one["id"]: int(float(one["amount"]) * UNITS[one["unit"]]) for one in found if one}
    return {container: octets for container, octets in used.items() if octets}


def _labels(text: str) -> list[str]:
    """`docker ps` joins labels by commas, which a list of files also has."""
    pairs: list[str] = []
    for piece in text.split(","):
        if "=" in piece or not pairs:
            pairs.append(piece)
        else:
            pairs[-1] += f",{piece}"
    return pairs


def _service(item: dict[str, Any], memory: int | None) -> Service:
    state, labels = item["State"], item["Config"]["Labels"]
    image = item["Config"]["Image"]
    version = labels.get("org.opencontainers.image.version") or image
    return Service(
        name=labels[f"{LABEL}.service"],
        instance=item["Name"].lstrip("/"),
        state=_state(state),
        version=version,
        started_at=_time(state["StartedAt"]) if state["Running"] else None,
        memory=memory,
        memory_limit=item["HostConfig"]["Memory"] or None,
        host=item["Config"]["Hostname"],
    )


def _state(state: dict[str, Any]) -> State:
    health = state.get("Health", {}).get("Status", "healthy")
    if state.get("Restarting"):
        return State.FAILED
    if state["Running"]:
        return {"starting": State.STARTING, "unhealthy": State.UNHEALTHY}.get(health, State.RUNNING)
    return State.STOPPED if state["ExitCode"] in (0, 137, 143) else State.FAILED


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text[:19]).replace(tzinfo=UTC)
