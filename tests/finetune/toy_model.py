"""A model of two layers with its tokenizer, and made-up tasks in JGLUE's formats that such a model can learn."""

import io
from pathlib import Path
from typing import Any

import orjson
import sentencepiece
from transformers import DebertaV2Config, DebertaV2ForMaskedLM, set_seed

from jadeberta.finetune.tasks import TASKS
from jadeberta.release.origin import write_origin
from preprocess.config import SegmenterConfig
from preprocess.segmenters import open_segmenter
from preprocess.stages.tokenizer import write_hugging_face_files
from preprocess.text import NORMALISER, SPLITTER, normalise

ANIMALS = ("犬", "猫", "鳥")
VOCABULARY = 64
PLACES = ("公園", "駅", "学校", "海", "山", "川")
ORIGIN = {"segmenter": {"engine": "mecab"}, "normaliser": NORMALISER, "sentence_splitter": SPLITTER}


def sentence(number: int, animal: str) -> str:
    return f"{PLACES[number % len(PLACES)]}に{animal}がいる。"


def rows_of(task: str, count: int) -> list[dict[str, Any]]:
    """Rows whose answer is an animal, or follows from the only animal in them."""
    rows = []
    for n in range(count):
        animal = ANIMALS[n % 3]
        pair = {"sentence_pair_id": str(n), "yjcaptions_id": f"{n}-1-2"}
        said, other = sentence(n, animal), f"{PLACES[n % 5]}は広い。"
        if task == "jsts":
            rows.append(pair | {"sentence1": other, "sentence2": said, "label": 2.5 * (n % 3)})
        elif task == "jnli":
            rows.append(pair | {"sentence1": other, "sentence2": said, "label": TASKS[task].labels[n % 3]})
        elif task == "jcola":
            rows.append({"uid": n, "source": "toy", "label": int(animal == "猫"), "diacritic": "g", "sentence": said})
        elif task == "marc-ja":
            rows.append({"review_id": str(n), "sentence": said, "label": TASKS[task].labels[animal == "猫"]})
        else:
            choices = [f"{place}。" for place in PLACES[:5]]
            choices[n % 5] = said
            rows.append(
                {"q_id": n, "question": "何がいるか。", **{f"choice{k}": c for k, c in enumerate(choices)}, "label": n % 5}
            )
    return rows


def squad(count: int) -> dict[str, Any]:
    """Questions for the animal in a context; a full-width space and letters of another width stand before it."""
    articles = []
    for n in range(count):
        context = f"ﾒﾓ{n} [SEP] Ａ　{sentence(n, ANIMALS[n % 3])}"
        answer = {"text": ANIMALS[n % 3], "answer_start": context.index(ANIMALS[n % 3])}
        question = {"id": f"q{n}", "question": "何がいるか。", "answers": [answer], "is_impossible": False}
        articles.append({"title": f"ﾒﾓ{n}", "paragraphs": [{"context": context, "qas": [question]}]})
    return {"version": "0", "data": articles}


def write_unlabelled(path: Path, task: str, count: int) -> None:
    """A file as the authors' scripts leave a test set: without labels or answers."""
    if task == "jsquad":
        articles = squad(count)
        for article in articles["data"]:
            del article["paragraphs"][0]["qas"][0]["answers"]
        path.write_bytes(orjson.dumps(articles))
    else:
        rows = [{key: value for key, value in row.items() if key != "label"} for row in rows_of(task, count)]
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


def write_pairs_apart(path: Path, count: int) -> Path:
    """Pairs of JNLI of which no two share a sentence."""
    names = ("メモ", "公園", "駅", "学校", "海", "山", "川")
    rows = [row | {f"sentence{k}": f"{names[n % 7]}{n}に{k}" for k in (1, 2)} for n, row in enumerate(rows_of("jnli", count))]
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def write_task(data: Path, task: str, train: int = 120, valid: int = 30) -> Path:
    """JGLUE's folder with one task in it."""
    version = "1.0" if task == "jcola" else "1.3"
    folder = data / f"{TASKS[task].folder}-v{version}"
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("valid", valid)):
        content = (
            orjson.dumps(squad(count)) if task == "jsquad" else b"".join(orjson.dumps(r) + b"\n" for r in rows_of(task, count))
        )
        (folder / f"{'in_domain_' if task == 'jcola' else ''}{split}-v{version}.json").write_bytes(content)
    return data


def make_model(directory: Path) -> Path:
    """A directory as `export` leaves it, with random weights."""
    directory.mkdir(parents=True)
    texts = [sentence(n, animal) for n in range(6) for animal in ANIMALS] + [
        "何がいるか。",
        "メモ 0 1 2 3 4 5 6 7 8 9 A",
        "広い。",
        "は",
    ]
    with open_segmenter(SegmenterConfig(engine="mecab")) as segmenter:
        lines = [" ".join(answer) for answer in segmenter.segment([normalise(t) for t in texts]) if isinstance(answer, list)]
    tokenizer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=tokenizer, vocab_size=VOCABULARY, hard_vocab_limit=False, minloglevel=2,
        character_coverage=1.0, normalization_rule_name="identity", pad_id=0, pad_piece="[PAD]", bos_id=1, bos_piece="[CLS]",
        eos_id=2, eos_piece="[SEP]", unk_id=3, unk_piece="[UNK]", control_symbols="[MASK]",
    )  # fmt: skip
    (directory / "spm.model").write_bytes(tokenizer.getvalue())
    write_hugging_face_files(directory)
    set_seed(0)
    config = DebertaV2Config(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, type_vocab_size=0,
        relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"], norm_rel_ebd="layer_norm", share_att_key=True,
        position_biased_input=False, max_position_embeddings=512, pooler_hidden_size=32, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, conv_kernel_size=3, conv_act="gelu",
    )  # fmt: skip
    DebertaV2ForMaskedLM(config).save_pretrained(directory)
    write_origin(directory, ORIGIN)
    return directory
