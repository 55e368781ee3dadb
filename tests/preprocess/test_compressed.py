"""Compressed files are read in bounded memory, whatever they hold, and to their end."""

from pathlib import Path

import pytest

from jadeberta.shards import InputError
from preprocess import compressed
from preprocess.compressed import chunks, lines
from tests.preprocess.source_files import COMPRESS

SUFFIXES = [".bz2", ".gz", ".xz", ".zst"]
MOST = {".zst": 32 * 2**20}
"""Bytes that come at once; for the other formats as many as `MOST_BYTES` says."""
BOMB = bytes(2**26)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_small_file_of_much_content_comes_in_bounded_chunks_up_to_its_end(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"bomb{suffix}"
    # A stream behind it: what is left of the data when the first one ends must not be lost.
    path.write_bytes(COMPRESS[suffix](BOMB) + COMPRESS[suffix](b"end"))
    sizes = [len(chunk) for chunk in chunks(path)]
    assert path.stat().st_size < 2**17 and sum(sizes) == len(BOMB) + 3
    assert max(sizes) <= MOST.get(suffix, compressed.MOST_BYTES)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_thousands_of_streams_is_read_to_its_end(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"streams{suffix}"
    path.write_bytes(COMPRESS[suffix](b"a\n") * 9000)
    assert [line for _, line in lines(path)] == [b"a"] * 9000


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_line_without_an_end_is_refused_when_its_limit_is_read_and_not_when_all_of_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path, read = tmp_path / f"bomb{suffix}", list[int]()
    path.write_bytes(COMPRESS[suffix](BOMB))
    placed = compressed.placed_chunks

    def counted(*arguments):
        for place, chunk in placed(*arguments):
            read.append(len(chunk))
            yield place, chunk

    monkeypatch.setattr(compressed, "placed_chunks", counted)
    monkeypatch.setattr(compressed, "MAX_LINE_BYTES", 2**21)
    with pytest.raises(InputError, match="line 1: longer than 1 GiB"):
        list(lines(path))
    assert sum(read) <= 2**21 + MOST.get(suffix, compressed.MOST_BYTES)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_small_limits_and_chunks_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    rows = [b"%d " % n * (n % 50) for n in range(2000)]
    path = tmp_path / f"text{suffix}"
    path.write_bytes(COMPRESS[suffix](b"\n".join(rows[:1000]) + b"\n") + COMPRESS[suffix](b"\n".join(rows[1000:])))
    for name, value in (("MOST_BYTES", 7), ("CHUNK_BYTES", 100), ("_ZSTD_SLICE", 3), ("_FED_BYTES", 11)):
        monkeypatch.setattr(compressed, name, value)
    assert [line for _, line in lines(path)] == rows
