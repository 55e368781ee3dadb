"""The commands of the pages, as bash understands them: every program is replaced by one that records its words and settings.

So a loop, a quoted program, a heredoc or a setting before a command is what it would be for a user, and nothing is executed.
"""

import functools
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted((ROOT / "docs").glob("*.md"))
OURS = (".venv/bin/jadeberta", ".venv/bin/python", ".venv/bin/tensorboard", "launch/local.sh")
BLOCK = re.compile(r"(?ms)^( *)```sh\n(.*?)^\1```$")
CRON = re.compile(r"(?m)^\*/5 \* \* \* \* ")
EXPORTED_BEFORE = {"RUN_DIR": "/data/runs/large", "RECIPE": "recipes/large.yaml", "SHARDS": "/data/shards"}
"""Variables that a user has exported before the block, as the pages on training and on the cluster say."""
BUILTINS = ("cd", "kill")
"""Builtins of bash that must not do anything."""
RECORD = """#!/bin/sh
exec 1>"$RECORDS/$$"
printf '%s\\0' "$#" "${NAME:-${0#"$PROGRAMS"/}}" "$@"
/usr/bin/env -0
[ "${1:-}" != - ] || /bin/cat >"$RECORDS/$$.in"
"""


@dataclass
class Command:
    """One call of a program."""

    page: str
    words: list[str]
    """The program and its arguments."""
    settings: dict[str, str] = field(default_factory=dict)
    """Variables of its environment that were set in the block."""
    standard_input: str = ""
    """What a program whose first argument is - gets to read."""

    def __str__(self) -> str:
        return f"{self.page}: {' '.join([*(f'{k}={v}' for k, v in self.settings.items()), *self.words])}"

    @property
    def program(self) -> str:
        return self.words[0]


def blocks() -> list[tuple[str, str]]:
    """The name of the page and the text of each block of shell commands, in order."""
    return [(page.name, found[2]) for page in PAGES for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]


@functools.cache
def commands(others: tuple[str, ...]) -> list[Command]:
    """Every call of a program in the blocks.

    Args:
        others: programs of the system that the pages may call, besides the project's own.

    Raises:
        AssertionError: bash complains, so a block is wrong or calls another program.
    """
    found: list[Command] = []
    with tempfile.TemporaryDirectory() as folder:
        programs, records, work = (Path(folder) / name for name in ("programs", "records", "work"))
        for directory in (programs, records, work / ".venv/bin", work / "launch", work / "runs/own/text"):
            directory.mkdir(parents=True)
        for target in [programs / name for name in (*others, *BUILTINS)] + [work / name for name in OURS]:
            target.write_text(RECORD)
            target.chmod(0o755)
        environment = {"PATH": str(programs), "HOME": "/home/me", "RECORDS": str(records), "PROGRAMS": str(programs)}
        environment |= EXPORTED_BEFORE
        prelude = "set -u\nseq() { echo 1 2; }\n" + "".join(f'{name}() {{ "$PROGRAMS/{name}" "$@"; }}\n' for name in BUILTINS)
        for page, block in blocks():
            last = '\n[ -z "${EXTRA+x}" ] || NAME=EXTRA EXTRA="$EXTRA" "$PROGRAMS/kill"\n'  # a setting that a block shows alone
            result = subprocess.run(
                ["/bin/bash", "-c", prelude + CRON.sub("", block) + last],
                cwd=work, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            )  # fmt: skip
            assert result.stderr == "", f"{page}:\n{block}\n{result.stderr}"
            for record in sorted((p for p in records.iterdir() if p.suffix != ".in"), key=lambda p: p.stat().st_mtime_ns):
                found.append(_read(page, record, environment))
            for used in records.iterdir():
                used.unlink()
    return found


def _read(page: str, record: Path, environment: dict[str, str]) -> Command:
    count, *words = record.read_text(encoding="utf-8").split("\0")[:-1]
    words, variables = words[: int(count) + 1], words[int(count) + 1 :]
    settings = dict(variable.split("=", 1) for variable in variables)
    given = record.with_suffix(".in")
    return Command(
        page,
        words,
        {k: v for k, v in settings.items() if environment.get(k) != v and k not in {"PWD", "OLDPWD", "SHLVL", "_", "NAME"}},
        given.read_text(encoding="utf-8") if given.exists() else "",
    )


def variables_of(script: str) -> set[str]:
    """Settings that a script of slurm/ or launch/ reads, with those of the scripts that it calls."""
    text = (ROOT / script).read_text(encoding="utf-8")
    found = set(re.findall(r'(?m)^(?:export )?([A-Z_]+)="\$\{\1:-', text))
    for called in re.findall(r'(?m)^(?:exec )?(?:bash|\.) "?(?:\$\(dirname "\$0"\)/)?((?:slurm/|launch/)?[a-z_]+\.sh)', text):
        found |= variables_of(called if "/" in called else f"{os.path.dirname(script)}/{called}")  # noqa: PTH120
    return found
