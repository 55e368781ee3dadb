"""An export truncates texts at the model's longest row, and changes nothing where its tokenizer says so already."""

import json
from pathlib import Path

from jadeberta.release.export import set_longest


def test_the_tokenizers_limit_is_the_models_and_a_file_that_has_it_keeps_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer_config.json"
    written = b'{"mask_token": "[MASK]",   "model_max_length": 512}'
    path.write_bytes(written)
    set_longest(path, 512)
    assert path.read_bytes() == written
    set_longest(path, 8192)
    assert json.loads(path.read_bytes()) == {"mask_token": "[MASK]", "model_max_length": 8192}
    path.write_bytes(b'{"mask_token": "\xe3\x80\x90M\xe3\x80\x91"}')
    set_longest(path, 1024)
    assert json.loads(path.read_bytes()) == {"mask_token": "【M】", "model_max_length": 1024}
