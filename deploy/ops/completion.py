"""`scripts/completion`."""

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator

from deploy.ops import cli
from deploy.ops.deployment import PROGRAMS, PROJECT

DESCRIPTION = """
Prints a script that completes the commands of the runbook: their options, subcommands and what
these take, by what each says of itself.
"""
EPILOG = """
install, for bash in ~/.bashrc and for zsh in ~/.zshrc after compinit:
  source <(/path/to/flash-promos/scripts/completion bash)
  source <(/path/to/flash-promos/scripts/completion zsh)
"""
#: By the name that a parser gives to a value, what it may be; files otherwise.
VALUES = {
    "SERVICE": (*PROGRAMS, "proxy", "postgres", "redis", "localstack", "aws", "sandbox"),
    "WORKER": ("worker",),
    **dict.fromkeys(("QUEUE", "FROM", "TO"), ("high_priority", "default", "low_priority")),
}
#: What a script becomes a command of ours by.
_OPS = re.compile(r'^ops (\w+) "\$@"$', re.MULTILINE)

BASH = """\
# Completes the commands of {scripts}, in bash and in zsh.
_flash_promos() {{
    local typed=("${{COMP_WORDS[@]}}") index=$COMP_CWORD words="" word path
    COMPREPLY=()
    if [[ ${{typed[0]##*/}} == flash-promos ]]; then
        if ((index == 1)); then
            COMPREPLY=($(compgen -W "{names}" -- "${{typed[1]}}"))
            return 0
        fi
        typed=("scripts/${{typed[1]}}" "${{typed[@]:2}}") index=$((index - 1))
    fi
    # Other programs have these names, too.
    [[ ${{typed[0]}} == */scripts/* || ${{typed[0]}} == scripts/* ]] || return 0
    path=${{typed[0]##*/}}
    for word in "${{typed[@]:1:index-1}}"; do
        case "$path $word" in
            {subcommands}) path+=" $word" ;;
        esac
    done
    case "$path ${{typed[index - 1]}}" in
{options}
    *)
        case "$path" in
{commands}
        esac
        ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "${{typed[index]}}"))
}}
complete -o default -F _flash_promos flash-promos {names}
"""
ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="scripts/completion",
        description=DESCRIPTION.strip(),
        epilog=EPILOG.strip(),
        formatter_class=cli.Formatter,
    )
    made.add_argument("shell", choices=["bash", "zsh"], help="bash or zsh")
    return made


def main() -> None:
    shell = parser().parse_args().shell
    print((ZSH if shell == "zsh" else "") + script(parsers()), end="")


def parsers() -> dict[str, argparse.ArgumentParser]:
    """By its name, what each command of ours takes."""
    found = {}
    for path in sorted((PROJECT / "scripts").iterdir()):
        if path.is_file() and (match := _OPS.search(path.read_text(encoding="utf-8"))):
            module = importlib.import_module(f"deploy.ops.{match[1]}")
            if make := getattr(module, "parser", None):
                found[path.name] = make()
    return found


def script(commands: dict[str, argparse.ArgumentParser]) -> str:
    levels = [level for name, made in commands.items() for level in walk(name, made)]
    subcommands = "|".join(shlex.quote(path) for path, _ in levels if " " in path)
    options, words = [], []
    for path, made in levels:
        words.append(
            f"        {shlex.quote(path)}) words={shlex.quote(' '.join(offered(made)))} ;;"
        )
        for names, values in valued(made):
            patterns = "|".join(shlex.quote(f"{path} {name}") for name in names)
            options.append(f"    {patterns}) words={shlex.quote(' '.join(values))} ;;")
    return BASH.format(
        scripts=PROJECT / "scripts",
        subcommands=subcommands or "''",
        options="\n".join(options),
        commands="\n".join(words),
        names=" ".join(commands),
    )


def walk(path: str, made: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """A parser and those of its subcommands, each by the words that lead to it."""
    yield path, made
    for name, inner in subparsers(made).items():
        yield from walk(f"{path} {name}", inner)


def subparsers(made: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in made._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def offered(made: argparse.ArgumentParser) -> list[str]:
    """Its subcommands, its options, and what its arguments may be."""
    words: list[str] = []
    for action in made._actions:
        if action.help == argparse.SUPPRESS:
            continue
        words += action.option_strings or values_of(action)
    return words


def valued(made: argparse.ArgumentParser) -> Iterator[tuple[list[str], list[str]]]:
    """Its options that take a value, with what that may be; none known: files."""
    for action in made._actions:
        if action.option_strings and action.nargs != 0:
            yield list(action.option_strings), values_of(action)


def values_of(action: argparse.Action) -> list[str]:
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    return list(VALUES.get(str(action.metavar), ()))


if __name__ == "__main__":
    cli.run(main)
