"""Which columns of a Parquet file a corpus needs, and whether they can hold what the recipe asks of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jadeberta.shards import InputError
from preprocess.readers.input_split import ReaderSettings
from preprocess.readers.jsonl import TEXT_KEYS
from preprocess.readers.rows.where import Kind, Where, parse_where

SHOWN_COLUMNS = 12
"""Most columns that an error names."""
Broken = dict[int, tuple[str, str]]
"""Rows that cannot be read, by their number in a batch: a short name for what is wrong, and what is wrong."""
_KINDS: dict[Kind, str] = {"string": "strings", "number": "numbers", "truth value": "truth values", "null": "nulls"}


@dataclass(frozen=True)
class Column:
    """A column, or a field of a struct column."""

    names: tuple[str, ...]
    """Name of the column and those of the fields in it."""
    type: pa.DataType

    @property
    def selection(self) -> str:
        """The name by which pyarrow reads it, and no other field of the struct."""
        return ".".join(self.names)

    def array(self, batch: pa.RecordBatch) -> pa.Array:
        """Returns the values of a batch; a field of a null struct is null."""
        whole = batch.column(batch.schema.get_field_index(self.names[0]))
        found = pc.struct_field(whole, list(self.names[1:])) if self.names[1:] else whole
        return found.dictionary_decode() if pa.types.is_dictionary(found.type) else found

    def values(self, batch: pa.RecordBatch, broken: Broken) -> list[Any]:
        """Returns the values of a batch as Python's; rows that are not UTF-8 are None and go into `broken`."""
        array = self.array(batch)
        if _is_binary(self.type) and not isinstance(array, pa.ExtensionArray):
            return [_decoded(value, number, self, broken) for number, value in enumerate(array.to_pylist())]
        try:
            values: list[Any] = array.to_pylist()
        except UnicodeDecodeError:
            # Rare, so it may be slow: one of the rows is bad, and the others are not to go with it.
            values = [_one_value(array, number, self, broken) for number in range(len(array))]
        return values


@dataclass(frozen=True)
class Columns:
    """The columns that are read of a file."""

    text: Column
    title: Column | None
    id: Column | None
    where: Where | None
    fields: tuple[Column, ...]
    """Those that `where` names, in its order."""

    @property
    def selection(self) -> list[str]:
        """Names for pyarrow, each once."""
        wanted = [column for column in (self.text, self.title, self.id, *self.fields) if column is not None]
        return list(dict.fromkeys(column.selection for column in wanted))


def find_columns(path: Path, schema: pa.Schema, corpus: str, settings: ReaderSettings) -> Columns:
    """Finds the columns that a corpus needs.

    Args:
        path: the file, for errors.
        schema: its schema.
        corpus: name of the corpus, for errors.
        settings: what the recipe says.

    Raises:
        InputError: one is missing or of a type that it cannot have.
    """
    finder = _Finder(path, schema, f"preprocess.corpora.{corpus}.")
    text = finder.text(settings.text_key)
    title = finder.optional("title", _is_text)
    id_ = finder.id(settings.id_key) if settings.id_key else finder.optional("id", _is_id)
    if not settings.where:
        return Columns(text, title, id_, None, ())
    where = parse_where(settings.where, f"preprocess.corpora.{corpus}.where")
    return Columns(text, title, id_, where, finder.fields(where))


class _Finder:
    def __init__(self, path: Path, schema: pa.Schema, keys: str) -> None:
        self._path, self._schema, self._keys = path, schema, keys

    def text(self, named: str) -> Column:
        for key in (named,) if named else TEXT_KEYS:
            if (column := self._find(key)) is not None:
                if _is_text(column.type) or (named and _is_texts(column.type)):
                    return column
                lists = "" if named or not _is_texts(column.type) else "name it by text_key to join its strings, or "
                raise self._wrong(column, "and a text is a string", f"{lists}name the column of the text by {self._keys}text_key")
        raise self._missing(named or " or ".join(TEXT_KEYS), f"name the column of the text by {self._keys}text_key")

    def id(self, named: str) -> Column:
        column = self._find(named)
        if column is None:
            raise self._missing(named, f"correct {self._keys}id_key")
        if not _is_id(column.type):
            raise self._wrong(column, "and an id is a string or an integer", f"name another column by {self._keys}id_key")
        return column

    def optional(self, name: str, fits: Callable[[pa.DataType], bool]) -> Column | None:
        """Returns the column of a usual name, if there is one that fits."""
        column = self._find(name) if self._schema.get_field_index(name) >= 0 else None
        return column if column is not None and fits(column.type) else None

    def fields(self, where: Where) -> tuple[Column, ...]:
        found = {}
        for name in where.fields:
            column = self._find(name)
            if column is None:
                raise self._missing(name, f"correct {self._keys}where")
            found[name] = column
        for use in where.uses:
            column, wanted = found[use.field], use.kinds - {"null"}
            kind, in_list = _kind(column.type)
            if kind == "null" or not wanted:
                continue
            compared = " and ".join(_KINDS[one] for one in sorted(wanted))
            # Nothing could be true of it, and all rows would be dropped.
            if use.as_list != in_list or kind not in wanted:
                problem = (
                    f"and where looks for {compared} in a list there" if use.as_list else f"and where compares it with {compared}"
                )
                raise self._wrong(column, problem, f"correct {self._keys}where")
        return tuple(found.values())

    def _find(self, path: str) -> Column | None:
        """Returns the column of a path; one whose own name holds dots comes before a field of a struct."""
        if len(self._schema.get_all_field_indices(path)) > 1:
            raise InputError(f"{self._path}: two columns are named {path}; write the file again with other names.")
        if (index := self._schema.get_field_index(path)) >= 0:
            return Column((path,), _storage(self._schema.field(index).type))
        dot = path.rfind(".")
        while dot > 0:
            outer = self._find(path[:dot])
            if outer is not None and pa.types.is_struct(outer.type) and (inner := _in_struct(outer, path[dot + 1 :])) is not None:
                return inner
            dot = path.rfind(".", 0, dot)
        return None

    def _missing(self, name: str, remedy: str) -> InputError:
        names = [str(name) for name in self._schema.names]
        more = f" and {len(names) - SHOWN_COLUMNS:,} more" if len(names) > SHOWN_COLUMNS else ""
        columns = f"its columns are {', '.join(names[:SHOWN_COLUMNS])}{more}" if names else "it has no column"
        return InputError(f"{self._path}: no column {name}; {columns}; {remedy}.")

    def _wrong(self, column: Column, problem: str, remedy: str) -> InputError:
        # The type of a struct of hundreds of fields would fill the screen.
        type_ = str(column.type).replace("\n", " ")
        return InputError(f"{self._path}: column {column.selection} is of type {type_[:80]}, {problem}; {remedy}.")


def _in_struct(outer: Column, path: str) -> Column | None:
    index = outer.type.get_field_index(path)
    if index >= 0:
        return Column((*outer.names, path), _storage(outer.type.field(index).type))
    dot = path.rfind(".")
    while dot > 0:
        inner = _in_struct(outer, path[:dot])
        if inner is not None and pa.types.is_struct(inner.type) and (found := _in_struct(inner, path[dot + 1 :])) is not None:
            return found
        dot = path.rfind(".", 0, dot)
    return None


def _storage(type_: pa.DataType) -> pa.DataType:
    """Returns the type of the values; an extension type, such as JSON, says what they mean."""
    if isinstance(type_, pa.BaseExtensionType) and not isinstance(type_, pa.UuidType):
        type_ = type_.storage_type
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def _is_binary(type_: pa.DataType) -> bool:
    return pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_binary_view(type_)


def _is_text(type_: pa.DataType) -> bool:
    # Writers without the logical type leave strings as bytes.
    strings = pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)
    return strings or _is_binary(type_) or pa.types.is_null(type_)


def _is_texts(type_: pa.DataType) -> bool:
    return _is_list(type_) and _is_text(_storage(type_.value_type)) and not _is_binary(type_.value_type)


def _is_list(type_: pa.DataType) -> bool:
    return pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_)


def _is_id(type_: pa.DataType) -> bool:
    return _is_text(type_) or pa.types.is_integer(type_) or pa.types.is_decimal(type_) or isinstance(type_, pa.UuidType)


def _kind(type_: pa.DataType) -> tuple[Kind | None, bool]:
    """Returns the kind of a column's values as `where` knows them, or None; and whether they are in lists."""
    if _is_list(type_):
        return _kind(_storage(type_.value_type))[0], True
    if pa.types.is_null(type_):
        return "null", False
    if _is_text(type_):
        return "string", False
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return "number", False
    return ("truth value" if pa.types.is_boolean(type_) else None), False


def _decoded(value: bytes | None, number: int, column: Column, broken: Broken) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError as e:
        broken[number] = ("not UTF-8", f"byte {e.start + 1} of column {column.selection} is not valid UTF-8")
        return None


def _one_value(array: pa.Array, number: int, column: Column, broken: Broken) -> Any:
    try:
        return array[number].as_py()
    except UnicodeDecodeError as e:
        broken[number] = ("not UTF-8", f"byte {e.start + 1} of column {column.selection} is not valid UTF-8")
        return None
