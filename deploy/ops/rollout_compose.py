"""Releases under Compose: images of the application, each under a tag of its own."""

import json
import sys
from pathlib import Path
from typing import Any

from deploy.ops import cli, releases, shell
from deploy.ops.compose import LABEL, Compose
from deploy.ops.deployment import PROGRAMS, PROJECT
from deploy.ops.errors import NotRunning, OpsError
from deploy.ops.rollout import Rollout

VERSION = "org.opencontainers.image.version"


class ComposeRollout(Rollout):
    deployment: Compose

    def check(self) -> None:
        if not self.deployment.is_production:
            raise OpsError(
                "the development stack runs the source as it lies here; after a change of "
                "requirements or migrations: docker compose up --build --detach --wait"
            )
        root = Path(shell.run(["docker", "info", "--format", "{{.DockerRootDir}}"]).strip())
        self.require_room(root if root.is_dir() else PROJECT)

    def make(self, source: str | None) -> str:
        if source is None:
            return self._build()
        image = source if ":" in source or "/" in source else f"{self._repository}:{source}"
        if not _id_of(image) and shell.try_run(["docker", "pull", "--quiet", image]).returncode:
            raise OpsError(
                f"there is no image {image} here, and none could be fetched; those here are "
                f"listed by: docker image ls {self._repository}"
            )
        return image

    def _build(self) -> str:
        name = releases.name_of(PROJECT)
        image = f"{self._repository}:{name}"
        arguments = {"VERSION": name, "REVISION": _revision()}
        options = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        with cli.step(f"Building {image}"):
            command = self.deployment.command("build", "--quiet", *options, "migrate")
            shell.run(command, env=self._environment(image), cwd=PROJECT)
        return image

    def running(self) -> str:
        """Its tag; one whose tag went to another image since gets one of its own."""
        if not self._containers("web"):
            raise NotRunning("there is no web to go on from: docker compose up --detach --wait")
        # The one that `put` comes to last: what was cut off did not come to it.
        last = next(found[0] for name in reversed(PROGRAMS) if (found := self._containers(name)))
        image, used = str(last["Image"]), str(last["Config"]["Image"])
        if ":" in used.rpartition("/")[2] and _id_of(used) == image:
            return used
        version = last["Config"]["Labels"].get(VERSION) or "before"
        kept = f"{self._repository}:{version}-{image.removeprefix('sha256:')[:8]}"
        shell.run(["docker", "tag", image, kept])
        return kept

    def contract(self) -> str:
        command = self.deployment.application("cat", "deploy/contract.json")
        return shell.run(command, env=self.deployment.environment(), cwd=PROJECT)

    def command(self, release: str, *command: str) -> tuple[list[str], dict[str, str]]:
        line = self.deployment.command("run", "--rm", "--no-deps", "-T", "migrate", *command)
        return line, self._environment(release)

    def require(self, release: str) -> None:
        if not _id_of(release):
            raise OpsError(f"the image {release} is not here any more")

    def put(self, release: str) -> None:
        image = _id_of(release)
        others = [name for name in PROGRAMS if self._differs(name, image)]
        going = [name for name in others if self.deployment._running_ids(name)]
        if going:
            self._show([str(PROJECT / "scripts" / "rolling-restart"), *going], release)
        if stopped := [name for name in others if name not in going]:
            up = ("up", "--detach", "--wait", "--no-build", *stopped)
            self._show(self.deployment.command(*up), release)
        if _id_of(self._named) != image:
            self.deployment.settings_file.write(APP_IMAGE=release)

    def forget(self, releases: list[str]) -> None:
        for image in releases:
            shell.try_run(["docker", "image", "rm", image])

    def _differs(self, name: str, image: str) -> bool:
        containers = self._containers(name)
        return not containers or any(container["Image"] != image for container in containers)

    def _containers(self, name: str) -> list[dict[str, Any]]:
        return [
            container
            for container in self.deployment.containers()
            if container["Config"]["Labels"][f"{LABEL}.service"] == name
        ]

    @property
    def _named(self) -> str:
        """The image of the next `docker compose up`."""
        config = json.loads(self.deployment.compose("config", "--format", "json"))
        return str(config["services"]["web"]["image"])

    @property
    def _repository(self) -> str:
        folder, slash, name = self._named.rpartition("/")
        return f"{folder}{slash}{name.partition(':')[0]}"

    def _environment(self, image: str) -> dict[str, str]:
        return self.deployment.environment() | {"APP_IMAGE": image}

    def _show(self, command: list[str], image: str) -> None:
        sys.stdout.flush()
        shell.stream(command, stdout=sys.stdout.buffer, env=self._environment(image))


def _id_of(image: str) -> str:
    """Empty when it is not here."""
    found = shell.try_run(["docker", "image", "inspect", "--format", "{{.Id}}", image])
    return found.stdout.strip() if found.returncode == 0 else ""


def _revision() -> str:
    git = ["git", "-c", f"safe.directory={PROJECT}", "-C", str(PROJECT)]
    if not (PROJECT / ".git").exists():
        return ""
    return shell.try_run([*git, "rev-parse", "HEAD"]).stdout.strip()
