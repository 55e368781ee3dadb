"""Counts of the segment stage: every sentence is in the words or in the rejects, and some are segmented again among others."""

import json
import re
from pathlib import Path

import pytest
import xxhash

from preprocess.config import SegmenterConfig
from preprocess.corpus_report import print_report, write_report
from preprocess.executors.executor import Executor
from preprocess.segmenters import open_segmenter
from preprocess.segmenters.recheck import ONE_IN, Differing, Recheck
from preprocess.stages.segment import segment
from preprocess.text import split_sentences
from preprocess.workdir import list_words, read_words
from tests.preprocess.jumanpp_standin import config
from tests.preprocess.stages.test_segment import configure, put_documents

FAULTS = {"ABORT": "悪い", "NONSENSE": "偽り", "VANISH": "消える", "TWICE": "二重", "GARBAGE": "化ける"}
HOSTILE = [
    *("# 見出し\n本文。悪い文。次の文。", "EOS\n@ x\n+ y\n* z\nEOS EOS", "偽りを言う。👨‍👩‍👧‍👦と🇯🇵。𠮷野家で\U0002a700を。"),
    *(
        "消える文。" * 3,
        '"引用"。<b>太字</b>。二重の文。\\n',
        "前\x00後\n前　後\n\tタブ\n \n\u3000\n",
        "化ける。３．\n4・\n千·",
        "",
    ),
    *("ｗ" * 3000 + "。" + "あ" * 9000, "# " * 50 + "\n" + "。" * 200 + "笑" * 400, "外国人参政権。" * 30),
]


def test_every_sentence_of_every_document_is_in_the_words_or_in_the_rejects(tmp_path: Path, monkeypatch) -> None:
    for name, text in FAULTS.items():
        monkeypatch.setenv(f"STANDIN_{name}", text)
    parts = [HOSTILE[:5], HOSTILE[5:]]
    put_documents(tmp_path, "ja", parts)
    put_documents(tmp_path, "web", [["文。"]])
    summary = segment(configure(config()), tmp_path, Executor())
    rejects: dict[tuple[str, int], dict] = {}
    for path in tmp_path.glob("work/words/ja/*.rejects.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rejects |= {(row["id"], row["sentence number"]): row for row in rows}
    rows = [row for part in list_words(tmp_path, "ja") for row in read_words(part)]
    texts = [text for part in parts for text in part]
    assert len(rows) == len(texts)
    for text, row in zip(texts, rows, strict=True):
        words = iter(row["sentences"])
        for number, sentence in enumerate(split_sentences(text), 1):
            if (reject := rejects.pop((row["id"], number), None)) is not None:
                assert reject["sentence"] == sentence and reject["reason"] in ("crash", "mismatch")
                assert any(trigger in sentence for trigger in FAULTS.values())
            else:
                assert "".join(next(words).split(" ")) == "".join(sentence.split())
        assert not list(words)
    assert not rejects
    counts = summary["ja"]
    assert counts["sentences_in"] == sum(len(split_sentences(text)) for text in texts)
    assert counts["sentences_in"] == counts["sentences"] + sum(counts["quarantined"].values())
    assert counts["quarantined"] == {"crash": 1, "mismatch": 6} and counts["restarts"] > 0


def test_sentence_whose_words_depend_on_its_neighbours_is_found_by_asking_again(monkeypatch) -> None:
    sentences = ["a", "猫の声。", "漢字"]
    with open_segmenter(config()) as segmenter:
        sound, faulty = Recheck(one_in=1), Recheck(one_in=1)
        sound.add("ja-1", sentences, *segmenter.segment_groups([sentences]))
        assert (sound.sentences, sound.differing(segmenter)) == (3, [])
        monkeypatch.setenv("STANDIN_ORDER", "猫")
        faulty.add("ja-1", sentences, *segmenter.segment_groups([sentences]))
        assert faulty.differing(segmenter) == [Differing("猫の声。", "猫 の 声。", "猫 の 声 。")]


def test_rejected_sentences_are_not_asked_again(monkeypatch) -> None:
    monkeypatch.setenv("STANDIN_ABORT", "悪い")
    with open_segmenter(config()) as segmenter:
        recheck = Recheck(one_in=1)
        recheck.add("ja-1", ["悪い文。", "文。"], *segmenter.segment_groups([["悪い文。", "文。"]]))
        restarts = segmenter.restarts
        assert recheck.sentences == 1 and recheck.differing(segmenter) == []
        assert segmenter.restarts == restarts


@pytest.mark.parametrize("faulty", [False, True])
def test_stage_counts_what_it_asked_again_and_names_what_differed(tmp_path: Path, monkeypatch, faulty: bool) -> None:
    chosen = next(n for n in range(100_000) if xxhash.xxh3_64_intdigest(f"ja-00000-{n}".encode()) % ONE_IN == 0)
    put_documents(tmp_path, "ja", [["。"] * chosen + ["a\n猫の声。"]])
    put_documents(tmp_path, "web", [["文。"]])
    if faulty:
        monkeypatch.setenv("STANDIN_ORDER", "猫")
    counts = segment(configure(config()), tmp_path, Executor())["ja"]
    assert (counts["order_checked"], counts["order_dependent"]) == (2, int(faulty))
    notes = [json.loads(line) for path in tmp_path.glob("work/words/ja/*.order.jsonl") for line in path.read_text().splitlines()]
    assert [note["sentence"] for note in notes] == ["猫の声。"] * faulty


def test_report_has_the_counts_of_every_corpus_as_json_and_as_a_table(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("STANDIN_ABORT", "悪い")
    put_documents(tmp_path, "ja", [["良い文。悪い文。悪い文だ。良い文。"]])
    put_documents(tmp_path, "web", [["良い文。"]])
    segmented = segment(configure(config()), tmp_path, Executor())
    extracted = {"documents": 1, "bytes": 54, "dropped": {"redirect": 7}, "files": {}}
    stages = {"extract": {"ja": extracted, "web": {**extracted, "dropped": {}}}, "segment": segmented}
    write_report(tmp_path, {name: {"result": result, "seconds": 1.0, "ranks": 1} for name, result in stages.items()})
    report = json.loads((tmp_path / "report.json").read_text())
    ja = report["segment"]["result"]["ja"]
    assert {key: ja[key] for key in ("documents", "sentences_in", "sentences", "words", "bytes", "quarantined")} == {
        "documents": 1, "sentences_in": 4, "sentences": 2, "words": 8, "bytes": 30, "quarantined": {"crash": 2},
    }  # fmt: skip
    assert ja["restarts"] > 0 and ja["seconds"] > 0
    print_report(report)
    rows = [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    shown = {name: cells for name, *cells in rows}
    expected = {"documents": ["1", "1"], "dropped: redirect": ["7", "0"], "sentences in": ["4", "1"], "sentences out": ["2", "1"]}
    expected |= {"quarantined: crash": ["2", "0"], "words": ["8", "4"], "segmenter restarts": [str(ja["restarts"]), "0"]}
    assert {name: shown[name] for name in expected} == expected


def test_a_line_of_thousands_of_digits_costs_no_document_and_is_counted_as_cut(tmp_path: Path, capsys) -> None:
    digits = "1" * 140_000
    put_documents(tmp_path, "ja", [["東京の塔は高い。", f"数字の頁。\n{digits}", "京都の寺は古い。"]])
    put_documents(tmp_path, "web", [["文。"]])
    summary = segment(configure(SegmenterConfig("mecab")), tmp_path, Executor())
    rows = [row["sentences"] for part in list_words(tmp_path, "ja") for row in read_words(part)]
    assert rows[0] == ["東京 の 塔 は 高い 。"] and rows[2] == ["京都 の 寺 は 古い 。"] and rows[1][0] == "数字 の 頁 。"
    assert rows[1][1].replace(" ", "") == digits
    assert summary["ja"]["sentences_cut"] == 1 and summary["ja"]["quarantined"] == {} and summary["web"]["sentences_cut"] == 0
    report = write_report(tmp_path, {"segment": {"result": summary, "seconds": 1.0, "ranks": 1}})
    print_report(report)
    assert re.search(r"cut for the segmenter +1 +0", capsys.readouterr().out)


def test_mecab_is_asked_again_like_any_other_engine(tmp_path: Path) -> None:
    put_documents(tmp_path, "ja", [[f"{number}匹の猫が京都大学で鳴いた。" for number in range(2000)]])
    put_documents(tmp_path, "web", [["文。"]])
    counts = segment(configure(SegmenterConfig("mecab")), tmp_path, Executor())["ja"]
    assert counts["order_checked"] > 0 and counts["order_dependent"] == 0
