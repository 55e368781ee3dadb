"""JGLUE's files are found and read row by row; what is missing or wrong is said in one sentence."""

from pathlib import Path

import orjson
import pytest

from jadeberta.errors import InputError
from jadeberta.finetune.jglue_files import find_files, read_rows
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


def test_pairs_about_one_image_belong_together(tmp_path) -> None:
    rows = toy.rows_of("jsts", 4)
    for row, captions in zip(rows, ["100312_421853-104611-31624", "100312-5-6", "100371-104675-104678", "other"], strict=True):
        row["yjcaptions_id"] = captions
    path: Path = tmp_path / "rows.json"
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    assert [row.group for row in read_rows(path, TASKS["jsts"])] == ["100312", "100312", "100371", "other"]
