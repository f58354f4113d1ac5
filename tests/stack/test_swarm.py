"""The compose files as a stack of Docker Swarm, on this host as its only node.

After leaving a swarm the other containers of the host do not find each other by name until they are
restarted, so `scripts/test` runs what is marked `alone` after all else.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack.stack import AWS_IMAGE, PRODUCTION, Stack, copy_project, run, wait_until

pytestmark = pytest.mark.alone

#: LocalStack in the place of AWS, two workers, and short periods.
OVERLAY = f"""
x-aws: &aws
  environment:
    AWS_ENDPOINT_URL: http://aws:4566
    AWS_ACCESS_KEY_ID: test
    AWS_SECRET_ACCESS_KEY: test
    CHECK_ACTIVE_PROMOS_SECONDS: 3
    PROCESS_NOTIFICATION_QUEUE_SECONDS: 3
services:
  web: *aws
  beat: *aws
  worker:
    <<: *aws
    scale: 2
  aws:
    image: {AWS_IMAGE}
    environment:
      SERVICES: sns,sqs
      AWS_ACCESS_KEY_ID: test
      AWS_SECRET_ACCESS_KEY: test
    restart: unless-stopped
    networks: [default]
    volumes:
      - ./compose/localstack/ready.d:/etc/localstack/init/ready.d:ro
      - ./promotions/clients/provision.py:/opt/flash-promos/provision.py:ro
"""
OPEN_A_PROMO = """
from datetime import timedelta
from django.contrib.auth.models import User
from django.utils import timezone
from promotions.models import FlashPromo, Product, ShopperProfile, Store
users = User.objects.bulk_create(User(username=f"shopper-{n}") for n in range(20))
ShopperProfile.objects.bulk_create(
    ShopperProfile(user=user, latitude=19.4, longitude=-99.1, segment="new") for user in users)
store = Store.objects.create(name="store", latitude=19.4, longitude=-99.1)
product = Product.objects.create(store=store, name="product", list_price=100)
now = timezone.now()
FlashPromo.objects.create(product=product, promo_price=60, quantity=9, starts_at=now,
    ends_at=now + timedelta(hours=1))
"""
DELIVERED = """
from promotions.models import Notification
print(Notification.objects.filter(status="DELIVERED").count())
"""


def docker(*arguments: str, **options: str) -> str:
    done = run("docker", *arguments, **options)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def swarm() -> Iterator[None]:
    state = docker("info", "--format", "{{.Swarm.LocalNodeState}}").strip()
    if state != "inactive":
        pytest.skip(f"this Docker is part of a swarm already: {state}")
    docker("swarm", "init", "--advertise-addr", "127.0.0.1")
    try:
        node = docker("node", "ls", "--quiet").strip()
        docker("node", "update", "--label-add", "flash-promos=data", node)
        yield
    finally:
        docker("swarm", "leave", "--force")


@pytest.fixture(scope="module")
def stack(swarm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = copy_project(tmp_path_factory.mktemp("swarm") / "tree")
    Path(folder, "swarm.yml").write_text(OVERLAY)
    made = Stack(folder, (*PRODUCTION, "swarm.yml"))
    written = made.try_run("scripts/init-env")
    assert written.returncode == 0, written.stderr
    made.compose("build", "migrate")
    file = made.try_run("scripts/swarm")
    assert file.returncode == 0, file.stderr
    assert "no-new-privileges" in file.stderr
    assert f"port {made.ports['HOST_PORT_WEB']} is open on every address" in file.stderr
    arguments = ("--resolve-image", "never", "--detach=true", "--compose-file", "-")
    try:
        docker("stack", "deploy", *arguments, made.name, input=file.stdout)
        yield made
    finally:
        # First, while there is a broker: without one a worker's tasks go on trying for minutes.
        run("docker", "service", "scale", f"{made.name}_worker=0")
        docker("stack", "rm", made.name)
        label = f"label=com.docker.stack.namespace={made.name}"
        gone = ("ps", "--all", "--quiet", "--filter", label)
        wait_until(lambda: not docker(*gone), seconds=120, what="the stack's containers are gone")
        docker("volume", "rm", *docker("volume", "ls", "--quiet", "--filter", label).split())
        run("docker", "image", "rm", made.name)


def replicas(stack: Stack) -> dict[str, str]:
    lines = docker("stack", "services", stack.name, "--format", "json").splitlines()
    services = [json.loads(line) for line in lines]
    return {item["Name"].removeprefix(f"{stack.name}_"): item["Replicas"] for item in services}


def execute(stack: Stack, service: str, *command: str) -> str:
    name = f"name={stack.name}_{service}."
    container = docker("ps", "--quiet", "--filter", name).split()[0]
    return docker("exec", container, *command)


UP = {
    **dict.fromkeys(("proxy", "web", "beat", "flower", "postgres", "redis", "aws"), "1/1"),
    "worker": "2/2",
    "migrate": "0/1 (1/1 completed)",
}


def test_all_of_it_comes_up_and_delivers_a_promo(stack: Stack) -> None:
    try:
        wait_until(lambda: replicas(stack) == UP, seconds=180, what="all replicas are up")
    except AssertionError:
        told = "{{.Name}} {{.CurrentState}} {{.Error}}"
        print(docker("stack", "ps", "--no-trunc", "--format", told, stack.name))
        raise
    wait_until(lambda: stack.http("/readyz")[0] == 200, seconds=60, what="the web is ready")
    shell = ("python", "manage.py", "shell", "-v", "0", "-c")
    execute(stack, "web", *shell, OPEN_A_PROMO)
    wait_until(
        lambda: execute(stack, "web", *shell, DELIVERED).strip() == "20",
        seconds=120,
        what="every shopper was told",
    )


def test_a_service_that_is_updated_goes_on(stack: Stack) -> None:
    docker("service", "update", "--force", "--quiet", f"{stack.name}_worker")
    wait_until(lambda: replicas(stack)["worker"] == "2/2", seconds=60, what="both are up again")
    assert stack.http("/readyz")[0] == 200
