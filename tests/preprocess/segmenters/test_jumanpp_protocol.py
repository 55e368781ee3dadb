"""The stand-in for Juman++ against recordings of the real program: byte for byte, on every line that is known to be trouble."""

import base64
import json
import lzma
import os
import subprocess
from itertools import accumulate
from pathlib import Path

import pytest

from preprocess.segmenters.cuts import cut_long
from tests.helpers import SHARED_DATA
from tests.preprocess.jumanpp_standin import COMMAND, SEGMENT

RECORDINGS = SHARED_DATA / "jumanpp_rc3_protocol.jsonl.xz"
KINDS = ("ordinary", "alone", "between", "no final newline")


def standin(data: bytes, *options: str, **settings: str) -> tuple[int, bytes]:
    done = subprocess.run([*COMMAND, *options], input=data, capture_output=True, env=os.environ | settings)
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def recordings() -> list[dict]:
    if not RECORDINGS.exists():
        pytest.skip(f"recordings of the real program are not at ../shared/data/{RECORDINGS.name}")
    with lzma.open(RECORDINGS, "rt") as f:
        rows = [json.loads(line) for line in f]
    return [row | {key: base64.b64decode(row[key]) for key in ("input", "juman", "segment")} for row in rows]


def analyses(recordings: list[dict]) -> dict[str, list]:
    """What the real model knew of each line, for the stand-in's lexicon; what lines do to each other is not in it.

    Only lines that were asked by themselves, and the two that stand around others; each is taken down once.
    """
    known: dict[str, list] = {}
    for row in recordings:
        asked, answers, blocks = lines(row["input"]), lines(row["segment"]), row["juman"].split(b"EOS\n")[:-1]
        if row["kind"] not in KINDS or not len(asked) == len(answers) == len(blocks):
            continue  # one was refused or swallowed: that is for the stand-in to know
        for line, block, words in zip(asked, blocks, answers, strict=True):
            if words:
                known.setdefault(text(line), morphemes(block, words.split(b"\x1f")))
    return known


def lines(data: bytes) -> list[bytes]:
    return data.removesuffix(b"\n").split(b"\n")


def text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def morphemes(block: bytes, surfaces: list[bytes]) -> list:
    """[[surface, [rest of its row, rest of an alias's row, ...]], ...] of one answer in both formats."""
    rows = block.removesuffix(b"\n").split(b"\n")
    found: list = []
    for row in rows:
        alias = row.startswith(b"@ ") and not (row.startswith(b"@ @ ") and surfaces[len(found) :][:1] == [b"@"])
        if not alias:
            found.append([text(surfaces[len(found)]), []])
        found[-1][1].append(text((row.removeprefix(b"@ ") if alias else row).split(b" ", 1)[1]))
    assert len(found) == len(surfaces)
    return found


def test_standin_gives_every_recorded_answer_byte_for_byte(recordings: list[dict], tmp_path: Path) -> None:
    lexicon, known = tmp_path / "lexicon.json", analyses(recordings)
    assert len(recordings) == 106 and len(known) > 600
    for row in recordings:
        # Not the whole lexicon: every process of the stand-in would read it.
        lexicon.write_text(json.dumps({line: known[line] for line in map(text, lines(row["input"])) if line in known}))
        for options, key in ((SEGMENT, "segment"), ((), "juman")):
            expected = (row[f"{key}_rc"], row[key])
            assert standin(row["input"], *options, STANDIN_LEXICON=str(lexicon)) == expected, (row["kind"], row["input"][:80])


@pytest.mark.parametrize("most", [40, 60, 100])
def test_long_lines_are_cut_where_the_real_program_ends_a_word(recordings: list[dict], most: int) -> None:
    """Lines as long as the limit are not among the recordings, so shorter fragments are asked for: fewer places to choose."""
    cuts = right = 0
    for line, words in analyses(recordings).items():
        ends = set(accumulate(len(surface) for surface, _ in words))
        fragments = list(cut_long(line, lambda text, start: most))
        assert "".join(fragments) == line and max(map(len, fragments)) <= most
        if "ｗｗｗ" in line or "笑笑笑" in line:
            continue  # repeats are cut before, wherever the limit is
        places = list(accumulate(map(len, fragments)))[:-1]
        cuts += len(places)
        right += len(ends.intersection(places))
    assert cuts > 30 and right >= (cuts if most > 40 else 0.99 * cuts), f"{right} of {cuts} cuts"


def test_standin_swallows_the_sentence_after_a_comment_that_is_too_long() -> None:
    data = b"# " + b"x" * 1023 + "\nあ\nい\n".encode()
    assert standin(data, "--segment") == (0, "い\n".encode())


def test_standin_reads_past_the_end_of_a_line_like_rc3() -> None:
    """The reason for `disguise`: without it the line before decides."""
    before, line = "長い行の１２３４５６", "ほげ４．"
    assert standin(f"前\n{line}\n".encode(), *SEGMENT)[1].splitlines()[-1].decode() == "ほげ\x1f４\x1f．"
    assert standin(f"{before}\n{line}\n".encode(), *SEGMENT)[1].splitlines()[-1].decode() == "ほげ\x1f４．"
