"""Every command of the runbook is completed."""

import argparse
import subprocess

from deploy.ops.completion import parsers, script
from deploy.ops.deployment import PROJECT


def commands() -> set[str]:
    return {
        path.name
        for path in (PROJECT / "scripts").iterdir()
        if path.is_file() and "\nops " in path.read_text()
    }


def test_each_command_has_a_parser_and_a_help_with_an_example() -> None:
    found = parsers()
    assert found.keys() == commands()
    for name, parser in found.items():
        assert parser.prog == f"scripts/{name}"
        assert parser.description, name
        assert f"scripts/{name}" in (parser.epilog or ""), name


def test_subcommands_complete_with_their_own_options() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--on", choices=["compose", "systemd"])
    inner = parser.add_subparsers().add_parser("purge")
    inner.add_argument("queue", metavar="QUEUE")
    inner.add_argument("--copy", choices=["yes", "no"])
    inner.add_argument("--hidden", help=argparse.SUPPRESS)
    code = script({"queues": parser})

    def complete(*words: str) -> set[str]:
        typed = " ".join(f"'{word}'" for word in ("scripts/queues", *words))
        asked = f"COMP_WORDS=({typed}) COMP_CWORD={len(words)}; _flash_promos"
        shown = f"{code}\n{asked}\nprintf '%s\\n' \"${{COMPREPLY[@]}}\""
        return set(subprocess.check_output(["bash", "-c", shown], text=True).split())

    assert complete("p") == {"purge"}
    assert complete("--on", "") == {"compose", "systemd"}
    assert complete("purge", "--") == {"--help", "--copy"}
    assert complete("purge", "d") == {"default"}
    assert complete("--on", "compose", "purge", "--copy", "") == {"yes", "no"}
