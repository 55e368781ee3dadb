"""Encoders of every kind, with the tokenizer that they bring along, are fine-tuned as transformers would."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import torch
import transformers
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from jadeberta.errors import CheckpointError, ConfigError
from jadeberta.finetune.cli import main
from jadeberta.finetune.encoder import Encoder
from jadeberta.finetune.features import collator, examples_of, texts_of
from jadeberta.finetune.jglue_files import JglueRow
from jadeberta.finetune.pretrained import PretrainedEncoder, build, load_pretrained, without_weights
from jadeberta.finetune.scoring import ceiling
from jadeberta.finetune.tasks import TASKS
from preprocess.segmenters.plain import PlainText
from tests.finetune import toy_model as toy
from tests.preprocess import small_tokenizers as small

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 130,
}
KINDS: dict[str, tuple[Callable[[Path], Path], str, dict]] = {
    "bert": (small.tohoku, "BertConfig", {"pad_token_id": 0}),
    "roberta": (small.xlm_r, "RobertaConfig", {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1}),
    "luke": (
        small.xlm_r,
        "LukeConfig",
        {
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "type_vocab_size": 1,
            "entity_vocab_size": 4,
            "entity_emb_size": 8,
        },
    ),
    "modernbert": (small.modernbert, "ModernBertConfig", {"global_attn_every_n_layers": 2, "local_attention": 16}),
    "deberta-v2": (small.ku_nlp_v3, "DebertaV2Config", {"pad_token_id": 0, "type_vocab_size": 0, "relative_attention": True}),
}
TEXTS = ["京都の川で犬を見た。", "Ｗｅｂ No.3, 37円", "猫"]


def make(kind: str, folder: Path) -> Path:
    """A model with random weights as its authors would publish it, saved by transformers."""
    tokenizer, config, more = KINDS[kind]
    folder.mkdir(parents=True)
    tokenizer(folder)
    vocabulary = 420 if kind == "deberta-v2" else len(AutoTokenizer.from_pretrained(folder))
    if kind == "modernbert":
        names = dict(zip(("pad", "cls", "sep", "bos", "eos"), ("[PAD]", "[CLS]", "[SEP]", "[CLS]", "[SEP]"), strict=True))
        ids = AutoTokenizer.from_pretrained(folder)
        more = more | {f"{role}_token_id": ids.convert_tokens_to_ids(token) for role, token in names.items()}
    torch.manual_seed(0)
    made = getattr(transformers, config)(vocab_size=vocabulary, **SIZES, **more)
    AutoModelForMaskedLM.from_config(made).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def directory(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(kind, tmp_path_factory.mktemp(kind) / "model")


@pytest.fixture(scope="module")
def pretrained(directory: Path) -> PretrainedEncoder:
    return load_pretrained(directory)


def encoder_of(pretrained: PretrainedEncoder) -> Encoder:
    return Encoder(pretrained.tokenizer, PlainText(), True, pretrained.own)


def test_rows_have_the_ids_and_types_of_the_models_own_tokenizer(kind, directory, pretrained) -> None:
    encoder, task = encoder_of(pretrained), TASKS["jnli"]
    if kind == "deberta-v2":  # a sentencepiece model without tokenizer.json is read by sentencepiece itself
        raw = sentencepiece.SentencePieceProcessor(model_file=str(directory / "spm.model"))
        assert [encoder(TEXTS)[text].ids.tolist() for text in TEXTS] == raw.encode(TEXTS)
        return
    theirs = AutoTokenizer.from_pretrained(directory)
    rows = [JglueRow("1", ("g",), (a, b)) for a in TEXTS for b in TEXTS]
    for max_length in (14, 64):
        examples = examples_of(rows, task, encoder(TEXTS), encoder, max_length)
        wanted = [
            theirs(*row.texts, truncation="longest_first", max_length=max_length, return_token_type_ids=True) for row in rows
        ]
        assert [e.ids[0].tolist() for e in examples] == [w["input_ids"] for w in wanted]
        batch = collator("classification", encoder.pad)(examples)
        if kind == "bert":
            padded = [
                w["token_type_ids"] + [0] * (max(map(len, (e.ids[0] for e in examples))) - len(w["input_ids"])) for w in wanted
            ]
            assert batch["token_type_ids"].tolist() == padded and batch["token_type_ids"].any()
        else:
            assert "token_type_ids" not in batch
    (single,) = examples_of([JglueRow("1", ("g",), TEXTS[:1])], TASKS["marc-ja"], encoder(TEXTS), encoder, 64)
    assert single.ids[0].tolist() == theirs(TEXTS[0])["input_ids"]


def test_an_answer_of_a_context_is_marked_where_it_stands(pretrained) -> None:
    encoder = encoder_of(pretrained)
    context = "題名 [SEP] 京都の川で、Ｋyotoの犬を見た。"
    row = JglueRow("q", ("t",), ("何を見たか。", context), answers=(("犬を見た", context.index("犬")),))
    examples = examples_of([row], TASKS["jsquad"], encoder(texts_of(row, TASKS["jsquad"])), encoder, 64)
    places = {e.places for e in examples} - {(0, 0)}
    assert places, "the answer is in some window"
    assert ceiling(TASKS["jsquad"], [row], examples)["f1"] > 0.6, "its pieces cover it and little else"


def test_every_head_stands_on_the_encoder_that_was_given(kind, directory, pretrained) -> None:
    for name in ("jsts", "jnli", "jsquad", "jcommonsenseqa"):
        model = build(pretrained, TASKS[name], 1)
        held = model.state_dict()
        assert all(held[key].equal(tensor) for key, tensor in pretrained.weights.items() if key in held)
        assert sum(key in held for key in pretrained.weights) > 10
    ours, theirs = (
        build(pretrained, TASKS["jnli"], 1),
        AutoModelForSequenceClassification.from_pretrained(directory, num_labels=3),
    )
    theirs.load_state_dict({k: v for k, v in ours.state_dict().items() if "classifier" in k or "pooler" in k}, strict=False)
    ids = torch.arange(5, 15).reshape(2, 5)
    with torch.inference_mode():
        a, b = (model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits for model in (ours, theirs))
    assert torch.allclose(a, b, atol=1e-5), "transformers builds the same model of these weights"


def test_the_control_has_random_weights_that_follow_from_the_seed(pretrained) -> None:
    control = without_weights(pretrained)
    assert control.sha256.startswith("random weights, config ") and control.sha256 != pretrained.sha256
    first, again, other = (build(control, TASKS["jnli"], seed).state_dict() for seed in (1, 1, 2))
    name = next(key for key in pretrained.weights if "word_embeddings" in key or "tok_embeddings" in key)
    assert first[name].equal(again[name]) and not first[name].equal(other[name])
    assert not first[name].equal(pretrained.weights[name])


@pytest.mark.parametrize("given", ["roberta", "modernbert"])
def test_the_command_trains_another_architecture_and_saves_a_model_that_it_reads_again(given, tmp_path) -> None:
    model, data = make(given, tmp_path / "model"), toy.write_task(tmp_path / "data", "jnli", train=16, valid=6)
    options = ["--task", "jnli", "--data", str(data), "--setting", "1e-3,1", "--batch-size", "8", "--max-length", "32"]
    arguments = [*options, "--segmenter", "none", "--out", str(tmp_path / "out"), "--save-models"]
    assert main(["--model", str(model), *arguments]) == 0
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert found["segmenter"] == {"engine": "none"} and found["normaliser"] == "none" and found["points"][0]["scores"]["valid"]
    saved = tmp_path / "out/models/lr-0.001-epochs-1-seed-42"
    assert main(["--model", str(saved), *options, "--out", str(tmp_path / "again"), "--dry-run"]) == 0
    with pytest.raises(ConfigError, match=r"was made with model.sha256 .*, this is random weights"):
        main(["--model", str(model), *arguments, "--from-random"])
    with pytest.raises(
        ConfigError, match="--max-length 9: must lie between 10 and 128" if given == "roberta" else "between 8 and 130"
    ):
        main(
            [
                "--model",
                str(model),
                *arguments[:-3],
                "--max-length",
                "9" if given == "roberta" else "7",
                "--out",
                str(tmp_path / "x"),
            ]
        )


def test_japanese_berts_vocabulary_cuts_the_words_of_the_segmenter(tmp_path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "\u2028", "京都", "大学", "##院", "で", "学", "##ぶ"]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab"}')
    AutoModelForMaskedLM.from_config(transformers.BertConfig(vocab_size=len(pieces), **SIZES)).save_pretrained(folder)
    pretrained = load_pretrained(folder)

    class Words(PlainText):
        def _tokenize(self, lines):
            return [["京都", "大学院", "で", "学ぶ", "𠮷"] for _ in lines]

        segment = _tokenize

    found = Encoder(pretrained.tokenizer, Words(), own=pretrained.own)(["京都 大学院で学ぶ𠮷"])["京都 大学院で学ぶ𠮷"]
    assert [pieces[n] for n in found.ids] == ["京都", "大学", "##院", "で", "学", "##ぶ", "[UNK]"]
    assert found.spans.tolist() == [[0, 2], [3, 5], [5, 6], [6, 7], [7, 8], [8, 9], [9, 10]]
    frame = pretrained.own.frame
    assert (frame.before, frame.between, frame.after, frame.second_type) == ((2,), (3,), (3,), 1)
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertJapaneseTokenizer", "subword_tokenizer_type": "character"}'
    )
    with pytest.raises(CheckpointError, match="of the kind 'character' is not read"):
        load_pretrained(folder)


def test_a_name_of_the_hub_is_answered_with_how_to_download_it(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (Path("ku-nlp/deberta-v2-base-japanese"), tmp_path / "ku-nlp/deberta-v2-base-japanese"):
        with pytest.raises(CheckpointError, match=r"hf download ku-nlp/deberta-v2-base-japanese --local-dir DIR"):
            load_pretrained(path)


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda d: (d / "tokenizer.json").write_text("{}"), "its tokenizer cannot be loaded"),
        (lambda d: (d / "model.safetensors").write_bytes(b"x" * 99), "cannot be loaded"),
        (lambda d: (d / "config.json").write_text('{"model_type": "vit"}'), "no head for sequence classification on a vit"),
    ],
    ids=["tokenizer", "weights", "images"],
)
def test_what_is_no_encoder_is_refused_in_one_sentence(tmp_path, change, message) -> None:
    model = make("bert", tmp_path / "model")
    change(model)
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(model)


def test_an_architecture_without_the_head_of_a_task_is_refused_before_any_data_is_read(tmp_path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    small.tohoku(folder)
    size = len(AutoTokenizer.from_pretrained(folder))
    AutoModelForMaskedLM.from_config(transformers.DebertaConfig(vocab_size=size, type_vocab_size=0, **SIZES)).save_pretrained(
        folder
    )
    files = [f"--{split}={tmp_path / 'none.json'}" for split in ("train", "valid")]
    (tmp_path / "none.json").touch()
    with pytest.raises(CheckpointError, match=r"no head for multiple choice on a deberta\. Name a model of another architecture"):
        main(["--task", "jcommonsenseqa", "--model", str(folder), "--segmenter", "none", *files])


def test_weights_that_lack_a_layer_are_refused(tmp_path) -> None:
    model = make("bert", tmp_path / "model")
    config = json.loads((model / "config.json").read_text()) | {"num_hidden_layers": 3}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"its weights lack encoder.layer.2.*Download it again"):
        load_pretrained(model)
