"""DeepSpeed's file: what it may not hold is refused with one sentence, before anything is started."""

import json
import re

import pytest

from jadeberta.config.deepspeed_file import read_deepspeed_file
from jadeberta.errors import ConfigError
from tests.helpers import ROOT


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "line 1: not JSON (Expecting value)"),
        (b"\xff\xfe", "cannot be read as JSON ("),
        (b'{"a":' + b"[" * 100_000, "cannot be read as JSON ("),
        *[(text, "holds " + text.decode() + ", not an object") for text in (b"[]", b"8", b"null", b'"x"', b"NaN")],
        (b'{"bf16": true}', "bf16 is true; it must be an object"),
        (b'{"zero_optimization": null}', "zero_optimization is null; it must be an object"),
        (b"{}", "zero_optimization.stage is null; it must be 1, 2 or 3"),
        *[
            (b'{"zero_optimization": {"stage": %b}}' % text, "zero_optimization.stage is " + text.decode() + "; it must")
            for text in (b"0", b"4", b"true", b'"1"', b"[1]", b"NaN")
        ],
        (b'{"zero_optimization": {"stage": 1}, "optimizer": {"type": "Adam"}}', "optimizer does not belong there, as training.lr"),
        (b'{"zero_optimization": {"stage": 1}, "scheduler": {}}', "scheduler does not belong there, as training.schedule"),
        (b'{"zero_optimization": {"stage": 1}, "fp16": {"enabled": "auto"}}', "fp16.enabled does not belong there"),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named_with_what_is_wrong(tmp_path, content: bytes, sentence: str) -> None:
    path = tmp_path / "ds.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(sentence)) as refused:
        read_deepspeed_file(str(path))
    assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value) and len(str(refused.value)) < 300


def test_the_files_of_the_project_can_be_used_and_a_directory_cannot(tmp_path) -> None:
    for stage in (1, 2, 3):
        path, settings = read_deepspeed_file(f"ds_configs/zero{stage}.json")
        assert settings == json.loads((ROOT / path).read_text()) and settings["zero_optimization"]["stage"] == stage
    with pytest.raises(ConfigError, match="no such file"):
        read_deepspeed_file(str(tmp_path))
