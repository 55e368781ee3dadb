"""The card says how often an epoch sees a corpus only where the run drew by repeats."""

from jadeberta.release.card import _data

CORPORA = {"web": {"documents": 5, "sequences": 7, "tokens": 900, "repeats": 3}}
DATA = {
    "corpora": CORPORA,
    "sequence_length": 128,
    "vocab_size": 99,
    "segmenter": {},
    "normaliser": "nfkc",
    "sentence_splitter": "ja",
}
BY_WEIGHT, BY_REPEATS = {"mixed": {"weights": {"web": 1.0}}}, {"mixed": {"repeats": {"web": 3}}}


def card(settings: dict) -> str:
    return _data({"data": DATA, "fingerprints": {"tokenizer": "0", "shards": "0"}, "settings": settings})


def test_repeats_are_shown_unless_all_is_drawn_by_weight() -> None:
    for settings in ({}, {"data.weights": {}}, {"phases": [BY_WEIGHT, BY_REPEATS]}):
        assert "| tokens | times in an epoch |\n|---|---|---|---|---|\n| web | 5 | 7 | 900 | 3 |\n" in card(settings)
    for settings in ({"data.weights": {"web": 1.0}}, {"phases": [BY_WEIGHT]}):
        assert "| tokens |\n|---|---|---|---|\n| web | 5 | 7 | 900 |\n" in card(settings)
