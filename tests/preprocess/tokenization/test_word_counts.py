"""Word counts: those of the text, whatever fits into memory, however they are shared out, and nothing counted twice after a kill."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess.document_files import read_json, write_json, write_jsonl_zst
from preprocess.executors.executor import Executor
from preprocess.tokenization import word_counts as counting
from preprocess.tokenization.sentencepiece_training import seed_pieces
from preprocess.tokenization.word_counts import SpillingCounter, rank_words

ALPHABET = "あいうア京大学a𠮷﹅"


@pytest.fixture
def parts(tmp_path: Path) -> list[tuple[Path, int]]:
    """Seven parts of some hundred different words each, two of them of a corpus that counts three times."""
    made = []
    for number in range(7):
        words = [f"{ALPHABET[(number * i) % 10]}{i % 97}{ALPHABET[i % 7]}" for i in range(number * 150 + 1)]
        rows = [{"id": str(n), "sentences": [" ".join(words[n : n + 9]), " ".join(words[:n])]} for n in range(1, len(words), 9)]
        part = tmp_path / ("web", "wiki")[number > 4] / f"part-{number}.jsonl.zst"
        write_jsonl_zst(part, [{"id": "x", "sentences": ["京"]}, *rows])
        made.append((part, 3 if number > 4 else 1))
    return made


def by_hand(parts: list[tuple[Path, int]]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for part, weight in parts:
        for row in counting.read_words(part):
            for word in " ".join(row["sentences"]).split():
                counts[word] += weight
    return counts


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"MAX_DISTINCT": 300},
        {"MAX_DISTINCT": 150, "MAX_RUNS": 2, "MAX_GROUPS": 1},
        {"MAX_GROUPS": 2, "PARTITION_BYTES": 2000},
    ],
    ids=str,
)
def test_words_are_counted_and_ranked_alike_whatever_fits_into_memory(
    parts: list[tuple[Path, int]], limits: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(counting, name, value)
    ranked = rank_words(parts, 10**6, tmp_path / "counts", Executor())
    expected = by_hand(parts)
    assert list(ranked) == sorted(expected.items(), key=lambda item: (-item[1], item[0]))
    assert (ranked.words, ranked.distinct) == (expected.total(), len(expected))
    assert (len(ranked.files) > 3) == ("PARTITION_BYTES" in limits)


def test_the_most_frequent_words_are_found_and_all_are_counted(parts: list[tuple[Path, int]], tmp_path: Path) -> None:
    ranked = rank_words(parts, 25, tmp_path / "counts", Executor())
    expected = sorted(by_hand(parts).items(), key=lambda item: (-item[1], item[0]))
    assert list(ranked)[:25] == expected[:25] and ranked.distinct == len(expected) > 100


@given(st.lists(st.tuples(st.text(ALPHABET, min_size=1, max_size=3), st.integers(1, 9))), st.integers(1, 9), st.integers(2, 4))
@settings(deadline=None, max_examples=40)
def test_tally_sums_up_and_sorts_however_often_it_is_set_down(
    tmp_path_factory: pytest.TempPathFactory, items: list[tuple[str, int]], most: int, runs: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "MAX_DISTINCT", most)
        patch.setattr(counting, "MAX_RUNS", runs)
        tally = SpillingCounter(tmp_path_factory.mktemp("runs"))
        expected: Counter[str] = Counter()
        for word, count in items:
            tally.count([word] * 2, count)
            tally.count([], count)
            expected[word] += 2 * count
        assert list(tally.merged()) == sorted(expected.items())


def test_no_more_is_held_and_no_more_files_are_open_than_the_limits_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MAX_DISTINCT", 10)
    monkeypatch.setattr(counting, "MAX_RUNS", 4)
    written, merged = [], []
    write, merge = counting.write_jsonl_zst, counting.merge

    def writes(path: Path, rows: Any, scratch: bool) -> None:
        kept = list(rows)
        written.append(sum(map(len, kept)))
        write(path, kept, scratch)

    def merges(sources: Any) -> Iterator[tuple[str, int]]:
        listed = list(sources)
        merged.append(len(listed))
        return merge(listed)

    monkeypatch.setattr(counting, "write_jsonl_zst", writes)
    monkeypatch.setattr(counting, "merge", merges)
    tally = SpillingCounter(tmp_path)
    for n in range(400):
        tally.count([f"{n % 200}"], 1 + n % 3)
    assert len(list(tally.merged())) == 200 and len(list(tmp_path.iterdir())) <= 4
    assert written.count(10) >= 40 and min(written) == 10 and max(merged) <= 5
    assert all(rows == 10 or rows > 30 for rows in written)  # set down when full, or merged from four of them


def test_group_that_was_counted_is_not_counted_again_after_a_kill(
    parts: list[tuple[Path, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "counts"
    read, counted = counting.read_words, []

    def reads(part: Path) -> Any:
        counted.append(part.name)
        if part.name == "part-3.jsonl.zst" and len(counted) < 5:
            raise KeyboardInterrupt
        return read(part)

    monkeypatch.setattr(counting, "read_words", reads)
    with pytest.raises(KeyboardInterrupt):
        rank_words(parts, 10**6, folder, Executor())
    assert counted == [f"part-{n}.jsonl.zst" for n in range(4)] and not list(folder.glob("runs-*"))
    marker = folder / "group-001.json"
    write_json(marker, read_json(marker) | {"partitions": 9})  # of other settings: not the same group
    found = list(rank_words(parts, 10**6, folder, Executor()))
    assert counted[4:] == [f"part-{n}.jsonl.zst" for n in (1, 3, 4, 5, 6)]
    assert found == list(rank_words(parts, 10**6, tmp_path / "again", Executor()))


def test_seeds_are_every_substring_of_a_word_that_is_frequent_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [("京都", 5), ("京大", 2), ("都" * 30, 1)]
    expected = {"▁京": 7, "▁京都": 5, "京都": 5, "都" * 2: 29, "都" * 3: 28}
    found = []
    for most in (10**6, 3):
        monkeypatch.setattr(counting, "MAX_DISTINCT", most)
        (tmp_path / str(most)).mkdir()
        found.append(seed_pieces(words, tmp_path / str(most)))
    assert found[0] == found[1] and expected.items() <= dict(found[0]).items()
    assert not {"大", "京大", "▁京大"} & dict(found[0]).keys() and max(len(piece) for piece, _ in found[0]) == 16
    assert found[0] == sorted(found[0], key=lambda item: (-item[1] * len(item[0]), item[0]))
