"""Template calls in the running text of real articles: which print words that are kept, which cost a sentence, which print none.

    python bench/template_calls.py ARTICLES.json.gz [--top 40] [--silent]

ARTICLES holds a JSON object a line with "title" and "text", the wikitext. Names are ordered by the sentences that they cost. What
is taken for silent although it prints words is the one fault that no count here shows: `--silent` lists those names, with an example.
"""

import argparse
import gzip
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if sys.path[0] == str(ROOT / "bench"):
    sys.path[0] = str(ROOT)  # in place of bench/, where files are named like packages

from jadeberta.utils.paths import path_option  # noqa: E402
from preprocess.readers import markup  # noqa: E402
from preprocess.readers.wiki import incomplete_sentences  # noqa: E402
from preprocess.readers.wiki.incomplete_sentences import GAP, Losses  # noqa: E402
from preprocess.readers.wiki.template_call import call_of  # noqa: E402
from preprocess.readers.wiki.templates import printed_words  # noqa: E402
from preprocess.readers.wikitext import Parts  # noqa: E402
from preprocess.text import split_sentences  # noqa: E402

# Two characters that no article holds: the second one says which call it was.
_CALL = re.compile("\ufdd0(.)")
_SIGNS = {
    "empty brackets or quotes": re.compile(r"「\s*」|『\s*』|（[\s、，・/]*）|\([\s,、]*\)|“\s*”"),
    "begins with a particle or comma": re.compile(r"^(?:[、，,を]|[はがにのとでへ](?![ぁ-ん]))"),
    "particles with nothing between them": re.compile(
        r"[をが][はがをへ](?![ぁ-ん])|は[をがは](?![ぁ-ん])|(?:は|が|を|に)である|はと(?:書|呼|表)"
    ),
    "a counter without its number": re.compile(r"(?:は|が|の|約|、|に)(?:メートル|キロ|パーセント|km|％|平方|万人|億円)"),
}


def articles(path: Path) -> Iterator[tuple[str, str]]:
    """Streams (title, wikitext)."""
    with gzip.open(path, "rt", encoding="utf-8") as f:
        for line in f:
            row = json.loads(line)
            yield row["title"], row["text"]


class Calls:
    """Calls that stand in running text, by kind and name."""

    def __init__(self) -> None:
        self.names: dict[tuple[str, str], int] = {}
        self.counts: Counter[tuple[str, str]] = Counter()
        self.examples: dict[tuple[str, str], str] = {}

    def mark(self, kind: str, name: str) -> str:
        return "\ufdd0" + chr(0x20000 + self.names.setdefault((kind, name), len(self.names)))

    def count(self, line: str, *_: object) -> str:
        """Counts the calls in a line that holds more than calls; returns nothing of it."""
        by_number = list(self.names)
        if not re.search(r"[^\W_]", incomplete_sentences.unmarked(_CALL.sub("", line))):
            return ""
        for match in _CALL.finditer(line):
            call = by_number[ord(match[1]) - 0x20000]
            self.counts[call] += 1
            around = line[max(match.start() - 20, 0) : match.end() + 25]
            self.examples.setdefault(call, incomplete_sentences.unmarked(_CALL.sub("▲", around)))
        return ""


class _CountedPage(markup._Page):
    """Writes a mark in front of what each template prints."""

    calls: Calls

    def template(self, parts: Parts) -> str:
        name = " ".join(call_of(parts).name.split()).lower()[:60]
        words = printed_words(parts, self._title)
        kind = "unknown" if words is None else "silent" if words == GAP or words.startswith("\n|}") else "words"
        return self.calls.mark(kind, name) + super().template(parts)


@dataclass
class Measured:
    """What became of some articles."""

    pages: int = 0
    sentences: int = 0
    losses: Losses = field(default_factory=Losses)
    signs: dict[str, list[str]] = field(default_factory=dict)
    """Sentences kept that look as if a word were missing, by sign."""
    calls: Calls = field(default_factory=Calls)

    def kind(self, kind: str) -> int:
        """Returns the number of calls of a kind in running text."""
        return sum(number for (found, _), number in self.calls.counts.items() if found == kind)

    @property
    def share(self) -> float:
        """Calls whose words are kept, of those that print words or may do so."""
        return self.kind("words") / max(self.kind("words") + self.kind("unknown"), 1)


def measure(path: Path) -> Measured:
    """Cleans the articles of a file twice: as the reader does, and with a mark at each call."""
    found = Measured()
    for title, wikitext in articles(path):
        found.pages += 1
        for sentence in split_sentences(markup.clean(wikitext, title, found.losses)):
            found.sentences += 1
            for sign, pattern in _SIGNS.items():
                if pattern.search(sentence):
                    found.signs.setdefault(sign, []).append(sentence)
    _CountedPage.calls = found.calls
    page, complete = markup._Page, markup.complete
    try:
        markup._Page = _CountedPage  # type: ignore[misc]
        markup.complete = found.calls.count  # type: ignore[assignment]
        for title, wikitext in articles(path):
            markup.clean(wikitext, title)
    finally:
        markup._Page, markup.complete = page, complete  # type: ignore[misc]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("articles", type=path_option)
    parser.add_argument("--top", type=int, default=40, help="how many templates are named")
    parser.add_argument("--silent", action="store_true", help="list the templates taken for silent")
    options = parser.parse_args()
    found = measure(options.articles)
    losses, calls = found.losses, found.calls
    left_out = f"{losses.sentences:,} sentences and {losses.brackets:,} brackets left out"
    print(f"{found.pages:,} articles, {found.sentences:,} sentences kept; {left_out}")
    print(f"calls in running text: {found.kind('silent'):,} print no words; {found.kind('words'):,} print words that are kept,")
    print(
        f"{found.share:.2%} of those that may print some; the sentence or bracket of the other {found.kind('unknown'):,} is left out,"
    )
    print("or they stand between sentences.")
    print("sentences or brackets left out, by template:")
    for name, number in losses.templates.most_common(options.top):
        print(f"  {number:6,}  {name}: {calls.examples.get(('unknown', name.lower()), '')}")
    print("signs of a missing word in the sentences kept (an author may have written them so):")
    for sign, sentences in found.signs.items():
        print(f"  {len(sentences):6,}  {sign}: {sentences[0][:100]}")
    if options.silent:
        print("silent in running text:")
        for (kind, name), number in calls.counts.most_common():
            if kind == "silent":
                print(f"  {number:6,}  {name}: {calls.examples[kind, name]}")


if __name__ == "__main__":
    main()
