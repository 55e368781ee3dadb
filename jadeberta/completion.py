"""`jadeberta completion bash|zsh`: a script by which a shell completes verbs, options and their choices.

It is made from the verbs' own parsers. shtab and argcomplete would need one parser for the whole program; here each verb makes its own when
it is called, and that of `pretrain` is made of the recipe's schema. The script holds plain lists and starts no Python at a key press.
"""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from jadeberta.config.option_help import describe_fields
from jadeberta.config.schema import Recipe
from jadeberta.utils.command_line import OneSentenceParser, found_parser

INNER = {"evaluate": ("mlm", "text"), "race": ("plan", "run", "report"), "scaling": ("run", "report")}
"""Verbs that have words of their own, each with a parser."""
CHOICES = re.compile(r"[a-z0-9_-]+(?:\|[a-z0-9_-]+)+")


@dataclass
class Completion:
    """What may follow a verb."""

    options: dict[str, tuple[str, ...] | None] = field(default_factory=dict)
    """Each option with the choices of its value; none: any text or file. None: the option takes no value."""
    words: tuple[str, ...] = ()
    """Choices of its first argument; none: a file or directory."""
    takes_keys: bool = False
    """Whether every key of a recipe is an option too."""


def main(arguments: list[str], verbs: Mapping[str, Callable[[list[str]], int]], of_pretrain: Sequence[tuple[str, str]]) -> int:
    """Prints the script.

    Args:
        arguments: of the command line.
        verbs: all verbs, with the functions that read their command lines.
        of_pretrain: options of `pretrain` that are no keys of a recipe, with their values as its help shows them.

    Raises:
        ConfigError: the shell is none of those known.
    """
    parser = OneSentenceParser(
        prog="jadeberta completion",
        description="Prints a script by which bash or zsh completes verbs, options, keys of a recipe and their choices.",
        epilog="For bash: jadeberta completion bash > ~/.local/share/bash-completion/completions/jadeberta. For zsh: the output of "
        "jadeberta completion zsh as a file _jadeberta in a folder of fpath.",
    )
    parser.add_argument("shell", choices=["bash", "zsh"], help="shell to write the script for")
    options = parser.parse_args(arguments)
    found = {"pretrain": Completion(_read(of_pretrain), takes_keys=True)}
    for verb in verbs:
        if verb in INNER:
            found[verb] = Completion({"--help": None}, INNER[verb])
            found |= {f"{verb} {word}": completion_of(verbs[verb], word) for word in INNER[verb]}
        elif verb != "pretrain":
            found[verb] = completion_of(verbs[verb])
    print(script(options.shell, list(verbs), found, recipe_options()), end="")
    return 0


def completion_of(read: Callable[[list[str]], int], *words: str) -> Completion:
    """What the parser of a verb knows.

    Args:
        read: reads the verb's command line.
        words: the first words of that line.
    """
    parser, takes_keys = found_parser(lambda: read(list(words)))
    found = Completion(takes_keys=takes_keys)
    for action in parser._actions:
        choices = tuple(map(str, action.choices or ()))
        for option in action.option_strings:
            if option.startswith("--"):
                found.options[option] = None if action.nargs == 0 else choices
        if not action.option_strings and not found.words:
            found.words = choices
    return found


def recipe_options() -> dict[str, tuple[str, ...] | None]:
    """Every key of a recipe as an option, with its choices."""
    entries: list[tuple[str, str]] = []
    recipe: Any = Recipe
    for section in fields(recipe):
        inner: Any = section.default_factory
        if is_dataclass(inner):
            entries += [(f"--{section.name}.{name}", text) for name, text in describe_fields(inner)]
    return _read([*entries, *((f"--{name}", text) for name, text in describe_fields(recipe))])


def _read(entries: Sequence[tuple[str, str]]) -> dict[str, tuple[str, ...] | None]:
    """Options from how a help shows them, such as '--resume auto|required|never'."""
    found: dict[str, tuple[str, ...] | None] = {}
    for shown, _ in entries:
        name, _, values = shown.partition(" ")
        found[name] = (tuple(values.split("|")) if CHOICES.fullmatch(values) else ()) if values else None
    return found


def script(shell: str, verbs: Sequence[str], found: Mapping[str, Completion], keys: Mapping[str, tuple[str, ...] | None]) -> str:
    """The script for a shell.

    Args:
        shell: bash or zsh.
        verbs: all verbs.
        found: what may follow a verb, or a verb and its first word.
        keys: options that every verb with `takes_keys` has too.
    """
    values, options, words = [], [], []
    for verb, completion in found.items():
        for option, choices in completion.options.items():
            if choices is not None:
                values.append(f"        {shlex.quote(f'{verb} {option}')}) echo {shlex.quote(' '.join(choices))}; return ;;")
        listed = shlex.quote(" ".join(completion.options)) + (' "$keys"' if completion.takes_keys else "")
        options.append(f"            {shlex.quote(verb)}) echo {listed} ;;")
        if completion.words:
            words.append(f"            {shlex.quote(verb)}) echo {shlex.quote(' '.join(completion.words))} ;;")
    keyed = [
        f"        *' '{option}) echo {shlex.quote(' '.join(choices))}; return ;;" for option, choices in keys.items() if choices
    ]
    return HEAD.format(
        shell=shell, keys=shlex.quote(" ".join(keys)), values="\n".join([*values, *keyed]), options="\n".join(options),
        words="\n".join(words), verbs=shlex.quote(" ".join(verbs)), inner=" | ".join(INNER),
    ) + (BASH if shell == "bash" else ZSH)  # fmt: skip


HEAD = """#compdef jadeberta
# Completion of jadeberta for {shell}, made by 'jadeberta completion {shell}'.
_jadeberta_words() {{ # verb, word before, word that is begun, its place: prints the candidates, nothing where a file may follow
    local keys={keys}
    [ "$4" -gt 1 ] || {{ echo {verbs}; return; }}
    case "$1 $2" in
{values}
        *' '--*.*) return ;;
    esac
    case "$3" in
        -*) case "$1" in
{options}
        esac ;;
        *) [ "$4" -gt 2 ] || case "$1" in
{words}
        esac ;;
    esac
}}
_jadeberta_verb() {{ # place, first word, second word: what the lists above call the verb
    case "$2" in
        {inner}) [ "$1" -le 2 ] && echo "$2" || echo "$2 $3" ;;
        *) echo "$2" ;;
    esac
}}
"""
"""What both shells understand."""
BASH = """_jadeberta() {
    local current="${COMP_WORDS[COMP_CWORD]}" verb
    verb="$(_jadeberta_verb "$COMP_CWORD" "${COMP_WORDS[1]:-}" "${COMP_WORDS[2]:-}")"
    # shellcheck disable=SC2207 # no candidate has a space
    COMPREPLY=($(compgen -W "$(_jadeberta_words "$verb" "${COMP_WORDS[COMP_CWORD - 1]}" "$current" "$COMP_CWORD")" -- "$current"))
}
complete -o default -F _jadeberta jadeberta
"""
ZSH = """_jadeberta_complete() {
    local found place=$((CURRENT - 1))
    found="$(_jadeberta_words "$(_jadeberta_verb $place "${words[2]}" "${words[3]}")" "${words[CURRENT - 1]}" "${words[CURRENT]}" $place)"
    if [ -n "$found" ]; then compadd -- ${=found}; else _files; fi
}
if [ "${funcstack[1]}" = _jadeberta ]; then _jadeberta_complete; else compdef _jadeberta_complete jadeberta; fi
"""
