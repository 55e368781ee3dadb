"""Every character of a normalised text is traced back to where it stood, whatever NFKC does to it."""

from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from jadeberta.finetune.alignment import align
from jadeberta.finetune.encoder import Encoder
from jadeberta.finetune.spans import places_of
from preprocess.text import normalise

ODD = [
    *"アｶﾞﾊﾟｱｲ㌔㍿㈱①ﬁ½Å｢（）「」『』＜ー～Ａａ１。、",
    "か\u3099", "は\u309a", "\uff9e", "\uff9f", "\u3099", "e\u0301", "\u0301", "\u0323", "\u0344", "\u00b4",  # marks
    "\u1112\u1161\u11ab", "\u1161", "\u11ab", "한", "\u09c7\u09be", "\u09be", "\u0cc6\u0cc2\u0cd5",  # starters that join
    " ", "\u3000", "\u00a0", "\u200b", "\u2581", "\ufeff", "\t", "\n", "\x00", "\x1f",  # spaces of all kinds
    "\ud800", "\udc00", "𠮷", "👨‍👩‍👧", "\ufdfa",
]  # fmt: skip
TEXTS = st.lists(st.one_of(st.sampled_from(ODD), st.text(max_size=4)), max_size=12).map("".join)


def squeezed(text: str) -> str:
    return "".join(normalise(text).split())


@given(TEXTS)
@example("ｶ\ud800ﾞ")
@example("\u1112\u200b\u1161")
@settings(max_examples=400, deadline=None)
def test_an_aligned_text_is_the_normalised_one_and_each_span_normalises_to_its_own_characters(text) -> None:
    characters, spans = align(text)
    assert characters == squeezed(text) and len(spans) == len(characters)
    for a, b in pairwise(spans):
        assert a == b or a[1] <= b[0], "spans ascend and are the same or apart"
    for span in set(spans):
        own = "".join(c for c, s in zip(characters, spans, strict=True) if s == span)
        assert squeezed(text[slice(*span)]) == own


def test_joined_and_split_characters_share_the_span_that_they_came_from() -> None:
    assert align("ﾊﾟ㌔ 　か\u3099") == ("パキロが", [(0, 2), (2, 3), (2, 3), (5, 7)])


@given(TEXTS.filter(bool), st.data())
@settings(max_examples=150, deadline=None)
def test_any_stretch_of_a_context_goes_through_pieces_and_comes_back_whole(encoder: Encoder, text, data) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    pieces = encoder([text])[text]
    places = places_of(pieces.spans, start, end)
    seen = [(a, b) for a, b in align(text)[1] if a < end and start < b]
    assert (places is None) == (not seen)
    if places is not None:
        found = pieces.spans[places[0]][0], pieces.spans[places[1]][1]
        assert found[0] <= seen[0][0] and seen[-1][1] <= found[1]
        first, last = pieces.spans[places[0]], pieces.spans[places[1]]
        assert first[1] > start and last[0] < end, "no more than the pieces at the ends are added"


def test_a_piece_that_is_a_word_of_its_own_gives_its_characters_back(encoder: Encoder) -> None:
    text = "Ａ　公園に犬がいる。"
    pieces = encoder([text])[text]
    for word in ("Ａ", "公園", "に", "犬", "が", "いる", "。"):
        places = places_of(pieces.spans, text.index(word), text.index(word) + len(word))
        assert places is not None and text[pieces.spans[places[0]][0] : pieces.spans[places[1]][1]] == word
