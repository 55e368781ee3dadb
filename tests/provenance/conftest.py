"""A release with its whole chain, made once: corpora, shards with their work/, a run of two ranks, and its weights."""

import io
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from jadeberta.checkpoint.consolidate import consolidate_weights
from jadeberta.checkpoint.manifest import MANIFEST_NAME, manifest_bytes
from jadeberta.checkpoint.state_dict import save_tensors
from jadeberta.provenance.record import write_statement
from jadeberta.shards import ShardIndex
from jadeberta.utils.files import file_sha256
from jadeberta.utils.json_lines import read_jsonl
from preprocess.config import SegmenterConfig
from tests.preprocess import tiny_corpus as tiny

RUN = Path(__file__).parents[1] / "compatibility" / "run.tar.zst"
PROGRAM = {"version": "0", "torch": "2.13.0+cpu", "commit": "ab" * 20, "lock_sha256": "cd" * 32}


@dataclass
class Chain:
    """Folders of a chain."""

    top: Path

    def __post_init__(self) -> None:
        self.release, self.shards, self.corpora, self.run = (self.top / name for name in ("release", "shards", "corpora", "run"))

    @property
    def options(self) -> list[str]:
        """Of the command, all that it takes to check every link."""
        return ["--shards", str(self.shards), "--corpora", str(self.corpora), "--run", str(self.run)]

    def statement(self) -> Any:
        return orjson.loads((self.release / "provenance.json").read_bytes())

    def rewrite(self, statement: Any) -> None:
        (self.release / "provenance.json").write_bytes(statement if isinstance(statement, bytes) else orjson.dumps(statement))


def seal(checkpoint: Path) -> None:
    """Writes the manifest of a checkpoint anew."""
    (checkpoint / MANIFEST_NAME).unlink(missing_ok=True)
    files = {path.name: (path.stat().st_size, file_sha256(path)) for path in checkpoint.iterdir()}
    (checkpoint / MANIFEST_NAME).write_bytes(manifest_bytes(int(checkpoint.name[-8:]), files))


def export_weights(chain: Chain) -> None:
    """Writes a release as `export` does, of few files and without a card by transformers."""
    checkpoint = chain.run / "checkpoints" / "step-00000004"
    state = orjson.loads((checkpoint / "state.json").read_bytes())
    shutil.rmtree(chain.release, ignore_errors=True)
    chain.release.mkdir()
    save_tensors(chain.release / "model.safetensors", consolidate_weights(checkpoint), {"format": "pt"})
    shutil.copyfile(checkpoint / "config.json", chain.release / "config.json")
    (chain.release / "README.md").write_text("# card\n")
    (chain.release / "generator").mkdir()
    (chain.release / "generator" / "config.json").write_text("{}")
    ledger = read_jsonl(chain.run / "ledger.jsonl")
    write_statement(chain.release, checkpoint, state, ledger, {"weights": "trained", "dtype": "float32"})


@pytest.fixture(scope="session")
def whole_chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Not to be changed."""
    chain = Chain(tmp_path_factory.mktemp("chain"))
    config = tiny.configure(
        tiny.write_corpora(chain.corpora),
        segmenter=SegmenterConfig("none"),
        model_type="bpe",
        vocab_size=150,
        sequence_length=128,
    )
    tiny.run_stages(config, chain.shards)
    with tarfile.open(fileobj=io.BytesIO(zstandard.ZstdDecompressor().decompressobj().decompress(RUN.read_bytes()))) as tar:
        tar.extractall(chain.top, filter="data")
    checkpoint = chain.run / "checkpoints" / "step-00000004"
    state = orjson.loads((checkpoint / "state.json").read_bytes())
    index = ShardIndex.load(chain.shards / "index.json")
    state["fingerprints"] = {"shards": index.fingerprint, "tokenizer": index.tokenizer_sha256}
    state["data"]["provenance_sha256"] = file_sha256(chain.shards / "provenance.json")
    state["recipe"]["data"]["shards"] = str(chain.shards)
    (checkpoint / "state.json").write_bytes(orjson.dumps(state))
    seal(checkpoint)
    ledger = [row | ({"program": PROGRAM} if row["event"] == "start" else {}) for row in read_jsonl(chain.run / "ledger.jsonl")]
    (chain.run / "ledger.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in ledger))
    export_weights(chain)
    return chain


@pytest.fixture
def chain(whole_chain: Chain, tmp_path: Path) -> Chain:
    """A copy that a test may change."""
    return Chain(shutil.copytree(whole_chain.top, tmp_path / "chain"))
