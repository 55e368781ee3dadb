"""What cannot be measured is refused in one sentence with its remedy, before a model runs."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from jadeberta.compare.text_files import read_texts
from jadeberta.compare.text_models import open_model
from jadeberta.errors import CheckpointError, ConfigError, InputError, JadebertaError
from tests.compare.toy_encoders import write_model, write_tokenizer
from tests.helpers import copy_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("bert") / "model", "bert")


def refusal(path: Path, segmenter: str | None = "none") -> JadebertaError:
    with pytest.raises((CheckpointError, ConfigError)) as refused:
        open_model(path, segmenter, "auto", "", CPU)
    assert "\n" not in str(refused.value) and str(refused.value).endswith(".")
    return refused.value


def test_a_name_of_the_hub_is_answered_with_the_command_that_downloads_it() -> None:
    assert "hf download ku-nlp/deberta-v3-base-japanese --local-dir DIR" in str(refusal(Path("ku-nlp/deberta-v3-base-japanese")))
    assert str(refusal(Path("/data/runs/one"))).endswith(
        "no such directory. Name a run, a checkpoint or the directory of a model."
    )


def test_models_that_cannot_be_asked_are_refused(bert: Path, tmp_path: Path) -> None:
    assert "Name the segmenter of its pre-training with --segmenter" in str(refusal(bert, None))
    assert "without a head that fills masks" in str(refusal(copy_model(bert, tmp_path / "gpt2", model_type="gpt2")))
    code = copy_model(bert, tmp_path / "code", model_type="own", auto_map={"AutoConfig": "evil.Config"})
    assert "which is never run" in str(refusal(code))
    cut = copy_model(bert, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((bert / "model.safetensors").read_bytes()[:100])
    assert "cannot be loaded" in str(refusal(cut))
    assert "neither a checkpoint, nor an exported directory" in str(refusal(tmp_path))


def test_weights_without_the_head_are_refused(bert: Path, tmp_path: Path) -> None:
    import transformers

    encoder = copy_model(bert, tmp_path / "encoder")
    transformers.BertModel(transformers.AutoConfig.from_pretrained(bert)).save_pretrained(encoder)
    assert "its weights lack cls.predictions" in str(refusal(encoder))


def test_a_tokenizer_that_does_not_fit_is_refused(bert: Path, tmp_path: Path) -> None:
    large = copy_model(bert, tmp_path / "large")
    content = json.loads((large / "tokenizer.json").read_text())
    content["model"]["vocab"] |= {f"x{n}": 23 + n for n in range(5)}
    (large / "tokenizer.json").write_text(json.dumps(content))
    assert "its tokenizer has 28 pieces, its model embeddings of 23" in str(refusal(large))
    without = copy_model(bert, tmp_path / "without")
    for path in without.glob("*token*"):
        path.unlink()
    write_tokenizer(without)
    settings = json.loads((without / "tokenizer_config.json").read_text())
    del settings["mask_token"]
    (without / "tokenizer_config.json").write_text(json.dumps(settings))
    assert "has no mask token" in str(refusal(without))


def test_texts_are_read_as_they_are_from_every_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeff一。\r\n二。\r\n\r\n \n三。".encode())
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress('{"text": "Ａ　b\\n"}\n\n{"text": " "}\n{"text": "c"}'.encode()))
    found = read_texts([tmp_path / "a.txt", tmp_path / "b.jsonl.gz"])
    assert [(t.file, t.name, t.text) for t in found] == [
        ("a.txt", "1", "一。\n二。"), ("a.txt", "5", "三。"), ("b.jsonl.gz", "1", "Ａ　b\n"), ("b.jsonl.gz", "4", "c")
    ]  # fmt: skip
    limited = read_texts([tmp_path / "a.txt", tmp_path / "b.jsonl.gz"], limit=1, characters=2)
    assert [t.text for t in limited] == ["一。", "Ａ　"]
    (tmp_path / "c.jsonl").write_text('{"text": "  \\n一"}\n{"text": "二"}', encoding="utf-8")
    assert [t.text for t in read_texts([tmp_path / "c.jsonl"], limit=1, characters=3)] == ["二"], "its cut is blank"


def test_held_out_documents_of_a_work_directory_are_joined_from_their_words(tmp_path: Path) -> None:
    from preprocess.document_files import write_jsonl_zst

    work = tmp_path / "shards/work/pack"
    work.mkdir(parents=True)
    rows = [{"id": "d1", "sentences": ["京都 の 大学 。", "New York へ ▁行く"]}]
    write_jsonl_zst(work / "web-ja-00000.heldout.jsonl.zst", rows)
    (text,) = read_texts([tmp_path / "shards"])
    assert (text.file, text.name, text.text) == ("web-ja", "d1", "京都の大学。\nNew Yorkへ 行く")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": 3}', "line 2 has no text"),
        ("a.jsonl", b'{"text": "a"', "line 1 is not JSON"),
        ("a.jsonl", b"[]", "line 1 has no text"),
        ("a.txt", b"\xff\xfe", "line 1"),
        ("a.csv", b"a", "neither .txt nor .jsonl"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 90)[:-9], "line"),
        ("a.txt", b" \n\n", "no text in"),
    ],
)
def test_texts_that_cannot_be_read_are_refused_with_file_and_line(name: str, content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises((InputError, ConfigError), match=reason) as refused:
        read_texts([tmp_path / name])
    assert str(tmp_path / name) in str(refused.value) and str(refused.value).endswith(".")


def test_a_missing_file_and_an_empty_directory_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(InputError, match=r"no such file|no held-out documents"):
            read_texts([path])
