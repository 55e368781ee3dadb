"""From logits to an answer, and what the model reads of a context longer than a window."""

import itertools

import numpy as np
import pytest
from transformers import AutoTokenizer

from jadeberta.finetune.encoder import Encoder, Pieces
from jadeberta.finetune.features import STRIDE, collator, examples_of, texts_of
from jadeberta.finetune.jglue_files import JglueRow
from jadeberta.finetune.scoring import ceiling, predict, score
from jadeberta.finetune.spans import BEST, LONGEST, Window, best_span
from jadeberta.finetune.tasks import TASKS

JSQUAD = TASKS["jsquad"]


def brute_force(windows: list[Window]) -> tuple[int, int]:
    """The best of all pairs, looked at one by one."""
    pairs = [
        (w.starts[a] + w.ends[b], w.spans[a][0], w.spans[b][1])
        for w in windows
        for a, b in itertools.product(range(len(w.spans)), repeat=2)
        if a <= b < a + LONGEST
    ]
    return max(pairs)[1:]


@pytest.mark.parametrize("seed", range(5))
def test_the_best_span_of_all_windows_is_found(seed) -> None:
    generator = np.random.default_rng(seed)
    windows = []
    for at in (0, 10):
        starts, ends = generator.normal(size=(2, BEST)).astype(np.float32)
        windows.append(Window(starts, ends, np.array([(2 * n, 2 * n + 1) for n in range(at, at + BEST)])))
    assert best_span(windows) == brute_force(windows)


def test_an_answer_does_not_end_before_it_begins_nor_grow_too_long() -> None:
    starts, ends = np.zeros(60, np.float32), np.zeros(60, np.float32)
    spans = np.array([(n, n + 1) for n in range(60)])
    starts[20], ends[10], ends[20 + LONGEST], ends[25] = 9, 9, 8, 5
    assert best_span([Window(starts, ends, spans)]) == (20, 26)
    assert best_span([]) == (0, 0)


def test_a_lone_word_mark_begins_and_ends_no_answer() -> None:
    """Pieces without characters: the highest logits of all stand there."""
    starts = ends = np.array([5, 4.9, 0], np.float32)
    assert best_span([Window(starts, ends, np.array([(0, 0), (0, 1), (1, 2)]))]) == (0, 1)
    assert best_span([Window(starts, ends, np.array([(0, 0)] * 3))]) == (0, 0)
    empty = np.zeros(0, np.float32)
    assert best_span([Window(empty, empty, np.zeros((0, 2), np.int32))]) == (0, 0)
    many = np.array([(n // 2, n // 2 + n % 2) for n in range(4 * BEST)])  # every other piece is empty, and has the higher logit
    logits = np.where(np.arange(4 * BEST) % 2, 1, 2).astype(np.float32)
    assert best_span([Window(logits, logits, many)]) == (0, 1)


def long_row(pieces: int) -> tuple[JglueRow, dict[str, Pieces]]:
    """A question of three pieces about a context of so many, one a character; the answer is near the end."""
    context = "".join(chr(0x4E00 + n) for n in range(pieces))
    at = pieces - 30
    row = JglueRow("q", ("t",), ("何", context), answers=((context[at : at + 2], at),))
    return row, {
        "何": Pieces(np.array([7, 8, 9]), np.array([(0, 1)] * 3)),
        context: Pieces(np.arange(10, 10 + pieces), np.array([(n, n + 1) for n in range(pieces)])),
    }


def test_a_context_longer_than_a_window_is_read_in_overlapping_ones_and_the_answer_is_marked_where_it_is_whole(encoder) -> None:
    row, pieces = long_row(400)
    examples = examples_of([row], JSQUAD, pieces, encoder, 300)
    room = 300 - 6
    assert [e.spans[0][0] for e in examples] == [0, STRIDE] and all(e.length <= 300 for e in examples)
    assert {n for e in examples for n, _ in e.spans} == set(range(400)), "every piece is in some window"
    assert examples[0].ids[0].tolist() == [encoder.cls, 7, 8, 9, encoder.sep, *range(10, 10 + room), encoder.sep]
    assert [e.places for e in examples] == [(0, 0), (5 + 370 - STRIDE, 5 + 371 - STRIDE)]
    assert set(ceiling(JSQUAD, [row], examples).values()) == {1}


def test_logits_that_point_at_the_answer_give_its_text_back_and_logits_outside_the_context_count_for_nothing(encoder) -> None:
    row, pieces = long_row(400)
    examples = examples_of([row], JSQUAD, pieces, encoder, 300)
    answers = []
    for example in examples:
        starts, ends = np.full((2, 300), -5, np.float32)
        starts[0] = ends[0] = 50
        if example.places != (0, 0):
            starts[example.places[0]] = ends[example.places[1]] = 5
        answers.append((starts, ends))
    found = predict(JSQUAD, [row], examples, answers)
    assert found == [row.answers[0][0]] and set(score(JSQUAD, [row], found).values()) == {1}


def test_title_and_text_of_a_context_are_cut_apart_and_an_answer_keeps_its_place(encoder: Encoder) -> None:
    context = "ﾒﾓ [SEP] 公園に犬がいる。"
    row = JglueRow("q", ("t",), ("何がいるか。", context), answers=(("犬", context.index("犬")),))
    assert texts_of(row, JSQUAD) == ["何がいるか。", "ﾒﾓ", "公園に犬がいる。"]
    (example,) = examples_of([row], JSQUAD, encoder(texts_of(row, JSQUAD)), encoder, 64)
    assert (example.ids[0] == encoder.sep).sum() == 3, "after the question, between title and text, at the end"
    first, last = (example.spans[place - example.offset] for place in example.places)
    assert context[first[0] : last[1]] == "犬"


@pytest.mark.parametrize("max_length", [8, 9, 11, 14, 17, 64])
def test_a_pair_is_joined_and_cut_as_hugging_faces_tokenizer_does_it(model, encoder: Encoder, max_length) -> None:
    texts = ["公園に犬がいる。", "猫がいる。", "学校に鳥がいるが、海は広い。", "犬"]
    words = ["公園 に 犬 が いる 。", "猫 が いる 。", "学校 に 鳥 が いる が 、 海 は 広い 。", "犬"]
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = [JglueRow("1", ("g",), (a, b)) for a in texts for b in texts]
    theirs = [tokenizer(a, b, truncation="longest_first", max_length=max_length)["input_ids"] for a in words for b in words]
    ours = [e.ids[0].tolist() for e in examples_of(rows, TASKS["jnli"], encoder(texts), encoder, max_length)]
    assert ours == theirs
    (single,) = examples_of([JglueRow("1", ("g",), (texts[0],))], TASKS["marc-ja"], encoder(texts), encoder, max_length)
    assert single.ids[0].tolist() == tokenizer(words[0], truncation=True, max_length=max_length)["input_ids"]


def test_what_is_cut_off_is_counted_by_row(encoder: Encoder) -> None:
    def truncated(task: str, max_length: int, *texts: str) -> list[bool]:
        row = JglueRow("1", ("g",), texts)
        examples = examples_of([row], TASKS[task], encoder(texts_of(row, TASKS[task])), encoder, max_length)
        return [example.is_truncated for example in examples]

    long, short = "学校に鳥がいるが、海は広い。", "犬"
    sizes = {text: len(found.ids) for text, found in encoder([long, short]).items()}
    assert [truncated("marc-ja", sizes[long] + more, long) for more in (1, 2)] == [[True], [False]]
    pair = sizes[long] + sizes[short]
    assert [truncated("jnli", pair + more, long, short) for more in (2, 3)] == [[True], [False]]
    assert [truncated("jcommonsenseqa", pair + more, short, short, long, short) for more in (2, 3)] == [[True], [False]]
    assert [set(truncated("jsquad", n, long, long * 20)) for n in (2 * sizes[long] - 2, 2 * sizes[long])] == [{True}, {False}]


def test_a_batch_of_choices_has_a_row_for_each_choice_and_padding_is_masked(encoder: Encoder) -> None:
    task = TASKS["jcommonsenseqa"]
    rows = [JglueRow("1", ("g",), ("何がいるか。", "犬", "猫", "鳥", "公園に犬がいる。", "海"), 3)]
    examples = examples_of(rows, task, encoder(texts_of(rows[0], task)), encoder, 64)
    batch = collator("choice", encoder.pad)(examples)
    assert batch["input_ids"].shape == batch["attention_mask"].shape and batch["input_ids"].shape[:2] == (1, 5)
    assert batch["labels"].tolist() == [3]
    assert (batch["attention_mask"].sum(-1)[0].tolist()) == [len(ids) for ids in examples[0].ids]
    assert (batch["input_ids"] == encoder.pad).equal(batch["attention_mask"] == 0)
