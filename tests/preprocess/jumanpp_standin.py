"""The stand-in for Juman++ as tests start it."""

import shlex
import sys
from typing import Any

from preprocess.config import SegmenterConfig
from tests.helpers import ROOT

# Python without its site modules starts three times as fast; the tests start hundreds.
COMMAND = [sys.executable, "-I", "-S", str(ROOT / "tests" / "standins" / "jumanpp")]
SEGMENT = ("--segment", "--segment-separator=\x1f")
ORDINARY = ["京都大学で自然言語処理を研究する。", "Canon EOS 80D買った", "今日は 良い 天気 です。", "外国人参政権"]


def config(**changes: Any) -> SegmenterConfig:
    return SegmenterConfig(**{"command": shlex.join(COMMAND), "batch_sentences": 8, "timeout_seconds": 20.0, **changes})
