"""A tokenizer that was not trained here goes from the shards through training into the release, and texts get its ids everywhere."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from jadeberta.checkpoint.held_tokenizer import read_tokenizer
from jadeberta.errors import CheckpointError, ShardError
from jadeberta.finetune.encoder import Encoder, open_engine
from jadeberta.finetune.pretrained import load_pretrained
from jadeberta.release.export import _word, export, main
from jadeberta.release.origin import read_origin, reads_text
from jadeberta.shards import open as open_shards
from jadeberta.shards.tokenizer_format import ALL_TOKENIZER_FILES
from preprocess.config import SegmenterConfig
from tests.helpers import make_recipe, run_ranks
from tests.preprocess import small_tokenizers as small
from tests.preprocess import tiny_corpus as tiny


@pytest.fixture(scope="module", params=["modernbert", "sarashina"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of text as it is and a run of two steps on them, with more embeddings than pieces."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "given").mkdir()
    path = small.LAYOUTS[request.param](folder / "given")
    corpora = tiny.write_corpora(folder / "corpora")
    config = tiny.configure(corpora, tokenizer=str(path), segmenter=SegmenterConfig("none"), sequence_length=128)
    shards = tiny.run_stages(config, folder / "shards")
    model = {"vocab_size": -(-open_shards(shards).index.vocab_size // 64) * 64, "pooler_hidden_size": 16, "hidden_size": 16,
             "num_hidden_layers": 2, "num_attention_heads": 2, "attention_head_size": 8, "intermediate_size": 32,
             "position_buckets": 8}  # fmt: skip
    training = {"max_steps": 2, "global_batch_size": 2, "whole_word_mask": True, "warmup_steps": 1}
    recipe = make_recipe(folder / "recipe.yaml", shards, folder / "run", model=model, training=training)
    run_ranks(1, "pretrain", "--config", str(recipe), log=folder / "log")
    return folder


def test_a_release_has_the_tokenizers_files_and_ids(trained: Path) -> None:
    checkpoint, tokenizer = trained / "run/checkpoints/step-00000002", trained / "shards/tokenizer"
    names = [name for name in ALL_TOKENIZER_FILES if (tokenizer / name).exists()]
    out = trained / "release"
    predictions = export(checkpoint, out)
    assert len(predictions) == 5 and "None" not in dict(predictions)
    for folder in (checkpoint, out):
        assert all((folder / name).read_bytes() == (tokenizer / name).read_bytes() for name in names)
    ours, theirs = AutoTokenizer.from_pretrained(out), AutoTokenizer.from_pretrained(tokenizer)
    assert ours(small.TEXTS)["input_ids"] == theirs(small.TEXTS)["input_ids"]
    card = (out / "README.md").read_text(encoding="utf-8")
    assert f"京都大学で自然言語処理を{ours.mask_token}する。" in card
    special = open_shards(trained / "shards").index.special_tokens
    config = json.loads((out / "config.json").read_text())
    assert config["pad_token_id"] == special.pad and config["vocab_size"] % 64 == 0
    with torch.inference_mode():
        logits = AutoModelForMaskedLM.from_pretrained(out)(**ours(card[:40], return_tensors="pt")).logits
    assert logits.isfinite().all()
    origin = read_origin(out)
    assert origin is not None and origin == read_origin(checkpoint) and reads_text(origin)

    pretrained = load_pretrained(out)
    segmenter, remarks = open_engine(pretrained.origin, out, None, "")
    encoder = Encoder(pretrained.tokenizer, segmenter, keeps_text=True)
    texts = [*small.TEXTS[:9], "ＡＢＣ  と\n改行 𠮷"]
    found = encoder(texts)
    assert not remarks and encoder.vocab_size <= pretrained.config.vocab_size
    for text in texts:
        assert found[text].ids.tolist() == theirs(text, add_special_tokens=False)["input_ids"]
        assert found[text].spans.max() <= len(text)
    assert not {special.mask} & set(encoder([f"前{ours.mask_token}後"])[f"前{ours.mask_token}後"].ids.tolist())


def test_the_command_shows_the_sentence_with_the_tokenizers_own_mask(trained: Path, tmp_path: Path, capsys) -> None:
    main(["--checkpoint", str(trained / "run"), "--out", str(tmp_path / "release")])
    mask = AutoTokenizer.from_pretrained(trained / "shards/tokenizer").mask_token
    assert f"\n京都大学で自然言語処理を{mask}する。\n" in capsys.readouterr().out


def test_words_of_byte_level_pieces_are_shown_as_text(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(small.modernbert(tmp_path))
    numbers = tokenizer("学の", add_special_tokens=False)["input_ids"]
    assert "".join(_word(tokenizer, number) for number in numbers) == "学の"
    (byte,) = tokenizer.convert_tokens_to_ids(["è"])  # a part of a letter has no text
    assert _word(tokenizer, byte) == "è" and _word(tokenizer, tokenizer.mask_token_id) == "[MASK]"


def test_a_changed_file_is_refused_with_its_name(trained: Path, tmp_path: Path) -> None:
    shards = open_shards(trained / "shards")
    assert set(read_tokenizer(shards)) == set(shards.index.tokenizer_files)
    path = trained / "shards/tokenizer/tokenizer_config.json"
    before = path.read_bytes()
    try:
        path.write_bytes(before + b" ")
        with pytest.raises(ShardError, match=r"tokenizer_config\.json: sha256"):
            read_tokenizer(shards)
    finally:
        path.write_bytes(before)


def test_a_checkpoint_with_another_tokenizer_is_not_exported(trained: Path, tmp_path: Path) -> None:
    from jadeberta.checkpoint.held_tokenizer import refuse_other_tokenizer

    with pytest.raises(CheckpointError, match=r"none of its tokenizer's files .* has the sha256 000000000000"):
        refuse_other_tokenizer(trained / "shards/tokenizer", "0" * 64)
