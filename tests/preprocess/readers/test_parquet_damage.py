"""A Parquet file that is cut short, damaged or encrypted is refused, nothing is lost in silence, and kills change no byte."""

import base64
import io
import os
import signal
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jadeberta.shards import InputError
from preprocess import readers
from preprocess.config import CorpusConfig, PreprocessConfig
from preprocess.document_files import read_json
from preprocess.executors.executor import Executor
from preprocess.readers import input_split
from preprocess.readers.bad_records import BadRecords
from preprocess.readers.input_split import Document
from preprocess.readers.rows import parquet_file
from preprocess.stages import extract as stage

COUNT = 30
ROWS = [{"text": f"文{n}。" * (n % 7 + 1), "id": f"k{n}", "n": n, "tags": ["a"] * (n % 3)} for n in range(COUNT)]


def content(**options: Any) -> bytes:
    written = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), written, **({"row_group_size": 11} | options))
    return written.getvalue()


FILES = {
    "plain": content(compression="none", use_dictionary=False),
    "checksums": content(compression="zstd", write_page_checksum=True),
    "small pages": content(compression="snappy", data_page_version="2.0", data_page_size=64),
    "delta": content(
        compression="gzip",
        use_dictionary=False,
        column_encoding={"text": "DELTA_BYTE_ARRAY", "id": "DELTA_LENGTH_BYTE_ARRAY", "n": "DELTA_BINARY_PACKED"},
    ),
}
HEAD = content(compression="none", use_dictionary=False, write_page_checksum=True)


def refusal(path: Path, data: bytes, **keys: Any) -> str | None:
    """What is said about a file; None where every row of it is a document or counted."""
    path.write_bytes(data)
    dropped: Counter[str] = Counter()
    try:
        splits = readers.splits("c", CorpusConfig("parquet", str(path), **keys))
        found = [document for split in splits for document in readers.documents(split, dropped, BadRecords("exclude"))]
    except InputError as e:
        assert str(e).startswith(f"{path}: ") and str(e).endswith(".") and "\n" not in str(e) and "; " in str(e)
        return str(e)
    assert len(found) + sum(dropped.values()) == COUNT, "rows were lost"
    return None


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damage") / "a.parquet"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "byte 0: the file is empty; copy or download it again."),
        (b"PAR1", "byte 4: the file is cut short: it has no footer; copy or download it again."),
        (HEAD[:-1], f"byte {len(HEAD) - 1}: the file is cut short: it has no footer"),
        (HEAD[:100], "byte 100: the file is cut short: it has no footer"),
        (b"{}" * 99, "byte 0: not a Parquet file; correct the corpus's format or path in the recipe, or copy"),
        (b"\x1f\x8b" + HEAD, "byte 0: the whole file is compressed, and Parquet compresses its columns itself; decompress it."),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS and not the file itself; run 'git lfs pull'"),
        (HEAD[:4] + HEAD[200:], "row group 0, column text: "),
        (HEAD[:-8] + b"\xff\xff\xff\x7fPAR1", "its footer cannot be read: "),
        (HEAD[:-900] + b"\x00" * 892 + HEAD[-8:], "its footer cannot be read: "),
    ],
)  # fmt: skip
def test_a_file_that_is_not_whole_is_refused_with_its_place(scratch: Path, data: bytes, problem: str) -> None:
    said = refusal(scratch, data)
    assert said is not None and said.startswith(f"{scratch}: {problem}")


def test_a_page_that_is_not_its_checksum_names_row_group_and_column_under_either_setting(scratch: Path) -> None:
    place = HEAD.index("文25。".encode())
    damaged = bytearray(HEAD)
    damaged[place + 1] ^= 1
    said = refusal(scratch, bytes(damaged))
    assert said is not None and said.startswith(
        f"{scratch}: row group 2, column text: could not verify page integrity, CRC checksum"
    )
    assert said.endswith("; copy or download it again.")
    # The column of ids is whole: other columns than those that are damaged can still be read.
    assert refusal(scratch, bytes(damaged), text_key="id") is None


def test_rows_that_the_footer_does_not_have_or_the_pages_do_not_hold_are_refused(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch.write_bytes(HEAD)
    (split,) = readers.splits("c", CorpusConfig("parquet", str(scratch)))
    batches = parquet_file.ParquetFile._batches
    monkeypatch.setattr(parquet_file.ParquetFile, "_batches", lambda self, *args: (b.slice(0, 10) for b in batches(self, *args)))
    with pytest.raises(InputError, match="row group 0, column text: 10 rows where the footer says 11; copy or download it again"):
        list(readers.documents(split, Counter()))


class _Keys(pe.KmsClient):
    def __init__(self, config: object) -> None:
        super().__init__()

    def wrap_key(self, key: bytes, master: str) -> bytes:
        return base64.b64encode(key)

    def unwrap_key(self, key: bytes, master: str) -> bytes:
        return base64.b64decode(key)


@pytest.mark.parametrize(
    ("plain", "problem"), [(True, "row group 0, column text: it is encrypted"), (False, "its footer is encrypted")]
)
def test_an_encrypted_file_is_refused_and_a_column_in_clear_is_read(scratch: Path, plain: bool, problem: str) -> None:
    how = pe.EncryptionConfiguration(footer_key="k", column_keys={"c": ["text"]}, plaintext_footer=plain)
    properties = pe.CryptoFactory(_Keys).file_encryption_properties(pe.KmsConnectionConfig(), how)
    data = content(encryption_properties=properties)
    said = refusal(scratch, data)
    assert said == f"{scratch}: {problem}, and no key is known here; write it again without encryption."
    assert (refusal(scratch, data, text_key="id") is None) == plain


def test_a_codec_that_pyarrow_cannot_read_is_refused_before_the_work(scratch: Path) -> None:
    data = content(compression="zstd")
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    # In the footer zstd is the number 6, and LZO, which pyarrow cannot read, 3; both are written doubled.
    changed = [data[:place] + b"\x06" + data[place + 1 :] for place in range(start, len(data) - 8) if data[place] == 12]
    said = {refusal(scratch, data) for data in changed} - {None}
    assert any(
        "column text: While LZO compression" in str(one) and str(one).endswith("; write the file again with zstd.")
        for one in said
    )


def test_a_file_that_may_not_be_read_is_no_damaged_one(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch.write_bytes(HEAD)

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pq, "ParquetFile", refuse)
    with pytest.raises(InputError, match=r"a\.parquet: Permission denied; give this user the right to read it"):
        readers.splits("c", CorpusConfig("parquet", str(scratch)))


# The same cases each time: pyarrow could end the process at one that nobody has seen.
deep = settings(max_examples=60, deadline=None, derandomize=True)
kinds = st.sampled_from(sorted(FILES))
filters = st.sampled_from(["", 'n > 3 and "a" in tags'])


@deep
@given(kinds, st.data(), filters)
def test_a_file_that_is_cut_anywhere_is_refused(scratch: Path, kind: str, data: st.DataObject, where: str) -> None:
    assert refusal(scratch, FILES[kind][: data.draw(st.integers(0, len(FILES[kind]) - 1))], where=where) is not None


@deep
@given(kinds, st.data(), filters)
def test_a_file_with_bits_changed_is_refused_or_every_row_is_counted(
    scratch: Path, kind: str, data: st.DataObject, where: str
) -> None:
    damaged = bytearray(FILES[kind])
    for place in data.draw(st.lists(st.integers(4, len(damaged) - 1), min_size=1, max_size=3)):
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    refusal(scratch, bytes(damaged), where=where)


@deep
@given(kinds, st.data(), filters)
def test_a_footer_with_bits_changed_is_refused_or_every_row_is_counted(
    scratch: Path, kind: str, data: st.DataObject, where: str
) -> None:
    damaged = bytearray(FILES[kind])
    first = len(damaged) - 8 - int.from_bytes(damaged[-8:-4], "little")
    for place in data.draw(st.lists(st.integers(first, len(damaged) - 9), min_size=1, max_size=3)):
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    refusal(scratch, bytes(damaged), where=where)


def contents(out: Path) -> dict[str, Any]:
    files = sorted(path for path in (out / "work" / "documents").rglob("*") if path.is_file())
    return {
        str(path.relative_to(out)): {**read_json(path), "seconds": 0} if path.suffix == ".json" else path.read_bytes()
        for path in files
    }


def test_a_stage_that_is_killed_again_and_again_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_split, "SPLIT_BYTES", 400)
    for number in range(2):
        (tmp_path / f"w-{number}.parquet").write_bytes(content(row_group_size=5))
    corpus = CorpusConfig("parquet", f"{tmp_path}/w-*.parquet", where="n != 3")
    config = PreprocessConfig({"c": corpus}, heldout_documents=3, part_bytes=120)
    stage.extract(config, tmp_path / "whole", Executor())
    documents, kills = readers.documents, 0
    for last in (0, 1, 4, 9, 17, 30, 40):
        if (child := os.fork()) == 0:
            seen = count()

            def killed(*args: Any, last: int = last, seen: Iterator[int] = seen) -> Iterator[Document]:
                for document in documents(*args):
                    if next(seen) == last:
                        os.kill(os.getpid(), signal.SIGKILL)
                    yield document

            stage.readers.documents = killed
            try:
                stage.extract(config, tmp_path / "killed", Executor())
            finally:
                os._exit(0)
        kills += os.waitpid(child, 0)[1] == signal.SIGKILL
    assert kills >= 4
    stage.extract(config, tmp_path / "killed", Executor())
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "whole")) > 10


def test_another_file_of_the_same_name_or_another_filter_is_not_taken_for_what_was_read(tmp_path: Path) -> None:
    (tmp_path / "w.parquet").write_bytes(content())
    config = PreprocessConfig({"c": CorpusConfig("parquet", f"{tmp_path}/w.parquet")}, heldout_documents=3)
    stage.extract(config, tmp_path / "out", Executor())
    config.corpora["c"].where = "n > 3"
    with pytest.raises(Exception, match="made with where=None but this run has where=n > 3"):
        stage.extract(config, tmp_path / "out", Executor())
    config.corpora["c"].where = ""
    (tmp_path / "w.parquet").write_bytes(content(row_group_size=10))
    with pytest.raises(Exception, match=r"w\.json: made with file_bytes="):
        stage.extract(config, tmp_path / "out", Executor())
