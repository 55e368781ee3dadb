"""Encoders: the ids of the tokenizer's own library, special tokens by role, and no special token out of a text."""

import json
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer

from jadeberta.errors import ConfigError
from preprocess.tokenization.encoders import Encoder, find_tokenizer, open_encoder
from tests.preprocess import small_tokenizers as small

HARD = [
    "京都の大学で自然を読む。",
    " 先頭 と  二つの空白 ",
    "𠮷野家で☃を ＡＢＣ ｶﾀｶﾅ",
    "1,234円とNew York    !",
    "a",
    "改行\nの ある\n\n文",
    "\tタブ　全角",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for name, make in small.LAYOUTS.items():
        folder = tmp_path_factory.mktemp(name)
        found[name] = make(folder)
    return found


@pytest.fixture(scope="module")
def encoders(made: dict[str, Path]) -> dict[str, Encoder]:
    return {name: open_encoder(find_tokenizer(path)) for name, path in made.items()}


def by_text(encoder: Encoder, texts: list[str]) -> list[list[int]]:
    found = encoder.encode(texts)
    ends = found.lengths.cumsum().tolist()
    return [found.ids[end - length : end].tolist() for end, length in zip(ends, found.lengths.tolist(), strict=True)]


def own_ids(path: Path, texts: list[str]) -> list[list[int]]:
    """What the library of the tokenizer gives."""
    if path.is_dir() and (path / "tokenizer.json").exists():
        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        return [one.ids for one in tokenizer.encode_batch(texts, add_special_tokens=False)]
    model = next(path.glob("*.model")) if path.is_dir() else path
    return sentencepiece.SentencePieceProcessor(model_file=str(model)).encode(texts)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", small.LAYOUTS)
def test_ids_are_those_of_the_tokenizers_own_library(made: dict[str, Path], encoders: dict[str, Encoder], name: str) -> None:
    texts = HARD + small.TEXTS
    assert by_text(encoders[name], texts) == own_ids(made[name], texts)


@pytest.mark.parametrize("name", small.LAYOUTS)
def test_places_and_words_have_the_same_ids(encoders: dict[str, Encoder], name: str) -> None:
    encoder, texts = encoders[name], HARD + small.TEXTS[:20]
    ids = encoder.encode(texts).ids.tolist()
    placed = encoder.encode_placed(texts)
    found, starts = encoder.encode_words(texts)
    assert placed.ids.tolist() == found.ids.tolist() == ids and len(starts) == len(placed.spans) == len(ids)
    assert (placed.spans[:, 0] <= placed.spans[:, 1]).all() and 0 < starts.sum() <= len(starts)


ROLES = {
    "ku_nlp_v3": (0, 1, 2, 3, 4),
    "llm_jp": ("<PAD|LLM-jp>", "<CLS|LLM-jp>", "<SEP|LLM-jp>", "<unk>", "<MASK|LLM-jp>"),
    "sarashina": (3, 1, 2, 0, "<mask>"),
    "spm_words": (3, 1, 2, 0, "<mask>"),
    "tohoku": (0, 2, 3, 1, 4),
    "modernbert": (403, 401, 402, 400, 404),
    "xlm_r": (1, 0, 2, 3, 250),
}


@pytest.mark.parametrize("name", small.LAYOUTS)
def test_special_tokens_are_found_by_role(encoders: dict[str, Encoder], name: str) -> None:
    special = encoders[name].special
    found = (special.pad, special.cls, special.sep, special.unk, special.mask)
    expected = ROLES[name]
    assert [encoders[name].name_of(n) if isinstance(e, str) else n for n, e in zip(found, expected, strict=True)] == list(
        expected
    )  # type: ignore[arg-type]
    assert max(special.ids) < encoders[name].vocab_size


@pytest.mark.parametrize("name", small.LAYOUTS)
def test_special_tokens_that_a_text_spells_stay_text(encoders: dict[str, Encoder], name: str) -> None:
    encoder = encoders[name]
    names = [text for n in encoder.special.ids if n != encoder.special.unk and (text := encoder.name_of(n))]
    texts = [*names, *(f"京都{text}大学 {text} の" for text in names)]
    specials = set(encoder.special.ids) - {encoder.special.unk}
    assert all(not specials & set(ids) and ids for ids in by_text(encoder, texts))


def edit(folder: Path, file: str, **changes: object) -> None:
    document = json.loads((folder / file).read_text(encoding="utf-8"))
    document = {key: value for key, value in (document | changes).items() if value is not None}
    (folder / file).write_text(json.dumps(document), encoding="utf-8")


def test_a_padding_token_that_is_missing_or_also_ends_texts_is_an_id_behind_the_others(
    made: dict[str, Path], tmp_path: Path
) -> None:
    folder = small.copied(made["tohoku"], tmp_path / "eos")
    edit(folder, "tokenizer_config.json", pad_token="[SEP]")
    encoder = open_encoder(find_tokenizer(folder))
    assert encoder.special.pad == 300 and encoder.vocab_size == 301 and encoder.name_of(300) is None
    model = tmp_path / "nopad.model"
    model.write_bytes(small.train_model(control_symbols="<mask>"))
    assert open_encoder(find_tokenizer(model)).special.pad == 420


def test_one_token_for_both_borders_is_cls_and_sep(made: dict[str, Path], tmp_path: Path) -> None:
    folder = small.copied(made["modernbert"], tmp_path / "gpt")
    edit(folder, "tokenizer_config.json", cls_token="[SEP]", unk_token="[SEP]")
    special = open_encoder(find_tokenizer(folder)).special
    assert special.cls == special.sep == 402 and special.unk is None and 401 in special.others


def test_what_a_tokenizer_lacks_is_said_in_one_sentence(made: dict[str, Path], tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(ConfigError) as found:
            open_encoder(find_tokenizer(path))
        assert "\n" not in str(found.value)
        return str(found.value)

    (tmp_path / "plain.model").write_bytes(small.train_model())
    assert "has no mask token" in refused(tmp_path / "plain.model")
    (tmp_path / "borderless.model").write_bytes(small.train_model(bos_id=-1, eos_id=-1, control_symbols="<mask>"))
    assert "no token for the borders of a document" in refused(tmp_path / "borderless.model")
    assert "no such file or directory" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds neither tokenizer.json nor a sentencepiece model" in refused(tmp_path / "empty")
    (tmp_path / "damaged.model").write_bytes((tmp_path / "plain.model").read_bytes()[:-9])
    assert "no sentencepiece model" in refused(tmp_path / "damaged.model")
    folder = small.copied(made["xlm_r"], tmp_path / "cut")
    whole = (folder / "tokenizer.json").read_bytes()
    for content in (b"", b"[]", b"{}", whole[:-20]):
        (folder / "tokenizer.json").write_bytes(content)
        assert "no tokenizer.json of a Hugging Face fast tokenizer" in refused(folder)
    assert "Name its directory" in refused(folder / "tokenizer.json")
    (folder / "tokenizer.json").unlink()
    (folder / "sentencepiece.bpe.model").write_bytes((tmp_path / "plain.model").read_bytes())
    edit(folder, "tokenizer_config.json", tokenizer_class="XLMRobertaTokenizer")
    assert "its ids are not those of its sentencepiece model" in refused(folder)
    both = small.copied(made["ku_nlp_v3"], tmp_path / "both")
    edit(both, "special_tokens_map.json", mask_token="[CLS]")
    assert "mask" in refused(both)


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as found:
        open_encoder(find_tokenizer(path)).encode(["京都の𠮷野家"])
    assert "\n" not in str(found.value)
    return str(found.value)


def added(number: int, content: str) -> dict[str, object]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, "special": True, **flags}


def test_of_several_masks_one_must_be_named(made: dict[str, Path], tmp_path: Path) -> None:
    folder = small.copied(made["tohoku"], tmp_path / "two")
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    edit(folder, "tokenizer.json", added_tokens=[*document["added_tokens"], added(300, "<|mask|>")])
    assert open_encoder(find_tokenizer(folder)).special.mask == 4
    edit(folder, "tokenizer_config.json", mask_token=None)
    assert "has several mask tokens (<|mask|>, [MASK]) and names none of them" in refused(folder)
    masked = small.copied(made["ku_nlp_v3"], tmp_path / "unknown")
    edit(masked, "special_tokens_map.json", mask_token="[UNK]")
    assert "unk and mask are both the token 3" in refused(masked)


def test_ids_that_no_shard_holds_and_characters_that_no_token_stands_for_are_one_sentence(
    made: dict[str, Path], tmp_path: Path
) -> None:
    folder = small.copied(made["tohoku"], tmp_path / "holes")
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    last = max(model["vocab"], key=model["vocab"].get)
    edit(folder, "tokenizer.json", model=model | {"vocab": model["vocab"] | {last: 3000}})
    assert open_encoder(find_tokenizer(folder)).vocab_size == 3001
    edit(folder, "tokenizer.json", model=model | {"vocab": model["vocab"] | {last: 2**31 + 5}})
    assert "its largest id is 2,147,483,653" in refused(folder)
    unknown = small.copied(made["xlm_r"], tmp_path / "unknown")
    model = json.loads((unknown / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    edit(unknown, "tokenizer.json", model=model | {"unk_id": None})
    assert "cannot encode a text (Encountered an unknown token" in refused(unknown)


def test_tokens_added_behind_a_sentencepiece_model_count(tmp_path: Path) -> None:
    """DeBERTa V3 has its mask token behind the model's pieces."""
    (tmp_path / "spm.model").write_bytes(small.train_model(pad_id=3))
    (tmp_path / "added_tokens.json").write_text('{"[MASK]": 420}')
    (tmp_path / "tokenizer_config.json").write_text('{"mask_token": "[MASK]", "tokenizer_class": "DebertaV2Tokenizer"}')
    encoder = open_encoder(find_tokenizer(tmp_path))
    assert encoder.special.mask == 420 and encoder.vocab_size == 421
