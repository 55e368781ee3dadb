"""Parquet to documents, beside pyarrow's own reading of the same columns to Python strings; and the memory that one huge row group takes.

Both read the same files with the same columns, in turns, and the user time of each round is compared with that of its neighbour. The
file has the columns of a web corpus: text, id, url, a score, and a copy of the text that nobody needs.
"""

import multiprocessing
import resource
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bench.preprocess.measure import Row, median_of
from preprocess import readers
from preprocess.config import CorpusConfig
from preprocess.demo.corpus import write_corpus
from preprocess.readers.discover import discover

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT.parent / "shared" / "data" / "corpora"
MEGABYTES = 150
"""Of text in the files; a tenth where it has to be quick."""
HUGE_MEGABYTES = 600
GOAL = 0.9


def measure(work: Path, rounds: int, quick: bool) -> list[Row]:
    """The rows of reading; `work` is an empty folder."""
    write_corpus(work / "demo", documents=400 if quick else 1600)
    texts = _texts(SAMPLE if SAMPLE.is_dir() else work / "demo", (MEGABYTES // 10 if quick else MEGABYTES) * 10**6)
    short = [line for text in texts for line in text.splitlines()][: len(texts) * 5]
    rows: list[Row] = []
    for name, found, options in (
        ("documents, zstd", texts, {"compression": "zstd"}),
        ("documents, snappy, row groups of 1,000", texts, {"compression": "snappy", "row_group_size": 1000}),
        ("single lines, zstd", short, {"compression": "zstd"}),
    ):
        path = work / f"{len(rows)}.parquet"
        _write(path, found, **options)
        rows.append(_row(f"Parquet, {name}", path, rounds, ["text", "id"]))
    rows.append(
        _row("Parquet, documents, zstd, a filter on score", work / "0.parquet", rounds, ["text", "id", "score"], "score >= 0")
    )
    rows.append(_memory(work / "huge.parquet", texts, HUGE_MEGABYTES // (10 if quick else 1)))
    return rows


def _texts(folder: Path, size: int) -> list[str]:
    found: list[str] = []
    for name, config in discover(folder).items():
        if config.format in ("cc100", "oscar"):
            found += [d["text"] for split in readers.splits(name, config) for d in readers.documents(split, Counter())]
    times = max(1, size // sum(len(text.encode()) for text in found))
    return found * times


def _write(path: Path, texts: list[str], **options: object) -> None:
    columns = {
        "text": texts,
        "id": [f"<urn:uuid:{number:032x}>" for number in range(len(texts))],
        "url": [f"https://example.org/{number}" for number in range(len(texts))],
        "score": [number % 50 / 10 for number in range(len(texts))],
        "copy": texts,
    }
    pq.write_table(pa.table(columns), path, **({"row_group_size": 10_000, "write_page_checksum": True} | options))


def _ours(path: Path, where: str) -> int:
    config = CorpusConfig("parquet", str(path), where=where)
    return sum(1 for split in readers.splits("web", config) for _ in readers.documents(split, Counter()))


def _theirs(path: Path, columns: list[str]) -> int:
    """What a program without us does, with the same care for damage: one thread, page checksums verified."""
    count = 0
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for batch in file.iter_batches(columns=columns, use_threads=False):
            for _ in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                count += 1
    return count


def _dictionaries(path: Path) -> int:
    """`_theirs` with the dictionary of a document for each row: what short texts cost whoever reads them."""
    count = 0
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for batch in file.iter_batches(columns=["text", "id"], use_threads=False):
            rows = zip(batch.column("text").to_pylist(), batch.column("id").to_pylist(), strict=True)
            for _ in [{"id": f"web-{id_}", "source": "web", "title": "", "text": text.strip()} for text, id_ in rows]:
                count += 1
    return count


def _user_seconds(work: Callable[[], int], expected: int) -> float:
    began = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    assert work() == expected
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime - began


def _row(measure: str, path: Path, rounds: int, columns: list[str], where: str = "") -> Row:
    expected = pq.read_metadata(path).num_rows
    pairs = [
        (_user_seconds(lambda: _ours(path, where), expected), _user_seconds(lambda: _theirs(path, columns), expected))
        for _ in range(rounds)
    ]
    details: dict[str, object] = {
        "rows": expected,
        "file_megabytes": round(path.stat().st_size / 1e6, 1),
        "columns": columns,
        "seconds_ours": [round(ours, 3) for ours, _ in pairs],
        "seconds_pyarrow": [round(theirs, 3) for _, theirs in pairs],
    }
    if "lines" in measure:
        with_dictionaries = [_user_seconds(lambda: _dictionaries(path), expected) for _ in range(rounds)]
        details["seconds_pyarrow_with_dictionaries"] = [round(seconds, 3) for seconds in with_dictionaries]
    # Without a goal: the other way has no filter, and a document of one line costs less than the dictionary that it is put into.
    return Row(
        measure,
        median_of(theirs / ours for ours, theirs in pairs),
        "x pyarrow",
        None if where or "lines" in measure else GOAL,
        details,
    )


def _memory(path: Path, texts: list[str], megabytes: int) -> Row:
    """The memory that reading takes where all of the file is one row group."""
    schema = pa.schema([("text", pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        times = max(1, megabytes * 10**6 // sum(len(text.encode()) for text in texts))
        table = pa.table({"text": texts * times}, schema)
        writer.write_table(table, row_group_size=len(table))
        del table
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        before, after = pool.apply(_peak, (str(path),))
    return Row("memory for one huge row group", (after - before) / 1024, "MiB", 64, {"text_megabytes": megabytes}, at_most=True)


def _peak(path: str) -> tuple[int, int]:
    """Peak resident memory in KiB before the file is read, with pyarrow loaded, and after."""
    (split,) = readers.splits("web", CorpusConfig("parquet", path))
    before = _resident_peak()
    for _ in readers.documents(split, Counter()):
        pass
    return before, _resident_peak()


def _resident_peak() -> int:
    # Not ru_maxrss, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0])
