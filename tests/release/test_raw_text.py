"""`jadeberta.Tokenizer` and `jadeberta fill` take raw text: they normalise and segment it as the model's own text was."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertForMaskedLM

import jadeberta
from jadeberta import Tokenizer
from jadeberta.errors import CheckpointError, ConfigError, InputError
from jadeberta.fill import main
from jadeberta.release.card import write_usage
from jadeberta.release.origin import write_origin
from jadeberta.release.typed_text import take_typed_text
from tests.finetune.toy_model import ORIGIN, make_model
from tests.release.released_tokenizer import make_tokenizer

RAW, SEGMENTED = "公園　に[MASK]がいる。", "公園 に [MASK] が いる 。"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = make_model(tmp_path_factory.mktemp("release") / "model")
    take_typed_text(directory)
    return directory


@pytest.fixture
def tokenizer(release: Path) -> Tokenizer:
    with Tokenizer(release) as opened:
        return opened


def test_the_package_and_its_tokenizer_need_no_torch(release: Path) -> None:
    program = (
        "import sys, jadeberta\nassert not {'numpy', 'torch'} & sys.modules.keys()\n"
        f"with jadeberta.Tokenizer({str(release)!r}) as t: print(t({RAW!r})['input_ids'])\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == AutoTokenizer.from_pretrained(release)(SEGMENTED)["input_ids"]
    with pytest.raises(AttributeError, match="no attribute 'Tokeniser'"):
        jadeberta.Tokeniser  # noqa: B018


@pytest.mark.parametrize(
    "text",
    [RAW, "[MASK]", "", "  \n", "ﾒﾓ０１[MASK][MASK]Ａ", "[SEP]公園[MASK]", "か\u3099[MASK]", "公園" * 40, "\ud800公園[MASK]", "[MASK",
     "[mask]"],
)  # fmt: skip
def test_ids_are_those_that_autotokenizer_gives_the_prepared_text(release: Path, tokenizer: Tokenizer, text: str) -> None:
    (prepared,) = tokenizer.prepare([text])
    assert len(prepared.places) == len(prepared.text)
    assert tokenizer(text)["input_ids"] == AutoTokenizer.from_pretrained(release)(prepared.text)["input_ids"]


def test_offsets_are_characters_of_the_raw_text(tokenizer: Tokenizer) -> None:
    text = "ﾒﾓ０１　[MASK]公園に犬"
    (encoding,) = tokenizer.encode([text])
    tokens = tokenizer.convert_ids_to_tokens(encoding.ids)
    assert [(token, text[start:end]) for token, (start, end) in zip(tokens, encoding.offsets, strict=True) if end > start] == [
        ("メ", "ﾒ"), ("モ", "ﾓ"), ("0", "０"), ("1", "１"), ("[MASK]", "[MASK]"), ("公", "公"), ("園", "園"), ("に", "に"), ("犬", "犬"),
    ]  # fmt: skip
    assert all(0 <= start <= end <= len(text) for start, end in encoding.offsets)


def test_tensors_go_into_the_model_and_texts_of_several_lengths_are_padded(release: Path, tokenizer: Tokenizer) -> None:
    batch = tokenizer([RAW, "公園"], return_tensors="pt", padding=True, return_offsets_mapping=True)
    offsets = batch.pop("offset_mapping")
    assert (
        AutoModelForMaskedLM.from_pretrained(release)(**batch).logits.shape[:2] == batch["input_ids"].shape == offsets.shape[:2]
    )
    assert batch["attention_mask"].sum(1).tolist() == [len(ids) for ids in tokenizer([RAW, "公園"])["input_ids"]]
    assert tokenizer(RAW, max_length=3)["input_ids"] == [*tokenizer(RAW)["input_ids"][:2], tokenizer.sep_token_id]
    assert tokenizer(RAW, return_tensors="np")["input_ids"].tolist() == [tokenizer(RAW)["input_ids"]]
    for arguments, reason in (
        ({"text": [RAW, "公園"], "return_tensors": "pt"}, "several lengths are no tensor"), ({"text": [1]}, "'1' is no text but int"),
        ({"text": RAW, "return_tensors": "tf"}, "Choose pt, np"), ({"text": RAW, "max_length": 1}, "leaves no room"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=reason):
            tokenizer(**arguments)


def test_characters_get_no_mark_behind_a_mask_but_keep_a_space_there(tmp_path: Path) -> None:
    directory = make_tokenizer(tmp_path / "characters", characters=True)
    take_typed_text(directory)
    write_origin(directory, ORIGIN | {"word_starts": "documents"})
    tokenizer = Tokenizer(directory)
    for text in ("京都を[MASK]する", " 京都\u3000を [MASK] する\n", "[MASK][MASK]"):
        (prepared,) = tokenizer.prepare([text])
        assert tokenizer(text)["input_ids"] == AutoTokenizer.from_pretrained(directory)(text)["input_ids"]
        assert "".join(prepared.text.split()) == "".join(text.split())


def test_the_cards_snippet_runs_on_raw_text(release: Path) -> None:
    text = write_usage(
        [("犬", 0.5)], {"segmenter": {"engine": "mecab"}, "normaliser": ORIGIN["normaliser"]}, "[MASK]", str(release)
    )
    snippets = re.findall(r"```python\n(.*?)```", text, re.S)
    found = []
    for snippet in snippets:
        names: dict = {}
        exec(snippet, names)
        found.append(names["logits"])
    assert len(found) == 2 and torch.equal(*found) and "京都大学で自然言語処理を[MASK]する。" in snippets[0]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(a) for a in arguments]) == 0
    return capsys.readouterr().out


def test_fill_prints_the_likeliest_words_of_each_mask(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, "--model", release, "--top", 3, "公園に[MASK]がいる。", "[MASK]に[MASK]").splitlines()
    assert len(lines) == 4 + 9 and lines[0] == "公園に[MASK]がいる。" and lines[4:6] == ["[MASK]に[MASK]", " mask 1"]
    found = json.loads(run(capsys, "--model", release, "--json", "--top", 2, "公園に[MASK]がいる。"))
    (mask,) = found["texts"][0]["masks"]
    assert (mask["start"], mask["end"]) == (3, 9)
    model, theirs = AutoModelForMaskedLM.from_pretrained(release).eval(), AutoTokenizer.from_pretrained(release)
    encoding = theirs(SEGMENTED, return_tensors="pt")
    place = encoding["input_ids"][0].tolist().index(theirs.mask_token_id)
    with torch.inference_mode():
        probabilities = model(**encoding).logits[0, place].softmax(-1)
    best = probabilities[: len(theirs)].topk(2)  # what stands behind the tokens are embeddings of none
    assert [p["id"] for p in mask["predictions"]] == best.indices.tolist()
    assert [p["probability"] for p in mask["predictions"]] == pytest.approx(best.values.tolist(), abs=1e-6)
    assert [f"  {p['word']}  {p['probability']:.4f}" for p in mask["predictions"]] == lines[1:3]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["公園に犬がいる。"], "'公園に犬がいる。' holds no"), ([""], "holds no"),
        (["[MASK]" + "公" * 600], "tokens, and the model takes 512"),
        (["--top", "0", "[MASK]"], "no number of tokens"), (["--segmenter", "jumanpp", "[MASK]"], "pre-trained on words of mecab"),
        (["--weights", "ema", "[MASK]"], "an export has one set of weights"), ([], "required: TEXT"),
    ],
)  # fmt: skip
def test_fill_says_in_a_sentence_what_is_wrong(release: Path, arguments: list[str], reason: str) -> None:
    with pytest.raises((InputError, ConfigError, CheckpointError), match=reason):
        main(["--model", str(release), *arguments])


def test_fill_says_how_to_get_a_model_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="'hf download ku-nlp/deberta-v2-large --local-dir deberta-v2-large'"):
        main(["--model", "ku-nlp/deberta-v2-large", "[MASK]"])
    with pytest.raises(CheckpointError, match="no such directory"):
        main(["--model", "a/b/c", "[MASK]"])
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="not a directory"):
        main(["--model", "file", "[MASK]"])


def test_a_model_without_metadata_or_with_damaged_files_is_one_sentence(release: Path, tmp_path: Path, capsys) -> None:
    copy = shutil.copytree(release, tmp_path / "copy")
    (copy / "pretraining_text.json").unlink()
    with pytest.raises(ConfigError, match=r"does not say which word segmenter .* Name it with --segmenter"):
        main(["--model", str(copy), RAW])
    named = run(capsys, "--model", copy, "--segmenter", "mecab", RAW)
    assert named == run(capsys, "--model", release, RAW)
    (copy / "tokenizer.json").unlink()  # as a model from elsewhere may have it
    assert run(capsys, "--model", copy, "--segmenter", "mecab", RAW) == named
    shutil.copytree(release, copy, dirs_exist_ok=True)
    for name, content, reason in (
        ("tokenizer.json", b"{}", "not a tokenizer"), ("spm.model", b"", "spm.model"), ("pretraining_text.json", b"[]", "does not record"),
        ("config.json", b"[]", "cannot be read"), ("model.safetensors", b"\0" * 9, "cannot be loaded"),
    ):  # fmt: skip
        whole = (copy / name).read_bytes()
        (copy / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=reason):
            main(["--model", str(copy), RAW])
        (copy / name).write_bytes(whole)


def test_a_segmenter_that_is_missing_is_said_with_how_to_install_it(release: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(release, tmp_path / "copy")
    write_origin(copy, ORIGIN | {"segmenter": {"engine": "jumanpp"}})
    with pytest.raises(Exception, match=r"jumanpp-none: no such program\. Install Juman\+\+"):
        main(["--model", str(copy), "--segmenter-command", "jumanpp-none", RAW])


def test_other_architectures_fill_too_and_one_without_the_head_is_refused(release: Path, tmp_path: Path, capsys) -> None:
    copy = shutil.copytree(release, tmp_path / "bert")
    BertForMaskedLM(
        BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    ).save_pretrained(copy)
    assert len(run(capsys, "--model", copy, RAW).splitlines()) == 6
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
    with pytest.raises(CheckpointError, match="a BertModel, which has no head that fills masks"):
        main(["--model", str(copy), RAW])
