"""JGLUE's files: finds the files of a task, and reads and checks every row.

Reads the official formats as published: JSON Lines, and SQuAD 1.1 JSON for JSQuAD.
"""

import csv
import io
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from jadeberta.errors import ConfigError, InputError
from jadeberta.finetune.tasks import Task
from preprocess.text import normalise

NAMED = re.compile(r"(train|valid|test)-v(\d+(?:\.\d+)*)\.json")
JCOLA_NAMED = re.compile(r"(?:in_domain_(train|valid|test)|(out_of_domain)_valid)-v(\d+(?:\.\d+)*)\.(?:json|jsonl|tsv|csv)")
"""JCoLA's files. Those of one split are the same in every format, and JSON comes first."""
SPLITS = ("train", "valid", "test", "out_of_domain")
MOST = 5.0
"""The highest similarity in JSTS; the lowest is 0."""


@dataclass(frozen=True)
class JglueRow:
    """One row of a task's file; of JSQuAD one question."""

    id: str
    """Id in the file, else the number of the row."""
    keys: tuple[str, ...]
    """What the row is about: images, sentences, article. Rows that share one, directly or through others, go into the fold together."""
    texts: tuple[str, ...]
    """Texts of the row; of JSQuAD the question and the context."""
    label: float | None = 0
    """Similarity, class or correct choice; not used by JSQuAD. None in a test file without labels."""
    answers: tuple[tuple[str, int], ...] = ()
    """JSQuAD's answers with their first character in the context; none in a test file without answers."""

    def is_labelled(self, task: Task) -> bool:
        """Whether the row can be scored."""
        return bool(self.answers) if task.kind == "span" else self.label is not None


def find_files(data: Path | None, task: Task, train: Path | None = None, valid: Path | None = None) -> dict[str, Path]:
    """Finds the files of a task by split: train, valid, and test if there is one; of JCoLA also out_of_domain.

    Args:
        data: JGLUE's `datasets`, or the folder of the task in it; of several versions the newest is taken. Not needed where
            both files are named.
        task: of the files.
        train: a file to use instead.
        valid: a file to use instead; no test file is used then.

    Raises:
        ConfigError: no folder is named, and not both files.
        InputError: a file is missing; the message says what to download.
    """
    given = {name: path for name, path in (("train", train), ("valid", valid)) if path is not None}
    for path in given.values():
        if not path.is_file():
            raise InputError(f"{path}: no such file. Name a file in the format of JGLUE's {task.name}.")
    if len(given) == 2:
        return given
    if data is None:
        raise ConfigError("--data is missing. Name JGLUE's folder 'datasets', or both files with --train and --valid.")
    folders = [data, *(p for p in data.glob("*-v*") if p.name.replace("-", "_").startswith(f"{task.folder.replace('-', '_')}_v"))]
    versions: dict[tuple[int, ...], dict[str, Path]] = {}
    for path in (p for folder in folders for p in sorted(folder.glob("*"), key=lambda p: p.suffix != ".json")):
        if match := (JCOLA_NAMED if task.coded else NAMED).fullmatch(path.name):
            *split, version = match.groups()
            # Compared as numbers: 1.10 is newer than 1.9.
            files = versions.setdefault(tuple(map(int, version.split("."))), {})
            files.setdefault(next(filter(None, split)), path)
    wanted = [name for name in ("train", "valid") if name not in given]
    whole = [version for version, found in versions.items() if all(name in found for name in wanted)]
    if not whole:
        newest = versions[max(versions)] if versions else {}
        missing = next(name for name in wanted if name not in newest)
        raise InputError(
            f"{data}: no {missing}-v*.json of {task.name}, neither there nor in {task.folder}-v*/. {task.download}, "
            "or name the files with --train and --valid."
        )
    found = versions[max(whole)]
    # Beside a valid file of another set, JGLUE's test file would be scored as if it belonged to that set.
    taken = {name: path for name, path in found.items() if name in ("train", "valid") or "valid" not in given} | given
    return {name: taken[name] for name in SPLITS if name in taken}


def read_rows(path: Path, task: Task, may_lack_labels: bool = False) -> list[JglueRow]:
    """Reads all rows of a file.

    Args:
        path: of the file; a byte order mark at its start is skipped.
        task: of the rows.
        may_lack_labels: whether a file in which no row has a label or an answer is taken, as a test file may be.

    Raises:
        InputError: the file is not in the task's format; the message names the line, or the question of JSQuAD.
    """
    try:
        content = path.read_bytes().removeprefix(BOM_UTF8)
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror}). {task.download}.") from e
    try:
        if task.kind == "span":
            rows = list(_squad_rows(content))
        else:
            tables: dict[str, type[csv.Dialect]] = {".tsv": _Tabs, ".csv": csv.excel}
            rows = list(_table_rows(content, task, tables[path.suffix]) if path.suffix in tables else _line_rows(content, task))
        unlabelled = next((n for n, row in enumerate(rows) if not row.is_labelled(task)), None)
        if unlabelled is not None and not (may_lack_labels and not any(row.is_labelled(task) for row in rows)):
            row, lacks = rows[unlabelled], "answer" if task.kind == "span" else "label"
            also = "; a test file has all or none" if may_lack_labels else ""
            raise ValueError(f"{'question' if task.kind == 'span' else 'row'} {row.id} has no {lacks}{also}")
    except ValueError as e:
        raise InputError(f"{path}: {e}. Take the file as JGLUE publishes it ({task.name}), and check --task.") from e
    if not rows:
        raise InputError(f"{path}: no rows in it. {task.download}.")
    return rows


def _line_rows(content: bytes, task: Task) -> Iterator[JglueRow]:
    for number, line in enumerate(content.splitlines(), 1):
        try:
            if line.strip():
                yield _row(orjson.loads(line), task, number)
        except orjson.JSONDecodeError as e:
            raise ValueError(f"line {number} is not JSON ({e})") from e
        except ValueError as e:
            raise ValueError(f"line {number} {e}") from e


class _Tabs(csv.excel_tab):
    """A table with tabs, whose quotes are text."""

    quoting = csv.QUOTE_NONE


def _table_rows(content: bytes, task: Task, dialect: type[csv.Dialect]) -> Iterator[JglueRow]:
    """Rows of a table with a header, as JCoLA has beside its JSON."""
    lines = csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""), dialect=dialect)
    try:
        for row in lines:
            yield _row({name: value for name, value in row.items() if value != ""}, task, lines.line_num)
    except csv.Error as e:
        raise ValueError(f"line {lines.line_num} is no line of a table ({e})") from e
    except ValueError as e:
        raise ValueError(f"line {lines.line_num} {e}") from e


def _row(row: Any, task: Task, number: int) -> JglueRow:
    if not isinstance(row, dict):
        raise ValueError("is not an object with names and values")
    texts = tuple(_text(row, field) for field in task.fields)
    id_field = next((f for f in ("sentence_pair_id", "q_id", "review_id", "uid") if f in row), None)
    # Which sentences a pair has is no question of their order, and a caption may stand in pairs of several images.
    sentences = texts if task.group else texts[:1]
    keys = (*_images(str(row.get(task.group, ""))), *(f"text {normalise(text)}" for text in sentences))
    label = _label(row["label"], task) if row.get("label") is not None else None
    return JglueRow(str(row[id_field]) if id_field else str(number), keys, texts, label)


def _images(captions: str) -> list[str]:
    """The images of a pair's captions: '69501-75698-g103' has one, '91337_217583-96105-91680' two; of another form the whole is one.

    A caption that begins with g was written by a worker (JGLUE's README).
    """
    match = re.fullmatch(r"(\d+)(?:_(\d+))?-g?\d+-g?\d+", captions)
    return [f"image {image}" for image in (match.groups() if match else [captions]) if image]


def _label(label: Any, task: Task) -> float:
    # JSTS 1.0 has its similarities as strings.
    if task.kind == "regression" and isinstance(label, str) and re.fullmatch(r"[0-9]+(\.[0-9]+)?", label):
        label = float(label)
    number = label if isinstance(label, int | float) and not isinstance(label, bool) else None
    if task.coded:
        label = int(label) if isinstance(label, str) and label in ("0", "1") else number
        if label not in range(len(task.labels)):
            raise ValueError(f"has the label {label!r}, which is none of 0 ({task.labels[0]}) and 1 ({task.labels[1]})")
        return int(label)
    if task.labels:
        if label not in task.labels:
            raise ValueError(f"has the label {label!r}, which is none of {', '.join(task.labels)}")
        return task.labels.index(label)
    if task.kind == "choice":
        if not isinstance(number, int) or not 0 <= number < len(task.fields) - 1:
            raise ValueError(f"has the label {label!r}, which is no number of a choice (0 to {len(task.fields) - 2})")
        return number
    if number is None or not 0 <= number <= MOST:
        raise ValueError(f"has the label {label!r}, which is no similarity from 0 to {MOST:.0f}")
    return float(number)


def _text(row: dict[str, Any], field: str) -> str:
    text = row.get(field)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"has no text in '{field}'")
    return text


def _squad_rows(content: bytes) -> Iterator[JglueRow]:
    try:
        for number, article in enumerate(orjson.loads(content)["data"]):
            title = str(article.get("title") or number)
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    yield _question(question, paragraph["context"], title)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"not SQuAD 1.1 JSON ({type(e).__name__}: {e})") from e


def _question(question: dict[str, Any], context: str, group: str) -> JglueRow:
    name = f"question {question['id']}"
    answers = tuple((answer["text"], answer["answer_start"]) for answer in question.get("answers") or ())
    if question.get("is_impossible"):
        raise ValueError(f"{name} has no answer, which JSQuAD does not know")
    for text, start in answers:
        if not isinstance(text, str) or not text.strip() or not isinstance(start, int):
            raise ValueError(f"{name} has an answer without text or answer_start")
        if start < 0 or context[start : start + len(text)] != text:
            raise ValueError(f"{name} has the answer {text[:20]!r}, which does not stand at character {start} of its context")
    if not isinstance(question["question"], str) or not question["question"].strip():
        raise ValueError(f"{name} asks nothing")
    keys = (f"article {group}", f"text {context}")
    return JglueRow(str(question["id"]), keys, (question["question"], context), answers=answers)
