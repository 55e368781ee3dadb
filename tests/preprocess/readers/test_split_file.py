"""Files that are cut in one pass: the same documents as uncut, each once, whoever cuts, however often it was stopped."""

import gzip
import lzma
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from jadeberta.shards import ConfigError, InputError
from preprocess import compressed, readers
from preprocess.config import CorpusConfig, PreprocessConfig
from preprocess.document_files import read_json
from preprocess.executors.executor import Executor
from preprocess.readers import input_split as split_module
from preprocess.readers import plain_text
from preprocess.readers import split_file as split_task
from preprocess.readers.input_split import InputSplit, ReaderSettings, file_splits
from preprocess.readers.split_file import SplitTask, extent_of, split_file
from preprocess.stages import extract
from preprocess.workdir import list_parts, read_documents, require_complete
from tests.preprocess.source_files import COMPRESS, article, dump, jsonl, oscar_row, page

SPAN = 4096


def text_of(number: int) -> str:
    """Paragraphs that compress badly, so that there is something to cut."""
    return "\n".join(os.urandom(30 + number % 50).hex() + f"の{number}番。" for _ in range(1 + number % 4))


def content_of(format: str, count: int = 90) -> bytes:
    texts = [text_of(number) for number in range(count)]
    if format in ("cc100", "text"):
        # Two blank lines, Windows line ends, and a paragraph of spaces alone, which is an empty document.
        return "\n\n".join(texts[:30]).encode() + b"\r\n\r\n\n   \n\n" + "\n\n".join(texts[30:]).encode()
    if format == "oscar":
        return jsonl([oscar_row(text, "annotation", ["noisy"] if n % 7 == 0 else None) for n, text in enumerate(texts)])
    if format == "wikipedia":
        return dump([page(n + 1, text, ns=n % 5 // 4) for n, text in enumerate(texts)])
    if format == "enterprise_html":
        # Some pages stand twice, the second time in another version.
        rows = [article(n, f"<p>{text}。</p>", n % 5 // 4) for n, text in enumerate(texts)]
        return jsonl(rows + [article(n, "<p>別の版。</p>") for n in range(0, 90, 9)] + [article(999, "<p>終わり。</p>")])
    if format == "wikiextractor":
        return "".join(f'<doc id="{n}" url="" title="t{n}">\n{text}\n</doc>\n' for n, text in enumerate(texts)).encode()
    return jsonl([{"text": text} for text in texts[:50]]) + b"\n\n" + jsonl([{"text": text} for text in texts[50:]])


@pytest.fixture(autouse=True)
def small_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_module, "SPLIT_BYTES", SPAN)
    monkeypatch.setattr(compressed, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(plain_text, "GROUP_BYTES", 1000)


def configure(format: str, path: Path) -> PreprocessConfig:
    corpus = CorpusConfig(format, str(path), documents=settings_of(format).documents)  # type: ignore[arg-type]
    return PreprocessConfig({"web": corpus}, heldout_documents=5, part_bytes=5000)


def settings_of(format: str) -> ReaderSettings:
    # A file that is one document is not cut.
    return ReaderSettings(documents="paragraph" if format == "text" else "")


def whole(format: str, path: Path) -> tuple[list[dict[str, str]], Counter[str]]:
    """The documents of a file that is read by one rank from end to end."""
    dropped: Counter[str] = Counter()
    found = readers.READERS[format].splits("web", [path], settings_of(format))[0]
    split = InputSplit("web", format, "whole", path, found.id_prefix, 0, path.stat().st_size, settings=settings_of(format))
    return list(readers.documents(split, dropped)), dropped


def extracted(out: Path) -> list[dict[str, str]]:
    return [document for part in list_parts(out, "web") for document in read_documents(part)]


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("format", [name for name, reader in readers.READERS.items() if hasattr(reader, "begins")])
def test_a_cut_file_gives_the_same_documents_in_order_and_leaves_no_cut(tmp_path: Path, format: str, suffix: str) -> None:
    path = tmp_path / f"corpus_part_1.{'xml' if format == 'wikipedia' else 'jsonl'}{suffix}"
    path.write_bytes(COMPRESS[suffix](content_of(format)))
    config, out = configure(format, path), tmp_path / "out"
    found = extract.extract(config, out, Executor())
    documents, dropped = whole(format, path)
    assert len(documents) > 60 and len(readers.splits("web", config.corpora["web"])) > 3
    assert extracted(out) == documents
    assert found["web"]["dropped"] == dict(sorted(dropped.items()))
    assert found["web"]["files"] == {path.name: {"documents": len(documents), "in_file": len(documents) + sum(dropped.values())}}
    require_complete(out, "web")
    assert not list((out / "work" / "cuts").glob("*"))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_filter_and_named_fields_give_the_same_documents_of_a_cut_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w.jsonl{suffix}"
    texts = [text_of(n) for n in range(90)]
    rows = [{"m": {"body": text, "key": f"k{n}"}, "n": n if n % 9 else None} for n, text in enumerate(texts)]
    path.write_bytes(COMPRESS[suffix](b"".join(orjson.dumps(row) + b"\n" for row in rows)))
    corpus = CorpusConfig("jsonl", str(path), text_key="m.body", id_key="m.key", where="not (n >= 60)")
    config, out = PreprocessConfig({"web": corpus}, heldout_documents=5, part_bytes=5000), tmp_path / "out"
    found = extract.extract(config, out, Executor())["web"]
    kept = [n for n in range(60) if n % 9]
    assert [(d["id"], d["text"]) for d in extracted(out)] == [(f"web-k{n}", texts[n]) for n in kept]
    assert found["dropped"] == {"where": 90 - len(kept)} and len(readers.splits("web", corpus)) > 3


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_two_corpora_over_one_cut_file_have_all_of_its_documents_each(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w.jsonl{suffix}"
    path.write_bytes(COMPRESS[suffix](jsonl([{"text": text_of(n), "n": n} for n in range(90)])))
    corpora = {"few": CorpusConfig("jsonl", str(path), where="n < 20"), "web": CorpusConfig("jsonl", str(path), where="n >= 20")}
    found = extract.extract(PreprocessConfig(corpora, heldout_documents=5), tmp_path / "out", Executor())
    assert len(readers.splits("web", corpora["web"])) > 3
    assert {corpus: (counts["documents"], counts["dropped"]) for corpus, counts in found.items()} == {
        "few": (20, {"where": 70}),
        "web": (70, {"where": 20}),
    }


@pytest.mark.parametrize("paragraph, blank", [(b"\r\n", b"\r\n"), (b"\n", b"\r\n\r\n"), (b"\n", b"\r\n\n")])
def test_lines_may_end_as_on_windows_and_every_document_keeps_its_number(tmp_path: Path, paragraph: bytes, blank: bytes) -> None:
    path = tmp_path / "ja.txt.gz"
    texts = [text_of(number).encode().replace(b"\n", paragraph) for number in range(90)]
    path.write_bytes(gzip.compress((paragraph + blank).join(texts)))
    config, out = configure("cc100", path), tmp_path / "out"
    extract.extract(config, out, Executor())
    documents = extracted(out)
    assert documents == whole("cc100", path)[0] and len({document["id"] for document in documents}) == 90
    assert sum(marker["counts"]["documents"] > 0 for marker in extract.read_markers(out, "web")) > 3, "it was not cut"


def test_only_large_files_of_a_corpus_are_cut(tmp_path: Path) -> None:
    files = [tmp_path / f"{n}.xz" for n in range(3)]
    for path, size in zip(files, (2 * SPAN, 2 * SPAN + 1, 3 * SPAN), strict=True):
        path.write_bytes(bytes(size))
    splits = [file_splits("web", "cc100", path, "web", files) for path in files]
    assert [[(p.name, p.start, p.end, p.note) for p in found] for found in splits] == [
        [("0", 0, 2 * SPAN, None)],
        [("1-00000", 0, SPAN, Path()), ("1-00001", SPAN, 2 * SPAN, Path()), ("1-00002", 2 * SPAN, 2 * SPAN + 1, Path())],
        [(f"2-0000{n}", n * SPAN, (n + 1) * SPAN, Path()) for n in range(3)],
    ]
    many = files + [tmp_path / "1.xz"] * (split_module.LARGE_SHARE - 2)
    assert all(len(file_splits("web", "cc100", path, "web", many)) == 1 for path in files[:2])


def cut(path: Path, folder: Path, wanted: set[int]) -> list[InputSplit]:
    splits = [replace(p, note=folder / f"{p.name}.json") for p in file_splits("web", "cc100", path, "web", [path])]
    names = frozenset(p.name for n, p in enumerate(splits) if n in wanted)
    split_file(SplitTask(path, tuple(splits), names), readers.cc100.begins, lambda split: {"of": split.name}, lambda weight: None)
    return splits


def test_what_a_stopped_rank_had_not_cut_fits_to_what_it_had(tmp_path: Path) -> None:
    path = tmp_path / "ja.txt.xz"
    path.write_bytes(lzma.compress(content_of("cc100")))
    everything = range(len(file_splits("web", "cc100", path, "web", [path])))
    once = cut(path, tmp_path / "once", set(everything))
    cut(path, tmp_path / "twice", {0, 1, 4})
    twice = cut(path, tmp_path / "twice", set(everything) - {0, 1, 4})
    contents = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("once", "twice")]
    assert contents[0] == contents[1] and len(contents[0]) == 2 * len(once)
    extents = [extent for split in twice if (extent := extent_of(split)) is not None]
    split_task.require_whole(path, extents)
    extents[0].lines += 1
    with pytest.raises(ConfigError, match=r"its splits do not fit together .* Delete its folder under work/documents and run"):
        split_task.require_whole(path, extents)


def test_a_document_longer_than_a_span_leaves_the_spans_behind_it_empty(tmp_path: Path) -> None:
    path = tmp_path / "ja.txt.gz"
    path.write_bytes(COMPRESS[".gz"](b"short\n\n" + os.urandom(4 * SPAN).hex().encode() + b"\n\nlast\n"))
    extract.extract(configure("cc100", path), tmp_path / "out", Executor())
    assert [(d["id"], len(d["text"])) for d in extracted(tmp_path / "out")] == [("web-1", 5), ("web-2", 8 * SPAN), ("web-3", 4)]


def test_a_split_that_is_done_is_not_cut_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ja.txt.xz"
    path.write_bytes(lzma.compress(content_of("cc100")))
    config, out = configure("cc100", path), tmp_path / "out"
    extract.extract(config, out, Executor())
    before = {file.name: file.read_bytes() for file in (out / "work/documents/web").glob("*.zst")}
    done = sorted((out / "work/documents/web").glob("*.json"))
    done[2].unlink()
    cut_names: list[str] = []
    write_json = split_task.write_json

    def note(path: Path, value: Any) -> None:
        cut_names.append(path.name)
        write_json(path, value)

    monkeypatch.setattr(split_task, "write_json", note)
    extract.extract(config, out, Executor())
    assert cut_names == [done[2].name]
    assert {file.name: file.read_bytes() for file in (out / "work/documents/web").glob("*.zst")} == before


def test_what_was_cut_from_another_file_of_the_same_name_is_not_used(tmp_path: Path) -> None:
    path, out = tmp_path / "ja.txt.xz", tmp_path / "out"
    content = content_of("cc100")
    path.write_bytes(lzma.compress(content))
    config = configure("cc100", path)
    splits = extract.plan_splits(config, out)["web"]
    split_file(
        SplitTask(path, tuple(splits), frozenset(p.name for p in splits)),
        readers.cc100.begins,
        lambda split: extract._settings(split, config),
        lambda weight: None,
    )
    path.write_bytes(lzma.compress(content.replace("番".encode(), "号".encode())))
    extract.extract(config, out, Executor())
    assert all("番" not in document["text"] for document in extracted(out))


def test_a_cut_file_that_ends_early_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "ja.txt.xz"
    path.write_bytes(lzma.compress(content_of("cc100"))[:-50])
    with pytest.raises(InputError, match=rf"{path}: line \d+, byte \d+: .*cut short.*; copy or download it again\."):
        extract.extract(configure("cc100", path), tmp_path / "out", Executor())


def test_an_error_in_a_cut_split_names_the_line_of_the_corpus_file(tmp_path: Path) -> None:
    lines = [orjson.dumps({"text": text_of(number)}) for number in range(90)]
    lines[70] = b"not JSON"
    path = tmp_path / "news.jsonl.gz"
    path.write_bytes(COMPRESS[".gz"](b"\n".join(lines)))
    with pytest.raises(InputError, match=rf"{path}: line 71: not JSON"):
        extract.extract(configure("jsonl", path), tmp_path / "out", Executor())


def test_the_splits_of_a_corpus_are_noted_for_those_who_look_on(tmp_path: Path) -> None:
    path = tmp_path / "news.jsonl"
    path.write_bytes(content_of("jsonl"))
    extract.extract(configure("jsonl", path), tmp_path / "out", Executor())
    planned = read_json(tmp_path / "out/work/documents/web.pieces.json")["pieces"]
    assert sum(size for _, size in planned) == path.stat().st_size
    assert {name for name, _ in planned} == {marker.stem for marker in (tmp_path / "out/work/documents/web").glob("*.json")}
