"""The production pair with scripts/init-env's secrets, and LocalStack in the place of AWS."""

import base64
import json
import re
from collections.abc import Callable, Iterator
from http.client import HTTPConnection

import pytest

from tests.redis_commands import DANGEROUS
from tests.stack.stack import PRODUCTION, Stack, copy_project, production, run, wait_until

SERVICES = {"proxy", "web", "worker", "beat", "flower", "postgres", "redis"}
SECRETS = ("DJANGO_SECRET_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD", "FLOWER_BASIC_AUTH")
TASKS = 200


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, failed: Callable[[], bool]) -> Iterator[Stack]:
    with production(tmp_path_factory.mktemp("production"), failed) as stack:
        yield stack


@pytest.fixture(scope="module")
def secrets(stack: Stack) -> dict[str, str]:
    """The secrets in the .env, and Flower's password alone."""
    lines = (stack.folder / ".env").read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines if line.split("=", 1)[0] in SECRETS)
    assert set(values) == set(SECRETS)
    return values | {"Flower's password": values["FLOWER_BASIC_AUTH"].partition(":")[2]}


def test_every_service_is_healthy_and_localstack_is_none(stack: Stack) -> None:
    assert stack.states() == dict.fromkeys(SERVICES, "healthy") | {"migrate": "exit 0"}


def test_the_simulator_is_not_there_whatever_the_profile(stack: Stack) -> None:
    services = stack.compose("--profile", "sandbox", "config", "--services").split()
    assert set(services) == SERVICES | {"migrate"}


def test_web_answers_through_its_port(stack: Stack) -> None:
    status, body = stack.http("/readyz")
    assert (status, json.loads(body)["status"]) == (200, "ready")
    page = stack.http("/admin/login/")[1]
    sheet = re.search(r'href="(/static/admin/css/base\.\w+\.css)"', page)
    assert sheet, "a style sheet with a hash in its name"
    assert stack.http(sheet[1])[0] == 200


def test_the_checks_of_a_deployment_find_nothing(stack: Stack) -> None:
    command = ("python", "manage.py", "check", "--deploy", "--fail-level", "DEBUG")
    assert "no issues" in stack.execute("web", *command)


@pytest.mark.parametrize(("path", "status"), [("/api/", 301), ("/healthz", 200), ("/readyz", 200)])
def test_without_a_proxy_s_word_a_page_leads_to_https_and_a_probe_is_answered(
    stack: Stack, path: str, status: int
) -> None:
    http = HTTPConnection("127.0.0.1", int(stack.ports["HOST_PORT_WEB"]), timeout=30)
    try:
        http.request("GET", path)
        response = http.getresponse()
        assert response.status == status
        if status == 301:
            assert response.headers["Location"].startswith("https://127.0.0.1:")
    finally:
        http.close()


def test_who_guesses_passwords_is_told_to_wait(stack: Stack) -> None:
    code = (
        "import json\n"
        "from django.test import Client\n"
        "body = {'username': 'nobody', 'password': 'wrong'}\n"
        "post = lambda: Client().post('/api/token/', body, 'application/json', secure=True,"
        " headers={'host': 'localhost', 'x-forwarded-for': '203.0.113.9'})\n"
        "print([post().status_code for _ in range(6)])"
    )
    assert stack.shell_code(code) == "[401, 401, 401, 401, 401, 429]\n"


def test_no_port_but_the_proxys_is_open_on_the_host(stack: Stack) -> None:
    published = {
        (service, port, binding["HostIp"])
        for service, container in stack.containers().items()
        for port, bindings in (container["NetworkSettings"]["Ports"] or {}).items()
        for binding in bindings or ()
    }
    assert published == {("proxy", "8080/tcp", "127.0.0.1")}


def test_a_promo_opens_and_is_delivered(stack: Stack) -> None:
    stack.open_promo("lamp")
    stack.wait_for_delivery("lamp", seconds=60)


# --- Who enters ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("login", "answer"),
    [
        ({}, "User marketplace"),
        ({"username": None}, "AuthenticationError invalid username-password pair"),
        ({"username": "default"}, "AuthenticationError invalid username-password pair"),
        ({"username": "operator"}, "AuthenticationError invalid username-password pair"),
        ({"password": "wrong"}, "AuthenticationError invalid username-password pair"),
        ({"username": None, "password": None}, "AuthenticationError HELLO must be called with"),
    ],
)
def test_redis_knows_the_application_alone(
    stack: Stack, login: dict[str, str | None], answer: str
) -> None:
    code = f"""
import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

client = redis.Redis.from_url(settings.REDIS_URL, retry=Retry(NoBackoff(), 0))
client.connection_pool.connection_kwargs |= {login!r}
try:
    client.execute_command("ACL", "WHOAMI")
except redis.RedisError as error:
    print(type(error).__name__, error)
"""
    printed = stack.shell_code(code)
    assert answer in printed, printed


def test_redis_refuses_the_application_what_is_dangerous(stack: Stack) -> None:
    code = f"""
import redis
from django.conf import settings

client = redis.Redis.from_url(settings.REDIS_URL)
for command in {DANGEROUS!r}:
    try:
        client.execute_command(*command.split())
    except redis.exceptions.NoPermissionError:
        continue
    print(command)
"""
    assert stack.shell_code(code) == ""


@pytest.mark.parametrize(
    ("login", "answer"),
    [
        ({}, "marketplace False False False"),
        ({"password": "wrong"}, "password authentication failed"),
        ({"user": "somebody"}, "password authentication failed"),
        ({"user": "postgres"}, "pg_hba.conf rejects connection"),
        ({"dbname": "postgres"}, "permission denied for database"),
    ],
)
def test_postgresql_knows_the_application_alone(
    stack: Stack, login: dict[str, str], answer: str
) -> None:
    code = f"""
import psycopg2
from django.db import connection

try:
    opened = psycopg2.connect(**(connection.get_connection_params() | {login!r}))
    cursor = opened.cursor()
    cursor.execute(
        "SELECT rolname, rolsuper, rolcreatedb, rolcreaterole FROM pg_roles "
        "WHERE rolname = current_user"
    )
    print(*cursor.fetchone())
except psycopg2.Error as error:
    print(error)
"""
    printed = stack.shell_code(code)
    assert answer in printed, printed


def test_flower_asks_for_the_login(stack: Stack, secrets: dict[str, str]) -> None:
    code = (
        "import os, sys, base64, urllib.request as r, urllib.error as e\n"
        "request = r.Request('http://flower:5555/')\n"
        "login = sys.stdin.read()\n"
        "login and request.add_header('Authorization', 'Basic ' + login)\n"
        "try: print(r.urlopen(request).status)\n"
        "except e.HTTPError as error: print(error.code)\n"
    )
    login = base64.b64encode(secrets["FLOWER_BASIC_AUTH"].encode()).decode()
    assert stack.execute("web", "python", "-c", code, input="") == "401\n"
    assert stack.execute("web", "python", "-c", code, input=login) == "200\n"


def test_no_secret_stands_in_a_command_line(stack: Stack, secrets: dict[str, str]) -> None:
    for service, container in stack.containers().items():
        if not container["State"]["Running"]:
            continue
        lines = run("docker", "top", container["Id"], "-o", "pid,args").stdout
        assert len(lines.splitlines()) > 1
        exposed = [name for name, value in secrets.items() if value in lines]
        assert not exposed, f"{service} shows {exposed}"


def test_each_container_is_confined(stack: Stack) -> None:
    assert stack.unconfined() == {}
    for service, container in stack.containers().items():
        host = container["HostConfig"]
        assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "5"}, service
        policy = "no" if service == "migrate" else "unless-stopped"
        assert host["RestartPolicy"]["Name"] == policy, service
        assert "/app" not in {mount["Destination"] for mount in container["Mounts"]}, service


def test_only_the_worker_has_a_way_out(stack: Stack) -> None:
    networks = {
        service: {name.removeprefix(f"{stack.name}_") for name in networks}
        for service, container in stack.containers().items()
        if (networks := container["NetworkSettings"]["Networks"])
    }
    reached = {"worker": {"default", "data"}, "proxy": {"default"}}
    assert networks == {service: {"data"} for service in (*SERVICES, "migrate")} | reached
    (aws,) = json.loads(run("docker", "inspect", f"{stack.name}-aws").stdout)
    address = aws["NetworkSettings"]["Networks"][f"{stack.name}_default"]["IPAddress"]
    code = f"import socket; socket.create_connection(({address!r}, 4566), timeout=5)"
    for service in ("web", "worker", "beat", "flower"):
        done = stack.try_compose("exec", "-T", service, "python", "-c", code)
        assert (done.returncode == 0) == (service in reached), (service, done.stderr)
    done = stack.try_compose("exec", "-T", "redis", "redis-cli", "-h", address, "ping")
    assert "Network is unreachable" in done.stderr


def test_the_image_says_what_is_in_it(stack: Stack) -> None:
    text = stack.execute("web", "cat", "/usr/share/sbom/flash-promos.cdx.json")
    bom = json.loads(text)
    assert (bom["bomFormat"], bom["metadata"]["component"]["name"]) == ("CycloneDX", "flash-promos")
    listed = {
        kind: {
            (part["name"].lower().replace("_", "-"), part["version"])
            for part in bom["components"]
            if part["purl"].startswith(f"pkg:{kind}/")
        }
        for kind in ("pypi", "deb", "generic")
    }
    code = """
import json, platform
from importlib.metadata import distributions
print(json.dumps([platform.python_version(), [[d.name, d.version] for d in distributions()]]))
"""
    python, packages = json.loads(stack.execute("web", "python", "-c", code))
    assert listed["generic"] == {("python", python)}
    assert listed["pypi"] == {(name.lower().replace("_", "-"), v) for name, v in packages}
    show = ("--show", "--showformat", "${Package} ${Version}\\n")
    debian = stack.execute("web", "dpkg-query", *show).splitlines()
    assert {tuple(line.split()) for line in debian} == listed["deb"]


def test_memory_limits_are_in_force(stack: Stack) -> None:
    folder = "/sys/fs/cgroup/memory"
    read = f"cat {folder}.max 2>/dev/null || cat {folder}/memory.limit_in_bytes"
    for service, container in stack.containers().items():
        limit = container["HostConfig"]["Memory"]
        assert limit > 0, service
        if container["State"]["Running"]:
            assert int(stack.execute(service, "sh", "-c", read)) == limit, service


def test_the_image_cannot_be_written_to(stack: Stack) -> None:
    done = stack.try_compose("exec", "-T", "web", "touch", "/app/anything")
    assert "Read-only file system" in done.stderr


def test_the_worker_takes_one_task_at_a_time_and_loses_none(stack: Stack) -> None:
    printed = stack.execute("worker", "celery", "-A", "marketplace", "inspect", "conf", "--json")
    (conf,) = json.loads(printed[printed.index("{") : printed.rindex("}") + 1]).values()
    expected = {
        "CELERY_TASK_ACKS_LATE": True,
        "CELERY_TASK_REJECT_ON_WORKER_LOST": True,
        "CELERY_WORKER_PREFETCH_MULTIPLIER": 1,
        "CELERY_WORKER_MAX_TASKS_PER_CHILD": 1000,
        "CELERY_WORKER_MAX_MEMORY_PER_CHILD": 200_000,
    }
    assert {name: conf[name] for name in expected} == expected


def test_a_stopped_worker_finishes_its_task(stack: Stack) -> None:
    assert stack.stop_worker_within_a_task() == "SUCCESS"
    stack.compose("up", "--detach", "--wait", "worker")


def test_a_restart_of_redis_loses_no_queued_task(stack: Stack) -> None:
    stack.compose("stop", "worker")
    # A store, a shopper and an open promo each, too far apart to reach one another's.
    stack.shell_code(f"""
from datetime import timedelta
from django.contrib.auth.models import User
from django.utils import timezone
from promotions.models import FlashPromo, Product, ShopperProfile, Store
from promotions.tasks import send_promo_notification

now = timezone.now()
for number in range({TASKS}):
    place = {{"latitude": -50 + number / 2, "longitude": 10}}
    user = User.objects.create(username=f"queued{{number}}")
    ShopperProfile.objects.filter(user=user).update(**place)
    store = Store.objects.create(name=f"Queued {{number}}", **place)
    product = Product.objects.create(store=store, name="queued", list_price=100)
    promo = FlashPromo.objects.create(
        product=product, promo_price=60, quantity=5, status="ACTIVE",
        starts_at=now, ends_at=now + timedelta(hours=1),
    )
    send_promo_notification.delay(promo.pk)
""")
    stack.compose("restart", "redis")
    # It complains where its users may not do what stands in its append-only file.
    assert "CRITICAL" not in stack.compose("logs", "redis")
    stack.compose("up", "--detach", "--wait", "worker")

    def delivered() -> bool:
        count = "Notification.objects.filter(promo__product__name='queued', status='DELIVERED')"
        printed = stack.shell_code(
            f"from promotions.models import Notification; print({count}.count())"
        )
        return int(printed) == TASKS

    wait_until(delivered, seconds=150, what=f"{TASKS} notifications of the queued tasks")
    assert stack.states() == dict.fromkeys(SERVICES, "healthy") | {"migrate": "exit 0"}


# --- Secrets -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SECRETS)
def test_a_missing_secret_stops_the_start(stack: Stack, name: str) -> None:
    others = {other: "x" for other in SECRETS if other != name}
    done = stack.try_compose("--env-file", "/dev/null", "up", "--detach", variables=others)
    assert done.returncode != 0
    assert f"required variable {name} is missing" in done.stderr
    assert "scripts/init-env" in done.stderr


@pytest.mark.parametrize(
    ("name", "service"),
    [
        ("DJANGO_SECRET_KEY", "migrate"),
        ("POSTGRES_PASSWORD", "migrate"),
        ("POSTGRES_PASSWORD", "postgres"),
        ("REDIS_PASSWORD", "migrate"),
        ("REDIS_PASSWORD", "redis"),
        ("FLOWER_BASIC_AUTH", "flower"),
    ],
)
def test_an_empty_secret_stops_the_start(stack: Stack, name: str, service: str) -> None:
    done = stack.try_compose("run", "--rm", "--no-deps", "-T", service, variables={name: ""})
    assert done.returncode != 0
    assert f"error: {name} is not set" in done.stdout + done.stderr


@pytest.mark.parametrize("name", SECRETS)
def test_a_public_secret_stops_the_start(stack: Stack, name: str) -> None:
    public = "admin:admin" if name == "FLOWER_BASIC_AUTH" else "changeme"
    done = stack.try_compose("run", "--rm", "--no-deps", "-T", "migrate", variables={name: public})
    assert done.returncode != 0
    assert f"{name} is the public default" in done.stdout + done.stderr


def test_secrets_of_any_characters(stack: Stack, failed: Callable[[], bool]) -> None:
    odd = """p@s:/#s$w %o"r\\d${HOME}"""
    file = stack.folder / "odd.env"
    file.write_text(
        f"DJANGO_SECRET_KEY='{odd * 2}'\nPOSTGRES_PASSWORD='{odd}'\nREDIS_PASSWORD='{odd}'\n"
        f"FLOWER_BASIC_AUTH='admin:{odd}'\n"
    )
    other = Stack(stack.folder, PRODUCTION, image=stack.name)
    (stack.folder / ".env").rename(stack.folder / "generated.env")
    file.rename(stack.folder / ".env")
    try:
        with other.running(failed):
            other.compose("up", "--detach", "--wait", "proxy", "flower")
            assert other.http("/readyz")[0] == 200
            assert other.execute("redis", "redis-cli", "ping") == "PONG\n"
            printed = other.execute(
                "flower", "python", "-c", "import os; print(os.environ['FLOWER_BASIC_AUTH'])"
            )
            assert printed == f"admin:{odd}\n"
    finally:
        (stack.folder / "generated.env").rename(stack.folder / ".env")


def test_secrets_in_files_are_shown_by_no_container_and_can_be_changed(
    stack: Stack, failed: Callable[[], bool], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = copy_project(tmp_path_factory.mktemp("files"))
    assert run("scripts/init-env", "--files", cwd=folder).returncode == 0
    (folder / "secrets/AWS_CREDENTIALS").write_text(
        "[default]\naws_access_key_id = the-key\naws_secret_access_key = the-secret-of-aws\n"
    )
    files = (*PRODUCTION, "compose/secrets.yml")
    other = Stack(folder, files, image=stack.name)
    assert f"COMPOSE_FILE={':'.join(files)}\n" in (folder / ".env").read_text()
    secrets = {name: (folder / "secrets" / name).read_text().strip() for name in SECRETS}
    secrets["Flower's password"] = secrets["FLOWER_BASIC_AUTH"].partition(":")[2]
    secrets["AWS"] = "the-secret-of-aws"
    with other.running(failed):
        other.compose("up", "--detach", "--wait", "proxy", "worker", "flower")
        assert other.http("/readyz")[0] == 200
        assert other.execute("redis", "redis-cli", "ping") == "PONG\n"
        key = "import boto3; print(boto3.Session().get_credentials().secret_key)"
        assert other.execute("worker", "python", "-c", key) == "the-secret-of-aws\n"
        told = {
            "docker inspect": json.dumps(other.containers()),
            "docker compose config": other.compose("config"),
            "docker top": "".join(
                run("docker", "top", container["Id"], "-o", "pid,args").stdout
                for container in other.containers().values()
            ),
            "docker compose logs": other.compose("logs"),
        }
        for where, text in told.items():
            assert "marketplace" in text, where
            exposed = [name for name, value in secrets.items() if value in text]
            assert not exposed, f"{where} shows {exposed}"

        for name in SECRETS:
            before = (folder / "secrets" / name).read_text()
            (folder / "secrets" / name).write_text(before.strip() + "-changed\n")
        other.compose("up", "--detach", "--wait", "--force-recreate")
        assert other.http("/readyz")[0] == 200
