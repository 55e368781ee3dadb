"""A full disk, a missing directory or too few descriptors are seen behind the exceptions of libraries, and named with a remedy."""

import errno
import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from jadeberta.errors import OutputError
from jadeberta.utils.files import atomic_file, naming
from preprocess.executors.executor import portable_error
from preprocess.executors.system_errors import system_errno


def library_error(cause: OSError) -> RuntimeError:
    error = RuntimeError("it failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error, number",
    [
        (OSError(errno.EDQUOT, "x"), errno.EDQUOT),
        (Exception("No space left on device (os error 28)"), errno.ENOSPC),
        (RuntimeError('Not found: "seed.tsv": No such file or directory Error #2'), errno.ENOENT),
        (RuntimeError("unable to open file: Too many open files"), errno.EMFILE),
        (library_error(OSError(errno.EROFS, "x")), errno.EROFS),
        (MemoryError(), errno.ENOMEM),
        (ValueError("28 is not a number"), 0),
        (RuntimeError("vocabulary size too high (5000)"), 0),
        (KeyError("Permission denied"), 0),
    ],
)
def test_the_systems_error_is_found_in_class_text_or_cause(error: BaseException, number: int) -> None:
    assert system_errno(error) == number


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_rust_librarys_full_disk_is_one_sentence_with_a_remedy() -> None:
    with pytest.raises(Exception) as raised:
        Tokenizer(WordLevel({"a": 0}, unk_token="a")).save("/dev/full")
    error = portable_error(raised.value, "rank 3")
    assert isinstance(error, OutputError)
    assert "No space left on device, on rank 3. Make room ('df' shows the bytes that are left, 'df -i' the inodes)" in str(error)


def test_a_write_to_a_full_disk_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError) as raised, atomic_file(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert raised.value.filename == str(tmp_path / "a.json")
    # An error that names a file keeps it: it may be of a file that was read.
    with pytest.raises(OSError) as raised, naming(tmp_path / "a.json"):
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), "b.json")
    assert raised.value.filename == "b.json"


def test_an_error_without_a_number_keeps_its_words_and_lacking_memory_names_no_file() -> None:
    error = portable_error(OSError(None, "the liveness file cannot be written", "out/a"), "this process")
    assert isinstance(error, OutputError)
    assert str(error).startswith("out/a: the liveness file cannot be written, on this process. Mend the disk or the path")
    error = portable_error(MemoryError(), "rank 3")
    assert str(error).startswith("Cannot allocate memory, on rank 3. Give the job more memory")


def test_an_error_of_the_program_stays_one() -> None:
    error = portable_error(KeyError("documents"), "rank 0")
    assert not isinstance(error, OutputError) and "KeyError" in str(error)
