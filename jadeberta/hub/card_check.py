"""Whether a card can be shown to others: it has a licence, and nothing that was left to fill in."""

import re
from pathlib import Path

from jadeberta.errors import CheckpointError

CARD_NAME = "README.md"
PLACEHOLDER = re.compile(r'"PATH(/generator)?"|--model PATH\b|\bTODO\b|\bFIXME\b|<(?:licen[cs]e|name|path|url)>', re.IGNORECASE)
FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
LICENCE = re.compile(r"(?m)^license:[ \t]*[\"']?[A-Za-z0-9]")
LICENCE_LINES = re.compile(r"(?m)^license(?:_name|_link)?:.*$")


def card_faults(text: str) -> list[str]:
    """Returns what is unfinished in a card, each as the end of a sentence that begins with the card."""
    faults = []
    head = FRONT_MATTER.match(text)
    if head is None or not LICENCE.search(head[1]):
        faults.append("has no licence: write 'license: apache-2.0', or yours, between the two lines --- at its beginning")
    for number, line in enumerate(text.splitlines(), 1):
        if found := PLACEHOLDER.search(line):
            faults.append(f"has {found[0]} in line {number}: write what belongs there")
    return faults


def read_card(release: Path) -> str:
    """Returns the card of a release.

    Raises:
        CheckpointError: it is no text.
    """
    try:
        return (release / CARD_NAME).read_text(encoding="utf-8")
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{release / CARD_NAME}: cannot be read as text ({e}); export the checkpoint again.") from e


def card_of_revision(text: str, main: str, repository: str, revision: str) -> str:
    """Returns the card of an exported checkpoint with what only the Hub's names can fill in.

    Args:
        text: as `export` wrote it.
        main: card of the release; its licence holds for the checkpoints too.
        repository: OWNER/NAME.
        revision: that the checkpoint gets.
    """

    def from_hub(found: re.Match[str]) -> str:
        folder = f', subfolder="{found[1].removeprefix("/")}"' if found[1] else ""
        return f'from_pretrained("{repository}", revision="{revision}"{folder}'

    text = re.sub(r'from_pretrained\("PATH(/generator)?"', from_hub, text)
    # jadeberta's own classes take a folder.
    loading = f"  # after: hf download {repository} --revision {revision} --local-dir {revision}"
    text = re.sub(r'Tokenizer\("PATH(/generator)?"\)', rf'Tokenizer("{revision}\1"){loading}', text)
    text = text.replace("--model PATH", f"--model {revision}")
    head = FRONT_MATTER.match(main)
    lines = "\n".join(LICENCE_LINES.findall(head[1])) if head else ""
    if not lines or card_faults(text) == []:
        return text
    return text.replace("---\n", f"---\n{lines}\n", 1)
