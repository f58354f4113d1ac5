"""`scripts/doctor`: what is wrong, and what helps."""

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict

from deploy.ops import cli, deployment
from deploy.ops.checks import CHECKS, Findings
from deploy.ops.compose import Compose
from deploy.ops.deployment import Deployment
from deploy.ops.errors import NotRunning, OpsError
from deploy.ops.examined import Examined, Finding, Severity, warning

DESCRIPTION = """\
Looks for the usual causes of trouble and says of each what helps, by a command for this very
deployment. It changes nothing, and works when nothing runs.
"""
EPILOG = """\
It looks at: services, ports, the disk, variables that nobody reads, secrets, settings and code
newer than what runs, PostgreSQL and Redis (name, connection, login, eviction), clocks, migrations,
beat, queues without workers, and LocalStack's token.

examples:
  scripts/doctor
  scripts/doctor --json | jq '.[] | select(.severity == "error")'
"""
CODES = """\
exit codes: 0 nothing is wrong, or warnings alone; 1 something is; 2 called wrongly; 3 nothing here
"""
MARKS = {
    Severity.OK: ("✓", cli.GREEN),
    Severity.WARNING: ("!", cli.YELLOW),
    Severity.ERROR: ("✗", cli.RED),
}


def parser() -> argparse.ArgumentParser:
    root = cli.parser("doctor", DESCRIPTION, EPILOG, CODES)
    root.add_argument("--json", action="store_true", help="the findings as a JSON list")
    return root


def main() -> int:
    options = parser().parse_args()
    found = find(options.on)
    if not options.json:
        cli.say(found.describe())
    examined = Examined(found)
    findings = []
    for check in CHECKS:
        name = check.__name__.removeprefix("check_")
        of_check = examine(check, examined, name, live=not options.json)
        findings += [{"check": name, **asdict(finding)} for finding in of_check]
    if options.json:
        cli.say(json.dumps(findings, indent=2))
    return int(any(finding["severity"] == Severity.ERROR for finding in findings))


def find(way: str | None) -> Deployment:
    """The deployment that runs here, or the Compose project that could."""
    try:
        return deployment.find(way)
    except NotRunning:
        if way not in (None, "compose") or not shutil.which("docker"):
            raise
        return Compose.of_files()


def examine(
    check: Callable[[Examined], Findings], examined: Examined, name: str, *, live: bool
) -> list[Finding]:
    """What a check finds, shown as soon as it is there."""
    is_terminal = live and sys.stdout.isatty()
    if is_terminal:
        print(f"· {name} …", end="", flush=True)
    findings = []
    try:
        findings = list(check(examined))
    except OpsError as failure:
        findings.append(warning(f"not known: {failure}"))
    if is_terminal:
        print("\r\033[K", end="")
    if live:
        for finding in findings:
            show(name, finding)
    return findings


def show(name: str, finding: Finding) -> None:
    mark, colour = MARKS[finding.severity]
    cli.say(f"{cli.coloured(mark, colour)} {name:<12}{finding.seen}")
    if finding.helps:
        cli.say(f"{'':14}{cli.coloured('→', cli.BOLD)} {finding.helps}")


if __name__ == "__main__":
    cli.run(main)
