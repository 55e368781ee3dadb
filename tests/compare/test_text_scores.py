"""Bits per character: equal to a computation by hand, for models of any kind, whatever the number of rows at once."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from jadeberta.compare.evaluate_text import main
from jadeberta.compare.restoring import UNKNOWN_BITS
from jadeberta.compare.text_encoders import TextPieces
from jadeberta.compare.text_files import RawText
from jadeberta.compare.text_models import TextModel, open_model
from jadeberta.compare.text_scores import score_texts
from tests.compare.toy_encoders import write_model
from tests.finetune import toy_model as toy

CPU = torch.device("cpu")
KINDS = ["bert", "roberta", "modernbert", "deberta-v2"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("encoders")
    found = {kind: write_model(folder / kind, kind) for kind in KINDS}
    return found | {"own": toy.make_model(folder / "own")}


def known(unknown: frozenset[int] = frozenset()) -> TextModel:
    """A model that predicts piece p of `abcd…` with the probability 2^-(p+1), whatever is around it, and counts what it was asked."""
    table = torch.full((8,), 0.0, dtype=torch.float64)
    table[:7] = torch.arange(1, 8, dtype=torch.float64) * -math.log(2)
    table[7] = -7 * math.log(2)  # the probabilities add up to 1

    def encode(text: str) -> TextPieces:
        letters = [(ord(c) - 97, place) for place, c in enumerate(text) if not c.isspace()]
        words = np.cumsum([c == " " for c in text])
        return TextPieces([n for n, _ in letters], [(place, place + 1) for _, place in letters], words)

    def logits(ids: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        assert (ids[rows, columns] == 7).all() and (ids == 7).sum() == len(rows)
        return table.expand(len(rows), 8)

    return TextModel("known", encode, logits, lambda c: c, ([], []), 7, unknown, 4)


def test_the_figure_is_that_of_a_computation_by_hand() -> None:
    texts = [RawText("a.txt", "1", "ab c"), RawText("a.txt", "2", "g")]
    one, two = score_texts(known(), texts, 2)
    assert one.bits == pytest.approx(1 + 2 + 3, abs=1e-12) and two.bits == pytest.approx(7, abs=1e-12)
    # Spaces do not count; "a" alone is the likeliest piece.
    assert (one.characters, one.units, one.pieces, one.correct) == (3, 2, 3, 1) and two.correct == 0
    assert [(s.start, s.end, s.bits) for s in one.sentences] == [(0, 4, pytest.approx(6))]


def test_a_text_of_many_windows_adds_up_to_its_pieces() -> None:
    text = " ".join("abcdefg" * 3)
    (score,) = score_texts(known(), [RawText("a", "1", text)], 3)
    assert score.bits == pytest.approx(3 * sum(range(1, 8)), abs=1e-10) and score.units == 21


def test_a_word_that_fits_into_no_window_is_paid_for_whole() -> None:
    model = known()
    model.longest = 8
    (score,) = score_texts(model, [RawText("a", "1", "g" * 40)], 3)
    assert score.bits == pytest.approx(40 * 7, abs=1e-10) and score.pieces == 40


def test_a_piece_of_spaces_alone_costs_nothing() -> None:
    model = known()
    (without,) = score_texts(model, [RawText("a", "1", "ab\n\nc")], 2)

    def encode(text: str) -> TextPieces:
        ids = [6 if c.isspace() else ord(c) - 97 for c in text]
        return TextPieces(ids, [(place, place + 1) for place in range(len(text))], np.arange(len(text)))

    model.encode = encode
    (paid,) = score_texts(model, [RawText("a", "1", "ab\n\nc")], 2)
    assert paid.pieces == 5 and paid.bits == pytest.approx(without.bits) == pytest.approx(6)


def test_characters_that_cannot_be_spelled_cost_one_of_all_code_points() -> None:
    (score,) = score_texts(known(frozenset({2})), [RawText("a", "1", "ab c")], 2)
    assert score.unknown == 1 and score.bits == pytest.approx(6 + UNKNOWN_BITS) and score.correct == 1


@pytest.mark.parametrize("kind", KINDS)
def test_any_encoder_is_measured_and_equals_its_own_logits(models: dict[str, Path], kind: str) -> None:
    model, text = open_model(models[kind], "none", "auto", "", CPU), "犬がいる。ABC公園"
    (score,) = score_texts(model, [RawText("a", "1", text)], 4)
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(models[kind], dtype=torch.float64).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(models[kind])
    encoded = tokenizer(text, return_offsets_mapping=True)
    nats = 0.0
    # Japanese characters are words of their own for this tokenizer, and ABC is one.
    numbers = encoded.word_ids()
    for word in {n for n in numbers if n is not None}:
        places = [place for place, number in enumerate(numbers) if number == word]
        ids = torch.tensor([encoded["input_ids"]])
        wanted = ids[0, places].clone()
        ids[0, places] = tokenizer.mask_token_id
        with torch.inference_mode():
            found = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, places].log_softmax(-1)
        nats -= found.gather(1, wanted[:, None]).sum().item()
    assert score.predicted_bits == pytest.approx(nats / math.log(2), rel=1e-5)
    # 園 is [UNK] behind 公: the vocabulary has it inside words alone. ABC was made small.
    unknown = [t for t in tokenizer.convert_ids_to_tokens(encoded["input_ids"]) if t == "[UNK]"]
    assert score.unknown == len(unknown) > 0 and score.changed == 3 and score.characters == len(text)
    assert score.bits > score.predicted_bits + score.unknown * UNKNOWN_BITS


def test_the_number_of_rows_at_once_changes_nothing(models: dict[str, Path]) -> None:
    texts = [RawText("a", str(n), "犬がいる。" * n + "公園は広い") for n in (1, 2, 30)]
    for kind, segmenter in (("bert", "none"), ("own", None)):
        model = open_model(models[kind], segmenter, "auto", "", CPU)
        one, many = (score_texts(model, texts, size) for size in (1, 7))
        for a, b in zip(one, many, strict=True):
            assert a.bits == pytest.approx(b.bits, rel=1e-6) and (a.correct, a.units, a.unknown) == (
                b.correct,
                b.units,
                b.unknown,
            )


def test_a_model_of_words_is_cut_into_words_and_its_width_is_paid_for(models: dict[str, Path]) -> None:
    model = open_model(models["own"], None, "auto", "", CPU)
    assert model.facts["words"] == "words of mecab" and model.facts["segmenter"] == "mecab"
    pieces = model.encode("公園に犬がいる。")
    assert pieces.words.tolist() == [1, 1, 2, 3, 4, 5, 5, 6]
    wide, plain = score_texts(model, [RawText("a", "1", "公園 に犬、メモ1"), RawText("a", "2", "公園 に犬、ﾒﾓ１")], 8)
    assert plain.changed == 3 and wide.changed == 0 and plain.characters == wide.characters == 9 - 1
    assert plain.predicted_bits == pytest.approx(wide.predicted_bits, rel=1e-6) and plain.bits > wide.bits + 3


def test_the_words_can_be_the_same_for_all_models(models: dict[str, Path]) -> None:
    text = "公園に犬がいる。"
    ours, theirs = (
        open_model(models[kind], segmenter, "mecab", "", CPU).encode(text).words.tolist()
        for kind, segmenter in (("own", None), ("bert", "none"))
    )
    assert ours == theirs == [1, 1, 2, 3, 4, 5, 5, 6]


def test_a_special_token_that_a_text_spells_is_text(models: dict[str, Path]) -> None:
    for kind, segmenter in (("bert", "none"), ("own", None)):
        model = open_model(models[kind], segmenter, "auto", "", CPU)
        assert model.mask not in model.encode("犬[MASK]猫").ids


def test_the_command_writes_figures_with_intervals_and_hashes(models: dict[str, Path], tmp_path: Path, capsys) -> None:
    (tmp_path / "a.txt").write_text("犬がいる。\n猫がいる。\n\n公園は広い。\n")
    (tmp_path / "b.jsonl").write_text('{"text": "犬は広い。"}\n{"text": ""}\n{"text": "猫がいる。"}\n')
    files = [str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl")]
    assert main(["text", "--model", str(models["own"]), "--texts", *files, "--output", str(tmp_path / "o.json")]) == 0
    found = json.loads((tmp_path / "o.json").read_text())
    assert found == json.loads(capsys.readouterr().out)
    assert found["documents"] == 4 and found["characters"] == 26 and set(found["files"]) == {"a.txt", "b.jsonl"}
    low, high = found["interval"]["bits_per_character"]
    assert low < found["bits_per_character"] < high
    assert found["bits_per_character"] * 26 == pytest.approx(sum(found["bits"].values()))
    assert len(found["weights_sha256"]) == 64 and len(found["texts"][files[0]]) == 64
    assert found["rejected_texts"] == 0


def test_a_text_that_the_segmenter_rejects_is_counted_and_its_words_are_runs_of_one_script(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from preprocess.segmenters import Rejected
    from preprocess.segmenters.mecab import Mecab

    asked = Mecab.segment
    monkeypatch.setattr(
        Mecab,
        "segment",
        lambda own, lines: [Rejected("crash", "猫") if "猫" in line else asked(own, [line])[0] for line in lines],
    )
    (tmp_path / "a.txt").write_text("猫がいる。\n\n公園は広い。\n")
    assert main(["text", "--model", str(models["own"]), "--texts", str(tmp_path / "a.txt")]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["rejected_texts"] == 1 and "gave no words for 1 of 2 texts" in printed.err
    pieces = open_model(models["own"], None, "auto", "", CPU).encode("猫がいる。")
    assert pieces.is_rejected and np.diff(pieces.words).tolist() == [1, 0, 0, 1]
