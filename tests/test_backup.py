"""`scripts/backup`, `restore` and `rotate-secrets` on the embedded way."""

import json
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import boto3
import psycopg2
import pytest
import redis

from deploy.embedded.api import Api
from tests.embedded import ROOT, Done, Quickstart, running_embedded
from tests.processes import wait_until
from tests.visitors import Visitors

pytestmark = pytest.mark.worker

NAME = re.compile(r"\d{8}T\d{6}Z")
MAKE_STAFF = """
import datetime
from django.contrib.auth.models import User
from django.test import Client
from rest_framework_simplejwt.tokens import RefreshToken

user = User.objects.filter(username="staff").first() or User.objects.create_user("staff")
User.objects.filter(pk=user.pk).update(is_staff=True, is_superuser=True)
user.refresh_from_db()
refresh = RefreshToken.for_user(user)
access = refresh.access_token
access.set_exp(lifetime=datetime.timedelta(hours=1))
client = Client()
client.force_login(user)
print("TOLD", access, refresh, client.cookies["sessionid"].value)
"""
PUBLISH = """
from promotions.tasks import check_active_promos as task
print("TOLD", *(task.delay().id for _ in range(5)))
"""


def django(deployment: Quickstart, code: str) -> list[str]:
    """The words that `code` prints after TOLD in Django's shell."""
    done = deployment.run("run", "python", "manage.py", "shell", "-v", "0", "-c", code)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("TOLD"))
    return line.split()[1:]


@dataclass
class Staff:
    token: str
    refresh: str
    session: str


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quickstart]:
    with running_embedded(tmp_path_factory.mktemp("one") / "embedded") as deployment:
        yield deployment


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quickstart]:
    with running_embedded(tmp_path_factory.mktemp("two") / "embedded") as deployment:
        yield deployment


@pytest.fixture(scope="module")
def staff(one: Quickstart) -> Staff:
    return Staff(*django(one, MAKE_STAFF))


@pytest.fixture
def visitors(one: Quickstart, staff: Staff) -> Visitors:
    return Visitors(one.ports["HOST_PORT_WEB"], staff.token, f"sessionid={staff.session}")


@pytest.fixture(scope="module")
def backup(one: Quickstart, staff: Staff, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small one, of which a test takes a copy."""
    return taken(one, tmp_path_factory.mktemp("backups"))


@pytest.fixture
def damaged(backup: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(backup, tmp_path / backup.name))


def taken(deployment: Quickstart, folder: Path, *arguments: str) -> Path:
    done = deployment.ops("backup", "--to", str(folder), *arguments)
    assert done.returncode == 0, done.stderr
    return max(path for path in folder.iterdir() if NAME.fullmatch(path.name))


def manifest_of(backup: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((backup / "manifest.json").read_text())
    return read


def change_manifest(backup: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = manifest_of(backup)
    change(manifest)
    (backup / "manifest.json").write_text(json.dumps(manifest))


@contextmanager
def database(
    deployment: Quickstart, name: str = "marketplace", user: str = "operator", password: str = ""
) -> Iterator[Any]:
    connection = psycopg2.connect(
        host="127.0.0.1",
        port=deployment.ports["EMBEDDED_POSTGRES_PORT"],
        dbname=name,
        user=user,
        password=password or deployment.values["OPERATOR_PASSWORD"],
    )
    connection.autocommit = True
    try:
        yield connection.cursor()
    finally:
        connection.close()


def databases(deployment: Quickstart) -> set[str]:
    with database(deployment, "postgres") as cursor:
        cursor.execute("SELECT datname FROM pg_database WHERE NOT datistemplate")
        return {name for (name,) in cursor.fetchall()} - {"postgres"}


def names(deployment: Quickstart, name: str = "marketplace") -> set[str]:
    """Of the templates that the visitors' writers made."""
    with database(deployment, name) as cursor:
        cursor.execute("SELECT name FROM task_manager_tasktemplate")
        return {found for (found,) in cursor.fetchall()}


def counts(deployment: Quickstart, name: str, tables: list[str]) -> dict[str, int]:
    found = {}
    with database(deployment, name) as cursor:
        for table in tables:
            cursor.execute(f'SELECT count(*) FROM "{table}"')
            found[table] = cursor.fetchone()[0]
    return found


def operator(deployment: Quickstart) -> "redis.Redis":
    return redis.Redis(
        port=deployment.ports["EMBEDDED_REDIS_PORT"],
        username="operator",
        password=deployment.values["OPERATOR_PASSWORD"],
        decode_responses=True,
    )


def start(deployment: Quickstart, command: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [ROOT / "scripts" / command, *arguments],
        env=deployment.shell(FLASH_PROMOS_ON="embedded"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def refused(done: Done, *pieces: str, code: int = 1) -> None:
    assert (done.returncode, done.stdout.count("Stopping")) == (code, 0), done.stderr
    for piece in ("error: ", *pieces):
        assert piece in done.stderr


def test_one_taken_under_load_restores_into_an_empty_deployment_to_the_row(
    one: Quickstart, two: Quickstart, visitors: Visitors, tmp_path: Path
) -> None:
    photo = one.folder / "media" / "shops" / "front.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"a photo")
    with operator(one) as client:
        client.set("of one", "kept")
    with visitors:
        visitors.wait_for_more(20)
        before = set(visitors.made)
        published = django(one, PUBLISH)
        backup = taken(one, tmp_path)
        visitors.wait_for_more(20)
    assert visitors.failures == []
    wanted = manifest_of(backup)["postgres"]["counts"]
    assert wanted["task_manager_tasktemplate"] >= len(before) > 0

    rehearsed = two.ops("restore", str(backup), "--into", "rehearsal")
    assert rehearsed.returncode == 0, rehearsed.stderr
    assert f"All {sum(wanted.values())} rows are there" in rehearsed.stdout
    assert counts(two, "rehearsal", list(wanted)) == wanted
    assert names(two) == set(), "a rehearsal touches the live database"
    refused(two.ops("restore", str(backup), "--into", "rehearsal"), "database rehearsal exists")

    done = two.ops("restore", str(backup), "--yes")
    assert done.returncode == 0, done.stderr
    assert names(two) == names(two, "rehearsal")
    assert before <= names(two) <= set(visitors.made)
    assert databases(two) == {"marketplace", "rehearsal"}
    assert (two.folder / "media" / "shops" / "front.jpg").read_bytes() == b"a photo"
    with operator(two) as client:
        assert client.get("of one") == "kept"
    assert two.api().call("GET", "/readyz")[0] == 200
    with database(two) as cursor:
        cursor.execute(
            "SELECT count(*) FROM task_manager_taskexecution WHERE task_id = ANY (%s)",
            [published],
        )
        assert cursor.fetchone()[0] == len(published)

    # The state before went into a backup of its own.
    (saved,) = (two.folder / "backups").glob("2*")
    assert f"The state before is the backup {saved}" in done.stdout
    assert manifest_of(saved)["postgres"]["counts"]["task_manager_tasktemplate"] == 0


def test_it_keeps_no_secret_unless_it_is_told_to(one: Quickstart, tmp_path: Path) -> None:
    values = one.values
    without = taken(one, tmp_path)
    text = (without / "environment").read_text()
    assert f"HOST_PORT_WEB={values['HOST_PORT_WEB']}\n" in text
    assert "POSTGRES_PASSWORD=\n" in text
    secret = [name for name in values if re.search("PASSWORD|SECRET|AUTH", name) and values[name]]
    for file in without.iterdir():
        assert file.stat().st_mode & 0o077 == 0
        assert not any(values[name].encode() in file.read_bytes() for name in secret)
    told = (taken(one, tmp_path, "--with-secrets") / "environment").read_text()
    assert all(f"{name}={values[name]}\n" in told for name in secret)


def test_the_newest_stay_and_nothing_else_is_touched(one: Quickstart, tmp_path: Path) -> None:
    other = tmp_path / "20200101T000000Z.txt"
    other.write_text("somebody's")
    made = [taken(one, tmp_path, "--keep", "2").name for _ in range(3)]
    assert sorted(path.name for path in tmp_path.iterdir() if path != other) == made[1:]
    assert other.exists()
    listed = json.loads(one.ops("backup", "list", "--to", str(tmp_path), "--json").stdout)
    assert [entry["name"] for entry in listed] == made[1:]
    assert made[-1] in one.ops("backup", "list", "--to", str(tmp_path)).stdout


def test_a_killed_one_is_none_and_the_next_clears_it_away(one: Quickstart, tmp_path: Path) -> None:
    def begun(folder: Path, before: set[Path]) -> bool:
        return bool(set(folder.glob(".unfinished-*")) - before)

    for number in (signal.SIGKILL, signal.SIGTERM):
        before = set(tmp_path.iterdir())
        with database(one) as cursor:
            # It waits for these rows.
            cursor.execute("BEGIN; LOCK TABLE promotions_store")
            with start(one, "backup", "--to", str(tmp_path)) as process:
                try:
                    wait_until(partial(begun, tmp_path, before), what="it has begun")
                    second = one.ops("backup", "--to", str(tmp_path))
                finally:
                    process.send_signal(number)
            refused(second, "another backup, restore or rotation")
        left = list(tmp_path.iterdir())
        assert len(left) == (number == signal.SIGKILL)
        assert not any(NAME.fullmatch(path.name) for path in left)
    refused(one.ops("backup", "list", "--to", str(tmp_path)), "there is no backup in")
    whole = taken(one, tmp_path)
    assert list(tmp_path.iterdir()) == [whole]


@pytest.mark.parametrize("name", ["database.dump", "redis.rdb", "media.tar"])
def test_a_damaged_file_is_named_before_anything_changes(
    one: Quickstart, damaged: Path, name: str
) -> None:
    data = bytearray((damaged / name).read_bytes())
    data[len(data) // 2] ^= 1
    (damaged / name).write_bytes(data)
    refused(one.ops("restore", str(damaged), "--yes"), f"{damaged / name} is damaged")
    refused(one.ops("backup", "verify", "--to", str(damaged.parent)), "1 of 1 backups are damaged")


def test_what_does_not_fit_is_refused_before_anything_changes(
    one: Quickstart, damaged: Path
) -> None:
    """Each is put right again before the next."""
    text = (damaged / "manifest.json").read_text()

    def foreign(change: Callable[[dict[str, Any]], None], *pieces: str) -> None:
        change_manifest(damaged, change)
        refused(one.ops("restore", str(damaged), "--yes"), *pieces)
        (damaged / "manifest.json").write_text(text)

    foreign(
        lambda manifest: manifest["postgres"]["migrations"].append("promotions.0900_later"),
        "promotions.0900_later",
        "upgrade the code first",
    )
    foreign(lambda manifest: manifest["postgres"].update(version="99.1"), "PostgreSQL 99.1")
    foreign(lambda manifest: manifest.update(redis={"version": "redis 8.0.1"}), "--only postgres")
    foreign(lambda manifest: manifest.update(format=2), "format 2 is not known")
    # Found when the rows are counted, with everything still running.
    foreign(
        lambda manifest: manifest["postgres"]["counts"].update(promotions_store=7),
        "promotions_store: 7 in the backup, 6 restored",
    )
    assert "marketplace_restoring" not in databases(one)


@pytest.mark.parametrize(
    ("command", "arguments", "code", "error"),
    [
        ("restore", ["20200101T000000Z"], 1, "there is no backup 20200101T000000Z in"),
        ("restore", ["/nowhere/20200101T000000Z"], 1, "is no backup: manifest.json"),
        ("restore", ["latest", "--drop"], 2, "--drop belongs to --into"),
        ("restore", ["s3://"], 2, "expected s3://BUCKET"),
        ("backup", ["--keep", "0"], 2, "at least 1"),
        ("backup", ["list", "20200101T000000Z"], 2, "only `verify` takes the name"),
        ("backup", ["--to", "/proc/nowhere"], 1, "/proc/nowhere"),
        ("backup", ["--s3", "http://bucket"], 2, "http://bucket: expected s3://BUCKET"),
        ("backup", ["--s3", "s3://no-such-bucket/x"], 1, "NoSuchBucket"),
        ("rotate-secrets", ["everything"], 2, "expected some of database, redis, flower, django"),
    ],
)
def test_a_wrong_call_says_what_would_be_right(
    one: Quickstart, command: str, arguments: list[str], code: int, error: str
) -> None:
    done = one.ops(command, *arguments)
    assert (done.returncode, error in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["restore", "rotate-secrets"])
def test_it_asks_first(one: Quickstart, backup: Path, command: str) -> None:
    before = one.values
    arguments = [str(backup)] if command == "restore" else []
    for text, code, error in (("n\n", 1, "nothing was changed"), ("", 2, "--yes does not ask")):
        done = one.ops(command, *arguments, text=text)
        assert (done.returncode, error in done.stderr) == (code, True), done.stderr
    assert one.values == before
    assert not (one.folder / "rotation.json").exists()


def test_s3_holds_whole_ones_as_many_as_wanted_and_gives_them_back(
    one: Quickstart, tmp_path: Path
) -> None:
    endpoint = f"http://127.0.0.1:{one.ports['EMBEDDED_AWS_PORT']}"
    s3 = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    s3.create_bucket(Bucket="promos")
    url = "s3://promos/backups"
    made = [taken(one, tmp_path, "--s3", url, "--keep", "1").name for _ in range(2)]
    keys = {entry["Key"] for entry in s3.list_objects_v2(Bucket="promos")["Contents"]}
    assert {key.split("/")[1] for key in keys} == {made[-1]}
    assert f"backups/{made[-1]}/manifest.json" in keys

    done = one.ops("restore", f"{url}/latest", "--into", "from_s3", "--drop")
    assert done.returncode == 0, done.stderr
    assert "from_s3" not in databases(one)
    assert not list(one.folder.glob("restore-*")), "what was downloaded is removed"
    refused(one.ops("restore", f"{url}/{made[0]}"), f"there is no backup {made[0]} in {url}")


@dataclass
class Publisher(AbstractContextManager["Publisher"]):
    """Starts tasks all the while."""

    deployment: Quickstart
    published: list[str] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._publish, daemon=True)

    def __enter__(self) -> "Publisher":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leaving.set()
        self._thread.join(120)

    def _publish(self) -> None:
        try:
            while not self._leaving.is_set():
                self.published += django(self.deployment, PUBLISH)
        except BaseException as error:
            self.errors.append(error)

    def are_done(self) -> bool:
        with database(self.deployment) as cursor:
            cursor.execute(
                "SELECT count(*) FROM task_manager_taskexecution"
                " WHERE task_id = ANY (%s) AND status = 'SUCCESS'",
                [self.published],
            )
            return bool(cursor.fetchone()[0] == len(self.published))


def enters_postgres(deployment: Quickstart, password: str) -> bool:
    try:
        with database(deployment, user="marketplace", password=password):
            return True
    except psycopg2.OperationalError:
        return False


def enters_redis(deployment: Quickstart, password: str) -> bool:
    port = deployment.ports["EMBEDDED_REDIS_PORT"]
    with redis.Redis(port=port, username="marketplace", password=password) as client:
        try:
            return bool(client.ping())
        except redis.AuthenticationError:
            return False


def flower_status(deployment: Quickstart, login: str) -> int:
    import base64

    code = base64.b64encode(login.encode()).decode()
    address = f"http://127.0.0.1:{deployment.ports['HOST_PORT_FLOWER']}"
    return Api(address, {"Authorization": f"Basic {code}"}).call("GET", "/")[0]


def test_new_secrets_lose_no_session_token_request_or_task_even_when_interrupted(
    one: Quickstart, staff: Staff, visitors: Visitors
) -> None:
    before = one.values
    state = one.folder / "rotation.json"
    with visitors, Publisher(one) as publisher:
        visitors.wait_for_more(10)
        with start(one, "rotate-secrets", "--yes") as process:
            wait_until(lambda: one.values.get("POSTGRES_PASSWORD_FALLBACK"), what="it has begun")
            process.kill()
            process.communicate()
        assert state.stat().st_mode & 0o077 == 0
        done = one.ops("rotate-secrets", "--yes")
        visitors.wait_for_more(10)
    assert done.returncode == 0, done.stderr
    assert "that was interrupted" in done.stdout
    assert visitors.failures == []
    assert publisher.errors == []
    assert names(one) >= set(visitors.made)
    wait_until(publisher.are_done, what=f"all {len(publisher.published)} tasks succeeded")

    after = one.values
    assert not state.exists()
    for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "FLOWER_BASIC_AUTH", "DJANGO_SECRET_KEY"):
        assert after[name] != before[name]
    assert after["POSTGRES_PASSWORD_FALLBACK"] == ""
    assert after["DJANGO_SECRET_KEY_FALLBACKS"] == before["DJANGO_SECRET_KEY"]
    for enters, name in ((enters_postgres, "POSTGRES_PASSWORD"), (enters_redis, "REDIS_PASSWORD")):
        assert enters(one, after[name])
        assert not enters(one, before[name])
    wait_until(lambda: flower_status(one, after["FLOWER_BASIC_AUTH"]) == 200, what="Flower answers")
    assert flower_status(one, before["FLOWER_BASIC_AUTH"]) == 401

    api = one.api()
    assert api.call("POST", "/api/token/refresh/", {"refresh": staff.refresh})[0] == 200
    session = Api(api.base, {"Cookie": f"sessionid={staff.session}"})
    assert session.call("GET", "/api/tasks/templates/")[0] == 200


def test_forgetting_the_former_keys_ends_what_they_signed(one: Quickstart, staff: Staff) -> None:
    done = one.ops("rotate-secrets", "--forget", "--yes")
    assert done.returncode == 0, done.stderr
    assert one.values["DJANGO_SECRET_KEY_FALLBACKS"] == ""
    api = one.api()
    assert api.call("POST", "/api/token/refresh/", {"refresh": staff.refresh})[0] == 401
    session = Api(api.base, {"Cookie": f"sessionid={staff.session}"})
    assert session.call("GET", "/api/tasks/templates/")[0] in (401, 403)
