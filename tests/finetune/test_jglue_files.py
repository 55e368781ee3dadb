"""JGLUE's files are found and read row by row; what is missing or wrong is said in one sentence."""

import unicodedata
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from jadeberta.errors import ConfigError, InputError
from jadeberta.finetune.grid import split_fold
from jadeberta.finetune.jglue_files import find_files, read_rows
from jadeberta.finetune.jnli_labels import labels_by_version
from jadeberta.finetune.scoring import score
from jadeberta.finetune.tasks import TASKS
from tests.finetune import toy_model as toy
from tests.helpers import SHARED_DATA

JGLUE = SHARED_DATA / "jglue"
COUNTS = {
    "jsts": {"train": 12451, "valid": 1457}, "jnli": {"valid": 2434}, "jsquad": {"valid": 4442},
    "jcommonsenseqa": {"train": 8939, "valid": 1119},
}  # fmt: skip
"""Of JGLUE 1.3, as far as the files are there."""


@pytest.mark.skipif(not JGLUE.is_dir(), reason=f"JGLUE's own files are not in {JGLUE}")
@pytest.mark.parametrize("name,split", [(name, split) for name, splits in COUNTS.items() for split in splits])
def test_the_official_files_are_read_in_full(name, split) -> None:
    task = TASKS[name]
    rows = read_rows(JGLUE / f"{task.folder}-v1.3" / f"{split}-v1.3.json", task)
    assert len(rows) == COUNTS[name][split] == len({row.id for row in rows})
    if name == "jnli":
        assert [sum(row.label == n for row in rows) for n in range(3)] == [349, 735, 1350]
    if name == "jsquad":
        assert len({row.texts[1] for row in rows}) == 1145 and {len(row.answers) for row in rows} == {2, 3}


def test_the_newest_version_that_is_whole_is_taken_from_either_folder(tmp_path) -> None:
    toy.write_task(tmp_path, "jsts")
    newer = tmp_path / "jsts-v1.10"
    newer.mkdir()
    (newer / "train-v1.10.json").touch()
    wanted = {split: tmp_path / "jsts-v1.3" / f"{split}-v1.3.json" for split in ("train", "valid")}
    assert find_files(tmp_path, TASKS["jsts"]) == find_files(tmp_path / "jsts-v1.3", TASKS["jsts"]) == wanted
    (newer / "valid-v1.10.json").touch()
    (newer / "test-v1.10.json").touch()
    assert set(find_files(tmp_path, TASKS["jsts"])) == {"train", "valid", "test"}
    assert find_files(tmp_path, TASKS["jsts"])["train"] == newer / "train-v1.10.json"


def test_a_file_can_be_named_and_then_no_test_file_of_another_set_is_scored(tmp_path) -> None:
    folder = toy.write_task(tmp_path, "jsts") / "jsts-v1.3"
    (folder / "test-v1.3.json").touch()
    other = folder / "train-v1.3.json"
    assert find_files(tmp_path, TASKS["jsts"], valid=other) == {"train": other, "valid": other}
    assert set(find_files(tmp_path, TASKS["jsts"], train=other)) == {"train", "valid", "test"}


@pytest.mark.parametrize(
    "name,message",
    [
        (
            "jnli",
            r"no train-v\*.json of jnli, neither there nor in jnli-v\*/. Download datasets/jnli-v1.3 from https://github.com",
        ),
        ("marc-ja", r"in marc_ja-v\*/. Its reviews were withdrawn by their owner; .* or name the files with --train and --valid"),
    ],
)
def test_a_missing_file_is_said_with_what_to_download(tmp_path, name, message) -> None:
    with pytest.raises(InputError, match=message):
        find_files(tmp_path, TASKS[name])


@pytest.mark.parametrize(
    "name,change,message",
    [
        ("jsts", {"label": 5.1}, "line 3 has the label 5.1, which is no similarity from 0 to 5"),
        ("jsts", {"label": "5.1"}, "line 3 has the label 5.1, which is no similarity"),
        ("jsts", {"label": "nan"}, "line 3 has the label 'nan', which is no similarity"),
        ("jsts", {"label": None}, "row 2 has no label"),
        ("jsts", {"label": True}, "line 3 has the label True, which is no similarity"),
        ("jsts", {"sentence2": "  "}, "line 3 has no text in 'sentence2'"),
        ("jnli", {"label": "maybe"}, "line 3 has the label 'maybe', which is none of entailment, contradiction, neutral"),
        ("marc-ja", {"label": ["positive"]}, r"line 3 has the label \['positive'\], which is none of positive, negative"),
        ("jcommonsenseqa", {"label": 5}, r"line 3 has the label 5, which is no number of a choice \(0 to 4\)"),
        ("jcommonsenseqa", {"choice4": None}, "line 3 has no text in 'choice4'"),
    ],
)
def test_a_wrong_row_is_named_by_its_line(tmp_path, name, change, message) -> None:
    rows = toy.rows_of(name, 5)
    rows[2] |= change
    path = tmp_path / "rows.json"
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    with pytest.raises(InputError, match=f"rows.json: {message}.*Take the file as JGLUE publishes it"):
        read_rows(path, TASKS[name])


@pytest.mark.parametrize(
    "content,message",
    [
        (b'{"sentence1": "a"\n', "line 1 is not JSON"),
        (b"[1]\n", "line 1 is not an object"),
        (b"\n", "no rows in it"),
    ],
)
def test_what_is_no_row_is_refused(tmp_path, content, message) -> None:
    (tmp_path / "rows.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_rows(tmp_path / "rows.json", TASKS["jsts"])


@pytest.mark.parametrize(
    "change,message",
    [
        (
            {"answers": [{"text": "犬", "answer_start": 0}]},
            "question q1 has the answer '犬', which does not stand at character 0",
        ),
        (
            {"answers": [{"text": "犬", "answer_start": -3}]},
            "question q1 has the answer '犬', which does not stand at character -3",
        ),
        ({"answers": []}, "question q1 has no answer"),
        ({"is_impossible": True}, "question q1 has no answer"),
        ({"question": ""}, "question q1 asks nothing"),
        ({"answers": [{"answer_start": 0}]}, "not SQuAD 1.1 JSON .KeyError: 'text'"),
    ],
)
def test_a_wrong_question_is_named(tmp_path, change, message) -> None:
    results_json = toy.squad(3)
    results_json["data"][1]["paragraphs"][0]["qas"][0] |= change
    path = tmp_path / "squad.json"
    path.write_bytes(orjson.dumps(results_json))
    with pytest.raises(InputError, match=f"squad.json: {message}"):
        read_rows(path, TASKS["jsquad"])


@pytest.mark.parametrize(
    "captions,images",
    [
        ("723-844-847", {"723"}),
        ("69501-75698-g103", {"69501"}),
        ("112478-g1473-115830", {"112478"}),
        ("91337_217583-96105-91680", {"91337", "217583"}),
        ("217583_91337-91680-g7", {"91337", "217583"}),
        ("other", {"other"}),
    ],
)
def test_a_pair_is_about_all_its_images_and_both_its_sentences(tmp_path, captions, images) -> None:
    path: Path = tmp_path / "rows.json"
    path.write_bytes(orjson.dumps(toy.rows_of("jsts", 1)[0] | {"yjcaptions_id": captions, "sentence1": "Ａ", "sentence2": "b"}))
    (row,) = read_rows(path, TASKS["jsts"])
    assert set(row.keys) == {*(f"image {image}" for image in images), "text A", "text b"}


def images_and_sentences(path: Path, ids: set[str]) -> tuple[set[str], set[str]]:
    """Read here without the project's own reader: before the first hyphen the images, and the sentences in one width."""
    rows = [row for row in map(orjson.loads, path.read_bytes().splitlines()) if row["sentence_pair_id"] in ids]
    images = {image for row in rows for image in row["yjcaptions_id"].split("-")[0].split("_")}
    return images, {unicodedata.normalize("NFKC", row[f"sentence{n}"]) for row in rows for n in (1, 2)}


@pytest.mark.skipif(not JGLUE.is_dir(), reason=f"JGLUE's own files are not in {JGLUE}")
@pytest.mark.parametrize("name,split", [("jsts", "train"), ("jnli", "valid")])
def test_no_image_and_no_sentence_of_a_real_file_is_on_both_sides_of_a_fold(name, split) -> None:
    path = JGLUE / f"{name}-v1.3" / f"{split}-v1.3.json"
    rows = read_rows(path, TASKS[name])
    train, fold = split_fold(rows)
    assert len(train) + len(fold) == len(rows) and 0.1 * len(rows) <= len(fold) <= 0.1 * len(rows) + 40
    (images, sentences), (own, read) = (images_and_sentences(path, {row.id for row in part}) for part in (train, fold))
    assert not images & own and not sentences & read and own and read


@pytest.mark.skipif(not JGLUE.is_dir(), reason=f"JGLUE's own files are not in {JGLUE}")
def test_similarities_in_strings_and_a_byte_order_mark_are_read_as_numbers_without_them(tmp_path) -> None:
    """As JSTS 1.0 has its labels."""
    content = (JGLUE / "jsts-v1.3/valid-v1.3.json").read_bytes()
    strings = b"".join(
        orjson.dumps(row | {"label": str(row["label"])}) + b"\r\n" for row in map(orjson.loads, content.splitlines())
    )
    (tmp_path / "old.json").write_bytes(b"\xef\xbb\xbf" + strings)
    assert read_rows(tmp_path / "old.json", TASKS["jsts"]) == read_rows(JGLUE / "jsts-v1.3/valid-v1.3.json", TASKS["jsts"])


@pytest.mark.skipif(not JGLUE.is_dir(), reason=f"JGLUE's own files are not in {JGLUE}")
def test_jnlis_dev_set_is_scored_with_the_labels_of_both_versions() -> None:
    task = TASKS["jnli"]
    rows = read_rows(JGLUE / "jnli-v1.3/valid-v1.3.json", task)
    labels = [row.label for row in rows]
    assert score(task, rows, labels) == {"accuracy": 1, "accuracy_1.1": (2434 - 29) / 2434, "accuracy_1.3": 1}
    old = labels_by_version(rows)["1.1"]
    # The file of 1.1, as its texts are those of 1.3: its own labels are the old ones.
    before = [replace(row, label=label) for row, label in zip(rows, old, strict=True)]
    assert score(task, before, labels) == {"accuracy": (2434 - 29) / 2434, "accuracy_1.1": (2434 - 29) / 2434, "accuracy_1.3": 1}
    changed = [replace(rows[0], label=0), *rows[1:]]
    for other in (rows[:-1], changed, [replace(rows[0], texts=("別", "文")), *rows[1:]]):
        assert labels_by_version(other) == {}, "labels or texts of no published version"


@pytest.mark.parametrize("name", ["marc-ja", "jsts", "jsquad"])
def test_a_file_without_labels_is_a_test_file_and_nothing_else(tmp_path, name) -> None:
    task, path = TASKS[name], tmp_path / "rows.json"
    toy.write_unlabelled(path, name, 5)
    rows = read_rows(path, task, may_lack_labels=True)
    assert len(rows) == 5 and not any(row.is_labelled(task) for row in rows)
    with pytest.raises(InputError, match=r"(row 0|question q0) has no (label|answer)\. Take the file"):
        read_rows(path, task)


def test_jcola_is_read_as_published_in_json_and_in_tables(tmp_path) -> None:
    task = TASKS["jcola"]
    folder = toy.write_task(tmp_path, "jcola", train=9, valid=6) / "jcola-v1.0"
    valid = folder / "in_domain_valid-v1.0.json"
    rows = read_rows(valid, task)
    assert [row.label for row in rows] == [0, 1, 0, 0, 1, 0] and rows[1].id == "1"
    for suffix, separator in ((".tsv", "\t"), (".csv", ",")):
        lines = [separator.join(("uid", "source", "label", "diacritic", "sentence", "original"))]
        lines += [separator.join((row.id, "toy", str(int(row.label)), "g", row.texts[0], "")) for row in rows]
        (folder / f"out_of_domain_valid-v1.0{suffix}").write_text("\n".join(lines) + "\n", encoding="utf-8")
        assert read_rows(folder / f"out_of_domain_valid-v1.0{suffix}", task) == rows
    (folder / "in_domain_train-v1.0.tsv").touch()
    (folder / "out_of_domain_valid_annotated-v1.0.tsv").touch()
    found = find_files(tmp_path, task)
    assert list(found) == ["train", "valid", "out_of_domain"] and {found["train"].suffix, found["valid"].suffix} == {".json"}
    assert score(task, rows, [1] * 6) == {"accuracy": 2 / 6, "mcc": 0}
    for label in (2, True, "maybe", 0.5):
        valid.write_bytes(orjson.dumps({"sentence": "あ", "label": label}))
        with pytest.raises(InputError, match=r"line 1 has the label .*, which is none of 0 .unacceptable. and 1 .acceptable."):
            read_rows(valid, task)
    (folder / "short.tsv").write_text("uid\tlabel\tsentence\n1\t1\n")
    with pytest.raises(InputError, match="line 2 has no text in 'sentence'"):
        read_rows(folder / "short.tsv", task)


def test_a_test_file_in_which_only_some_rows_have_labels_is_refused(tmp_path) -> None:
    rows = toy.rows_of("jsts", 3)
    del rows[2]["label"]
    (tmp_path / "rows.json").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    with pytest.raises(InputError, match="row 2 has no label; a test file has all or none"):
        read_rows(tmp_path / "rows.json", TASKS["jsts"], may_lack_labels=True)


def test_a_folder_is_needed_unless_both_files_are_named(tmp_path) -> None:
    file = tmp_path / "rows.json"
    file.touch()
    assert find_files(None, TASKS["jsts"], file, file) == {"train": file, "valid": file}
    with pytest.raises(ConfigError, match=r"--data is missing\. Name JGLUE's folder 'datasets', or both files"):
        find_files(None, TASKS["jsts"], train=file)
