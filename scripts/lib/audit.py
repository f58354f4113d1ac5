"""Fails on a known vulnerability of a locked package, as pip-audit hears of it from PyPI.

Whoever is offline, or behind a mirror that knows nothing of vulnerabilities, is told that nothing
was audited; that is no failure.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements"
#: What users run, and what makes the image.
LOCKS = ("base", "embedded", "build")
#: Seconds for each of PyPI's answers.
TIMEOUT = 10

OFFLINE = re.compile(r"requests\.exceptions\.|ServiceError|ConnectionError|Could not connect")


class Unavailable(Exception):
    """PyPI gave no answer."""


def ignored() -> list[str]:
    """The ids in ignored-vulnerabilities.txt; each has its reason."""
    file = REQUIREMENTS / "ignored-vulnerabilities.txt"
    ids = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        name, _, reason = (part.strip() for part in line.partition("#"))
        if name and not reason:
            sys.exit(f"error: {file}, line {number}: say after a # why {name} is ignored")
        ids += [name] if name else []
    return ids


def audit(lock: Path, options: list[str]) -> list[dict[str, Any]]:
    """What pip-audit says of each package. Raises Unavailable."""
    command = [sys.executable, "-m", "pip_audit", "--format=json", "--progress-spinner=off"]
    command += [f"--timeout={TIMEOUT}", "--disable-pip", "--require-hashes", f"-r{lock}"]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        reason = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        if OFFLINE.search(reason):
            raise Unavailable(reason) from None
        sys.exit(f"error: {reason}")
    return packages


def main() -> None:
    options = [f"--ignore-vuln={name}" for name in ignored()]
    packages: dict[str, dict[str, Any]] = {}
    missing = ""
    try:
        for lock in LOCKS:
            found = audit(REQUIREMENTS / f"{lock}.txt", options)
            packages |= {package["name"]: package for package in found}
    except Unavailable as error:
        missing = str(error)
    if unknown := [name for name, package in packages.items() if "skip_reason" in package]:
        missing = f"PyPI knows nothing of {len(unknown)} of {len(packages)}, such as {unknown[0]}"
    if missing:
        print(f"MISSING: advisories; not all packages were audited: {missing}", file=sys.stderr)
    vulnerable = [package for package in packages.values() if package.get("vulns")]
    for package in vulnerable:
        for vulnerability in package["vulns"]:
            names = " ".join([vulnerability["id"], *vulnerability["aliases"]])
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {names}; fixed in {fixed}")
    sys.exit(bool(vulnerable))


if __name__ == "__main__":
    main()
