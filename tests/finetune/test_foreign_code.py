"""A model that brings Python code of its own is refused; nobody is asked, and nothing of it runs."""

import builtins
import json
from pathlib import Path

import pytest

from jadeberta.errors import CheckpointError
from jadeberta.finetune.pretrained import load_pretrained


def test_code_beside_a_model_is_refused_without_a_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"model_type": "own", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (tmp_path / "spm.model").write_bytes(b"stands for a tokenizer")
    asked: list[object] = []
    monkeypatch.setattr(builtins, "input", lambda *question: asked.append(question) or "y")
    with pytest.raises(CheckpointError, match=r"Python code of its own, which is never run\. Name a model without\.$"):
        load_pretrained(tmp_path)
    assert asked == [] and not (tmp_path / "ran").exists()
