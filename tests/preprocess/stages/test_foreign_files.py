"""Files in OUT that the stages did not write are neither removed nor overwritten, whatever they are called."""

import shutil
from pathlib import Path

import orjson
import pytest

from jadeberta.shards import ConfigError, verify
from preprocess.executors.executor import Executor
from preprocess.stages.pack import pack
from preprocess.stages.tokenizer import train_tokenizer
from preprocess.written_files import claim, remove_leftovers, require_own_work
from tests.preprocess import tiny_corpus as tiny
from tests.preprocess.conftest import Made

TREASURE = b"ten years of work"
FOREIGN = (
    *("backup-of-my-home.tar", "md5.sums", "valid-web.tar", "web-00000.tar.gz", "notes.txt"),
    *(".photos.tar.tmp-12", ".web.sums.tmp-3", "tokenizer/.seeds.tmp-1"),
)


@pytest.fixture
def copied(tiny_shards: Made, tmp_path: Path) -> Made:
    shutil.copytree(tiny_shards.out, tmp_path / "out")
    return Made(tiny_shards.corpora, tiny_shards.config, tmp_path / "out")


def test_pack_removes_its_own_shards_and_leaves_files_of_others(copied: Made) -> None:
    for name in FOREIGN:
        (copied.out / name).write_bytes(TREASURE)
    (copied.out / ".web-00000.tar.tmp-7").write_bytes(b"left by a killed pack")
    config = tiny.configure(copied.corpora)
    del config.corpora["web-ja"]
    pack(config, copied.out, Executor())
    remove_leftovers(copied.out)
    assert {name: (copied.out / name).read_bytes() for name in FOREIGN} == dict.fromkeys(FOREIGN, TREASURE)
    assert not [*copied.out.glob("*web-ja*"), *copied.out.glob(".web-00000*")]
    assert verify(copied.out) == []


def test_an_index_put_into_out_gives_no_file_that_it_names_to_pack(copied: Made) -> None:
    index = (copied.out / "index.json").read_text(encoding="utf-8")
    (copied.out / "index.json").write_text(index.replace('"web-ja-00000.tar"', '"photos.tar"'), encoding="utf-8")
    (copied.out / "photos.tar").write_bytes(TREASURE)
    pack(copied.config, copied.out, Executor())
    assert (copied.out / "photos.tar").read_bytes() == TREASURE and verify(copied.out) == []


def test_a_name_that_pack_has_given_up_belongs_to_whoever_takes_it_next(copied: Made) -> None:
    config = tiny.configure(copied.corpora)
    del config.corpora["web-ja"]
    pack(config, copied.out, Executor())
    (copied.out / "web-ja-00000.tar").write_bytes(TREASURE)
    pack(config, copied.out, Executor())
    assert (copied.out / "web-ja-00000.tar").read_bytes() == TREASURE


@pytest.mark.parametrize("name", ["web-00000.tar", "web-00000.sums", "valid-web-ja-00000.tar", "index.json"])
def test_pack_does_not_write_over_a_file_of_another(copied: Made, name: str) -> None:
    for ours in [*copied.out.glob("*.tar"), *copied.out.glob("*.sums"), copied.out / "index.json"]:
        ours.unlink()
    shutil.rmtree(copied.out / "work" / "pack")
    (copied.out / "work" / "written.json").unlink()
    (copied.out / name).write_bytes(TREASURE)
    before = {path: path.read_bytes() for path in copied.out.iterdir() if path.is_file()}
    with pytest.raises(ConfigError, match=rf"{name}: this file is in the way and was not written by these stages; move it away"):
        pack(copied.config, copied.out, Executor())
    assert {path: path.read_bytes() for path in copied.out.iterdir() if path.is_file()} == before


def test_shards_of_a_version_without_a_record_are_known_by_their_index_and_markers(copied: Made) -> None:
    (copied.out / "work" / "written.json").unlink()
    config = tiny.configure(copied.corpora)
    del config.corpora["web-ja"]
    pack(config, copied.out, Executor())
    assert not list(copied.out.glob("*web-ja*")) and verify(copied.out) == []


def test_the_tokenizer_stage_does_not_write_over_the_tokenizer_of_another(copied: Made) -> None:
    tokenizer = copied.out / "tokenizer"
    shutil.rmtree(tokenizer)
    (copied.out / "work" / "written.json").unlink()
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_bytes(TREASURE)
    with pytest.raises(ConfigError, match=r"tokenizer/tokenizer\.json: this file is in the way"):
        train_tokenizer(copied.config, copied.out, Executor())
    assert [path.name for path in tokenizer.iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize("content", [b"not JSON", b'{"sales": 7}', b"[1]"])
def test_the_report_of_another_program_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"report\.json: this file is in the way"):
        claim(tmp_path, ["report.json"])
    (tmp_path / "report.json").write_bytes(orjson.dumps({"extract": {}}))
    claim(tmp_path, ["report.json"])


def test_a_folder_work_of_another_is_refused_and_an_own_one_is_not(tmp_path: Path) -> None:
    require_own_work(tmp_path)
    work = tmp_path / "work"
    (work / "documents").mkdir(parents=True)
    require_own_work(tmp_path)
    (work / "thesis.tex").write_bytes(TREASURE)
    with pytest.raises(ConfigError, match=r"work: holds thesis\.tex, which these stages did not write"):
        require_own_work(tmp_path)
    (work / ".lock").touch()
    require_own_work(tmp_path)
    shutil.rmtree(work)
    work.write_bytes(TREASURE)
    with pytest.raises(ConfigError, match="work: not a folder"):
        require_own_work(tmp_path)


def test_leftovers_are_removed_in_the_folders_of_the_stages_alone(tmp_path: Path) -> None:
    ours = [tmp_path / "work" / "documents" / "web" / ".web-00000.jsonl.zst.tmp-5", tmp_path / "work" / "pack" / ".a.json.tmp-6"]
    theirs = [tmp_path / "work" / "mine" / ".draft.tmp-7", tmp_path / ".profile.tmp-8"]
    for path in [*ours, *theirs]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    remove_leftovers(tmp_path)
    assert not any(path.exists() for path in ours) and all(path.exists() for path in theirs)
