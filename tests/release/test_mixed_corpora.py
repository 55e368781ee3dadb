"""The card says how often an epoch sees a corpus only where the run drew by repeats, and of phases those alone that have begun."""

from jadeberta.release.card import _data, _phase, _phases

FINGERPRINTS = {"tokenizer": "0", "shards": "0"}
CORPORA = {"web": {"documents": 5, "sequences": 7, "tokens": 900, "repeats": 3}}
DATA = {
    "corpora": CORPORA,
    "sequence_length": 128,
    "vocab_size": 99,
    "segmenter": {},
    "normaliser": "nfkc",
    "sentence_splitter": "ja",
}
OF_RUN = {"global_batch_size": 8, "mask_probability": None, **dict.fromkeys(("lr", "schedule", "warmup_steps", "decay_steps"))}
BY_WEIGHT, BY_REPEATS = (OF_RUN | {"steps": 5, "mixed": mixed} for mixed in ({"weights": {"web": 1.0}}, {"repeats": {"web": 3}}))


def card(settings: dict) -> str:
    recipe = {"phases": [{"sequence_length": None}] * len(settings.get("phases", []))}
    return _data({"data": DATA, "fingerprints": FINGERPRINTS, "settings": settings, "recipe": recipe, "step": 10})


def test_repeats_are_shown_unless_all_is_drawn_by_weight() -> None:
    for settings in ({}, {"data.weights": {}}, {"phases": [BY_WEIGHT, BY_REPEATS]}):
        assert "| tokens | times in an epoch |\n|---|---|---|---|---|\n| web | 5 | 7 | 900 | 3 |\n" in card(settings)
    for settings in ({"data.weights": {"web": 1.0}}, {"phases": [BY_WEIGHT]}):
        assert "| tokens |\n|---|---|---|---|\n| web | 5 | 7 | 900 |\n" in card(settings)


def test_only_phases_that_have_begun_are_listed_with_the_rows_that_they_have_read() -> None:
    longer = {"web": {"documents": 2, "sequences": 4, "tokens": 1000, "repeats": 3}}
    phases = [
        BY_REPEATS,
        BY_WEIGHT | {"lr": 2e-4, "schedule": "wsd", "decay_steps": 4, "mask_probability": [0.3, 0.15]},
        BY_WEIGHT,
    ]
    state = {
        "data": DATA | {"corpora_of_length": {"256": longer}}, "fingerprints": FINGERPRINTS, "settings": {"phases": phases},
        "recipe": {
            "phases": [{"sequence_length": 256}, {"sequence_length": 256}, {"sequence_length": 128}],
            "training": {"lr": 1e-3, "schedule": "linear"},
        },
        "step": 8,
    }  # fmt: skip
    assert "| sequences of 256 |" in _data(state) and "| web | 2 | 4 | 1,000 | 3 |" in _data(state)
    assert "sequences of 128" not in _data(state)
    done = [(number, _phase(phase, entry, steps, state["recipe"]["training"])) for number, (entry, phase, steps) in
            enumerate(_phases(state), 1) if steps]  # fmt: skip
    assert done == [
        (1, "5 steps of 8 sequences, rows of 256; web x3"),
        (
            2,
            "3 of 5 steps of 8 sequences, rows of 256, masks 30% to 15%, learning rate 0.0002 wsd, 0 steps of warm-up, 4 steps of decay; "
            "web 1",
        ),
    ]
    assert "sequences of 128" in _data(state | {"step": 11}) and "sequences of 256" in _data(state | {"step": 11})
