"""One toy model for all tests of this folder, and the encoder of its text."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from jadeberta.finetune.encoder import Encoder
from preprocess.config import SegmenterConfig
from preprocess.segmenters import open_segmenter
from tests.finetune import toy_model as toy


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.make_model(tmp_path_factory.mktemp("toy") / "model")


@pytest.fixture(scope="session")
def encoder(model: Path) -> Iterator[Encoder]:
    with open_segmenter(SegmenterConfig(engine="mecab")) as segmenter:
        yield Encoder(model / "spm.model", segmenter)
