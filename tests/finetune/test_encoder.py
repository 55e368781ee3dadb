"""Text reaches the model as in pre-training: by the engine that its metadata names, or not at all."""

from pathlib import Path
from typing import Any

import orjson
import pytest
import sentencepiece

from jadeberta.errors import CheckpointError, ConfigError, InputError, SegmenterError
from jadeberta.finetune.dataset import read_data
from jadeberta.finetune.encoder import Encoder, open_engine
from jadeberta.finetune.grid import FinetuneConfig
from jadeberta.finetune.tasks import TASKS
from jadeberta.release.origin import ORIGIN_NAME, read_origin, write_origin
from preprocess.config import SegmenterConfig
from preprocess.segmenters import Answer, Rejected
from preprocess.segmenters.mecab import Mecab
from tests.finetune import toy_model as toy

HERE = Path("model")


def origin(**changes: Any) -> dict[str, Any]:
    return toy.ORIGIN | changes


def test_the_engine_is_the_one_that_the_model_names() -> None:
    segmenter, remarks = open_engine(origin(), HERE, None, "")
    assert segmenter.description["engine"] == "mecab" and remarks == []
    segmenter, remarks = open_engine(origin(segmenter={"engine": "mecab", "version": "fugashi 0.1"}), HERE, "mecab", "")
    assert len(remarks) == 1 and "'fugashi 0.1'" in remarks[0]


@pytest.mark.parametrize(
    "known,engine,message",
    [
        (None, None, "model does not say which word segmenter .* --segmenter .jumanpp, juman, mecab."),
        (origin(), "jumanpp", "pre-trained on words of mecab, not of jumanpp"),
        (origin(normaliser="nfc-0"), None, "normaliser nfc-0, this version has"),
        (origin(segmenter={"engine": "sudachi"}), None, "words of 'sudachi', which is none of jumanpp, juman, mecab"),
    ],
)
def test_another_engine_or_normaliser_is_refused_with_both_named(known, engine, message) -> None:
    with pytest.raises(ConfigError, match=message):
        open_engine(known, HERE, engine, "")


def test_a_model_of_characters_reads_its_text_uncut() -> None:
    known = origin(word_starts="documents", segmenter={"engine": "jumanpp"})
    segmenter, remarks = open_engine(known, HERE, None, "")
    assert segmenter.segment(["京都大学は New York 。"]) == [["京都大学は", "New", "York", "。"]] and remarks == []


def test_where_the_models_engine_is_not_installed_no_other_takes_its_place() -> None:
    with pytest.raises(SegmenterError, match="/nowhere/jumanpp"):
        open_engine(origin(segmenter={"engine": "jumanpp"}), HERE, None, "/nowhere/jumanpp")


def test_what_export_wrote_is_read_back_and_a_damaged_file_is_not_taken_for_a_missing_one(tmp_path) -> None:
    assert read_origin(tmp_path) is None
    write_origin(tmp_path, toy.ORIGIN)
    assert read_origin(tmp_path) == toy.ORIGIN
    write_origin(tmp_path, toy.ORIGIN | {"word_starts": "documents"})
    assert read_origin(tmp_path) == toy.ORIGIN | {"word_starts": "documents"}
    (tmp_path / ORIGIN_NAME).write_text('{"segmenter": "mecab"}')
    with pytest.raises(CheckpointError, match="does not record how the pre-training text was made"):
        read_origin(tmp_path)


def test_pieces_are_those_of_raw_sentencepiece_on_the_segmented_text(model, encoder: Encoder) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model / "spm.model"))
    assert encoder(["公園に犬が いる。"])["公園に犬が いる。"].ids.tolist() == processor.encode("公園 に 犬 が いる 。")
    special = encoder(["[MASK]犬[SEP]"])["[MASK]犬[SEP]"].ids
    assert not {processor.piece_to_id("[MASK]"), encoder.sep, encoder.cls} & set(special.tolist()), (
        "a text cannot ask for a special token"
    )


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path, encoder) -> None:
    (tmp_path / "spm.model").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"spm.model: no sentencepiece model"):
        Encoder(tmp_path / "spm.model", encoder.segmenter)


class Picky(Mecab):
    """Gives no words for sentences with 猫."""

    def _tokenize(self, lines: list[str]) -> list[Answer]:
        return [
            Rejected("crash", "猫") if "猫" in line else answer
            for line, answer in zip(lines, super()._tokenize(lines), strict=True)
        ]


def test_a_text_without_words_leaves_training_but_is_scored_as_one_word_and_both_are_counted(model, tmp_path) -> None:
    picky = Encoder(model / "spm.model", Picky(SegmenterConfig(engine="mecab")))
    task = TASKS["jsts"]
    folder = toy.write_task(tmp_path, "jsts", train=9, valid=6) / "jsts-v1.3"
    data = read_data(task, {s: folder / f"{s}-v1.3.json" for s in ("train", "valid")}, picky, FinetuneConfig(8, 32))
    assert data.counts()["rows"] == {"train": 6, "valid": 6}
    assert data.rejected == {"train": {"crash": 2}, "valid": {"crash": 2}}, "each text counts once, wherever it stands"
    assert len(data.splits["valid"].examples) == 6
    (folder / "train-v1.3.json").write_bytes(orjson.dumps(toy.rows_of("jsts", 2)[1]))
    files = {split: folder / f"{split}-v1.3.json" for split in ("train", "valid")}
    with pytest.raises(InputError, match=r"train-v1.3.json: the segmenter gave no words for any of its rows"):
        read_data(task, files, picky, FinetuneConfig(8, 32))
    with pytest.raises(InputError, match=r"train-v1.3.json: too many of its rows share images or sentences"):
        read_data(task, files, picky, FinetuneConfig(8, 32, choose_on="fold"))
    text = toy.sentence(1, "猫")
    pieces = picky([text])[text]
    assert pieces.rejected and sum(end - start for start, end in set(map(tuple, pieces.spans))) == len(text)
