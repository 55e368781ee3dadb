"""A release loads alike in transformers 4.44 and 4.57 as in the version of this environment, without jadeberta."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import DebertaV2Config, DebertaV2ForMaskedLM, set_seed

from jadeberta.release.typed_text import TYPED, take_typed_text
from tests.release.released_tokenizer import SENTENCES, make_tokenizer

PACKAGES = {"4.44.2": ["tokenizers==0.19.1"], "4.57.6": ["tokenizers==0.22.2"]}
SHARED = ["huggingface_hub==0.36.2", "requests", "urllib3", "idna", "certifi", "charset-normalizer"]
MASKED = ("京都 大学 で [MASK] する 。", "京都　大学　で [MASK] する 。")
PROGRAM = """
import json, sys
import transformers
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline
folder, texts, masked = sys.argv[1], *map(json.loads, sys.argv[2:])
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder).eval()
fill = pipeline("fill-mask", model=model, tokenizer=tokenizer)
found = {
    "ids": [tokenizer(text)["input_ids"] for text in texts],
    "keys": sorted(tokenizer(texts[0])),
    "decoded": [tokenizer.decode(tokenizer(text)["input_ids"]) for text in texts],
    "filled": [[(guess["token"], round(guess["score"], 5)) for guess in fill(text)] for text in masked],
}
assert not {"jadeberta", "preprocess"} & sys.modules.keys()
print(json.dumps([transformers.__version__, found]))
"""


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = make_tokenizer(tmp_path_factory.mktemp("release") / "model")
    take_typed_text(directory)
    set_seed(0)
    config = DebertaV2Config(
        vocab_size=140, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, type_vocab_size=0,
        relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"], norm_rel_ebd="layer_norm", share_att_key=True,
        position_biased_input=False, max_position_embeddings=64, pooler_hidden_size=32, conv_kernel_size=3, conv_act="gelu",
    )  # fmt: skip
    DebertaV2ForMaskedLM(config).save_pretrained(directory)
    return directory


def ask(release: Path, *path: Path) -> tuple[str, dict]:
    """The version of transformers that answers, and what it finds."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    environment |= {"PYTHONPATH": str(path[0])} if path else {}
    arguments = [str(release), json.dumps([*TYPED, *SENTENCES]), json.dumps(MASKED)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], env=environment, cwd=release, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    version, found = json.loads(done.stdout.splitlines()[-1])
    return version, found


@pytest.mark.long  # pip takes up to a minute for each version
@pytest.mark.parametrize("version", PACKAGES)
def test_a_release_gives_the_same_in_an_older_transformers(release: Path, tmp_path: Path, version: str) -> None:
    packages = [f"transformers=={version}", *PACKAGES[version], *SHARED]
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path / "packages"), *packages]
    installed = subprocess.run(command, capture_output=True, text=True, timeout=500)
    if installed.returncode:
        pytest.skip(f"pip cannot install transformers {version} here: {installed.stderr.strip().splitlines()[-1][:200]}")
    (_, here), (other, there) = ask(release), ask(release, tmp_path / "packages")
    assert other == version and there == here
    assert there["filled"][0] == there["filled"][1]
