"""The documents' React component, and what other sites may not do, in a real Chromium."""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from django.contrib.auth.models import User
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from task_manager.models import TaskExecution
from tests.processes import celery, wait_until
from tests.web import Web, session_of, web

FOLDER = Path(__file__).parent / "browser"
EXAMPLES = str(Path(__file__).parent / "examples")
#: What a test asks of the page may take a turn or two of its polling, every 5 seconds.
PATIENCE = 30

pytestmark = [pytest.mark.browser, pytest.mark.worker, pytest.mark.django_db(transaction=True)]


def program(*names: str) -> str:
    """Its path; the test is skipped loudly without it, and fails where everything must run."""
    for path in filter(None, map(shutil.which, names)):
        return path
    message = f"MISSING: {names[0]}; the browser tests did not run."
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="module")
def browser(server, tmp_path_factory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = program("chromium", "chromium-browser", "google-chrome")
    for argument in (
        "headless",
        "no-sandbox",  # tests may run as root
        "disable-gpu",
        "disable-dev-shm-usage",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "no-first-run",
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(program("chromedriver"))
    driver = webdriver.Chrome(options, service)
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The component with React, as one script."""
    npm, installed = program("npm"), FOLDER / "node_modules" / ".package-lock.json"
    lock = FOLDER / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        run([npm, "ci", "--ignore-scripts"])
    script = tmp_path_factory.mktemp("bundle") / "monitor.js"
    source = (FOLDER / "TaskMonitor.jsx").read_text() + (FOLDER / "mount.jsx").read_text()
    run(
        [
            FOLDER / "node_modules" / ".bin" / "esbuild",
            "--bundle",
            "--loader=jsx",
            "--jsx=automatic",
            '--define:process.env.NODE_ENV="development"',
            f"--outfile={script}",
        ],
        source,
    )
    return script


def run(command: list[Any], text: str = "") -> None:
    result = subprocess.run(command, cwd=FOLDER, input=text, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def server(worker_database, django_db_blocker, bundle, tmp_path_factory) -> Iterator[Web]:
    settings = {"DJANGO_SETTINGS_MODULE": "tests.browser.settings", "BROWSER_BUNDLE": str(bundle)}
    with django_db_blocker.unblock(), web(tmp_path_factory.mktemp("web"), **settings) as running:
        yield running


@pytest.fixture
def worker(tmp_path) -> Iterator[None]:
    log = tmp_path / "celery.log"
    with celery(
        "worker",
        "--concurrency=1",
        "--loglevel=info",
        log=log,
        PYTHONPATH=EXAMPLES,
        CELERY_IMPORTS="contabilidad.tasks",
    ):
        wait_until(lambda: b" ready." in log.read_bytes(), what="the worker is ready")
        yield


@pytest.fixture
def user(db) -> User:
    return User.objects.create_user("ana", password="pass")


@pytest.fixture
def signed_in(browser: webdriver.Chrome, server: Web, user: User) -> webdriver.Chrome:
    """A browser with the user's session, and without anybody else's."""
    browser.get(f"{server.address}/healthz")
    browser.delete_all_cookies()
    browser.add_cookie({"name": "sessionid", "value": session_of(user), "sameSite": "Lax"})
    return browser


def seen(browser: webdriver.Chrome, condition: Callable[[], Any], what: str) -> Any:
    return WebDriverWait(browser, PATIENCE, 0.1).until(lambda _: condition(), what)


def start(user: User) -> TaskExecution:
    """A task of the user's that a worker will be busy with for a minute."""
    result = current_app.send_task(
        "contabilidad.tasks.procesar_contabilidad", ([0.6] * 100, user.pk)
    )
    rows = TaskExecution.objects.filter(pk=result.id, status="STARTED", progress__gt=0)
    wait_until(rows.exists, what="the task runs")
    return rows.get()


def test_the_component_shows_tasks_and_workers_and_cancels(broker, worker, signed_in, server, user):
    mine = start(user)
    TaskExecution.objects.create(
        task_id="not-mine",
        task_name="somebody.else",
        position=0,
        changed_at=mine.changed_at,
        created_at=mine.created_at,
    )
    signed_in.get(f"{server.address}/monitor/")

    def texts(selector: str) -> list[str]:
        # In one go: what is found may be drawn anew before it is read.
        script = "return [...document.querySelectorAll(arguments[0])].map(found => found.innerText)"
        found: list[str] = signed_in.execute_script(script, selector)
        return found

    seen(signed_in, lambda: texts(".task-item span") == [mine.task_name, "STARTED"], "the task")
    seen(signed_in, lambda: "Workers Activos: 1" in texts("h3"), "the worker")
    width = signed_in.find_element(By.CSS_SELECTOR, ".progress-fill").get_attribute("style")
    assert width.startswith("width: ")
    signed_in.find_element(By.XPATH, "//button[text()='Cancelar']").click()
    seen(signed_in, lambda: not texts("button"), "the button is gone")
    seen(signed_in, lambda: texts(".task-item span") == [mine.task_name, "REVOKED"], "the end")
    mine.refresh_from_db()
    assert mine.status == "REVOKED"
    assert not complaints(signed_in)


def complaints(browser: Any) -> list[str]:
    """What went wrong on the page, as its console says."""
    return [
        entry["message"]
        for entry in browser.get_log("browser")
        if entry["level"] == "SEVERE" and "/favicon.ico" not in entry["message"]
    ]


@pytest.mark.parametrize(
    ("address", "selector"),
    [
        ("/admin/", "#user-tools"),
        ("/admin/promotions/flashpromo/add/", ".datetimeshortcuts"),
        ("/admin/auth/user/add/", "input[type=password]"),
        ("/api/promos/", "form"),
        ("/api/schema/swagger/", ".opblock-summary"),
    ],
)
def test_the_site_s_own_pages_work_under_their_policy(signed_in, server, user, address, selector):
    User.objects.filter(pk=user.pk).update(is_staff=True, is_superuser=True)
    signed_in.get(server.address + address)
    seen(signed_in, lambda: signed_in.find_elements(By.CSS_SELECTOR, selector), "drawn by scripts")
    assert not complaints(signed_in)


def test_signing_out_of_the_browsable_api_works_under_the_policy(signed_in, server):
    signed_in.get(f"{server.address}/api/")
    seen(signed_in, lambda: signed_in.find_elements(By.ID, "logoutForm"), "the form")
    signed_in.find_element(By.CSS_SELECTOR, ".dropdown-toggle").click()
    seen(signed_in, lambda: signed_in.find_element(By.LINK_TEXT, "Log out"), "the menu").click()
    seen(signed_in, lambda: not signed_in.get_cookie("sessionid"), "the session is over")
    assert not complaints(signed_in)


def test_a_script_that_somebody_slipped_into_a_page_does_not_run(signed_in, server):
    signed_in.get(f"{server.address}/api/")
    signed_in.execute_script(
        "document.body.innerHTML = '<img src=/nothing onerror=\"document.title = 1\">';"
        "const script = document.createElement('script');"
        "script.text = 'document.title = 2'; document.body.append(script);"
    )
    seen(signed_in, lambda: len(complaints(signed_in)) >= 1, "the browser's complaint")
    assert signed_in.title not in ("1", "2")


# --- Other sites ----------------------------------------------------------------------------------
@pytest.fixture
def elsewhere(tmp_path) -> Iterator[int]:
    """The port of another site, at 127.0.0.1 and at localhost."""
    (tmp_path / "index.html").write_text("<!doctype html><title>Elsewhere</title>")
    handler = partial(Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield site.server_port
        site.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


#: The other site of the same machine is sent the session's cookie; the one of another name is not.
SITES = ["127.0.0.1", "localhost"]


@pytest.mark.parametrize("host", SITES)
def test_another_site_cannot_cancel_a_task(
    broker, worker, signed_in, server, user, elsewhere, host
):
    task = start(user)
    address = f"{server.address}/api/tasks/cancel/{task.pk}/"
    page = f"http://{host}:{elsewhere}/"
    signed_in.get(page)
    refused = signed_in.execute_async_script(FETCH, address)
    assert refused == "refused"
    signed_in.execute_script(FORM, address)
    seen(signed_in, lambda: signed_in.current_url == address, "the form's answer")
    assert '"error"' in signed_in.find_element(By.TAG_NAME, "body").text
    task.refresh_from_db()
    assert (task.status, task.cancelled_at) == ("STARTED", None)
    signed_in.get(f"{server.address}/healthz")
    assert signed_in.execute_async_script(FETCH, address) == 200


FETCH = """
const [address, done] = arguments;
fetch(address, {method: 'POST', credentials: 'include'})
    .then(response => done(response.status), () => done('refused'));
"""
FORM = """
const form = document.createElement('form');
form.method = 'POST';
form.action = arguments[0];
document.body.append(form);
form.submit();
"""


@pytest.mark.parametrize("host", SITES)
def test_another_site_s_page_hears_no_updates(signed_in, server, elsewhere, host):
    signed_in.get(f"http://{host}:{elsewhere}/")
    assert signed_in.execute_async_script(LISTEN, f"ws://{server.host}/ws/tasks/") == "closed"


def test_the_site_s_own_page_hears_updates(broker, signed_in, server, user):
    signed_in.get(f"{server.address}/healthz")
    message = signed_in.execute_async_script(LISTEN, f"ws://{server.host}/ws/tasks/")
    assert '"event":"alive"' in message


LISTEN = """
const [address, done] = arguments, socket = new WebSocket(address);
socket.onmessage = event => { socket.close(); done(event.data); };
socket.onclose = () => done('closed');
"""
