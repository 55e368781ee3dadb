"""A statement, a release and folders that somebody has crafted: one sentence each, and nothing outside the named folders is read."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save

from jadeberta.errors import CheckpointError, ConfigError
from jadeberta.provenance import safe_files
from jadeberta.provenance.cli import follow, main
from tests.provenance.conftest import Chain

Change = Callable[[dict[str, Any]], object]


def definition(statement: dict[str, Any]) -> dict[str, Any]:
    return statement["predicate"]["buildDefinition"]


def named(name: Any) -> Change:
    return lambda s: s["subject"].append({"name": name, "digest": {"sha256": "0" * 64}})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (named("../../etc/passwd"), "leads out of the folder"),
        (named("/etc/passwd"), "leads out of the folder"),
        (named("a/./b"), "leads out of the folder"),
        (named("a\0b"), "can be no name of a file"),
        (named("x" * 300), "can be no name of a file"),
        (named("\ud800"), "is not UTF-8"),
        (named("a\ngood   weights"), "holds a control character"),
        (named("a\x1b[2J"), "holds a control character"),
        (named("config.json"), "names the file 'config.json' twice"),
        (named(7), "has no text subject"),
        (lambda s: s.update(subject=[]), "names no file"),
        (lambda s: s.update(subject={"name": "x"}), "has no list subject"),
        (lambda s: s.update(subject=[None]), "has no text subject"),
        (lambda s: s["subject"][0].update(digest={"sha256": "XYZ"}), "hexadecimal digits"),
        (lambda s: s["subject"][0].update(digest=[]), "hexadecimal digits"),
        (lambda s: s["subject"][0].update(digest={}), "has no sha256"),
        (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "no in-toto statement v1"),
        (lambda s: s.update(predicate=[]), "has no object predicate"),
        (lambda s: s["predicate"].pop("runDetails"), "has no object predicate.runDetails"),
        (lambda s: definition(s).update(buildType="https://example.org"), "none of this program's releases"),
        (lambda s: definition(s).update(externalParameters=None), "has no object"),
        (lambda s: definition(s).update(resolvedDependencies="x"), "has no list"),
        (lambda s: definition(s)["resolvedDependencies"].append(definition(s)["resolvedDependencies"][0]), "twice"),
        (lambda s: definition(s)["resolvedDependencies"][0].update(annotations=None), "has no object"),
        (lambda s: definition(s)["resolvedDependencies"][0]["annotations"].update(kind="virus"), "does not know"),
        (lambda s: definition(s)["resolvedDependencies"][0]["annotations"].update(x=[1]), "neither a text nor a whole number"),
        (lambda s: definition(s)["resolvedDependencies"][0]["annotations"].update(x="\ud800"), "is not UTF-8"),
        (lambda s: definition(s)["resolvedDependencies"][0].update(name="\ud800"), "is not UTF-8"),
    ],
)
def test_a_crafted_statement_is_refused_in_a_sentence(chain: Chain, change: Change, sentence: str) -> None:
    statement = chain.statement()
    change(statement)
    chain.rewrite(json.dumps(statement).encode())
    with pytest.raises(CheckpointError, match=sentence) as refused:
        main([str(chain.release), *chain.options])
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


def test_a_file_that_is_no_json_of_a_statement_is_refused_in_a_sentence(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (chain.release / "provenance.json").read_bytes()
    for content, sentence in (
        (b"", "is no JSON that can be read"),
        (whole[: len(whole) // 2], "is no JSON that can be read"),
        (b"\xff\xfe", "is no JSON that can be read"),
        (b"[" * 100_000, "is no JSON that can be read"),
        (b'{"a": NaN}', "NaN is no number of JSON"),
        (b'{"a": %s}' % (b"9" * 5000), "is no JSON that can be read"),
        (b"[]", "is no JSON object"),
        (whole.replace(b'{', b'{"_type": "x", ', 1), "the key '_type' stands twice"),
    ):  # fmt: skip
        chain.rewrite(content)
        with pytest.raises(CheckpointError, match=sentence):
            list(follow(chain.release))
    monkeypatch.setattr(safe_files, "LARGEST_JSON", 1000)
    monkeypatch.setattr(safe_files.read_inside, "__defaults__", (1000,))
    chain.rewrite(whole)
    with pytest.raises(CheckpointError, match="has more than 1,000 bytes"):
        list(follow(chain.release))


@pytest.mark.parametrize("kind", ["file", "folder", "statement", "pipe", "folder as file"])
def test_links_and_pipes_in_a_release_are_not_followed(
    chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "config.json").write_bytes((chain.release / "generator" / "config.json").read_bytes())
    if kind == "folder":
        shutil.rmtree(chain.release / "generator")
        (chain.release / "generator").symlink_to(outside)
        name = "generator/config.json"
    else:
        name = {"statement": "provenance.json"}.get(kind, "config.json")
        (chain.release / name).rename(outside / name)
        if kind == "pipe":
            os.mkfifo(chain.release / name)
        elif kind == "folder as file":
            (chain.release / name).mkdir()
        else:
            (chain.release / name).symlink_to(outside / name)
    if kind == "statement":
        sentence = r"provenance\.json: is a symbolic link, .*; load the release by 'hf download .*--local-dir DIR'"
        with pytest.raises(CheckpointError, match=sentence):
            main([str(chain.release)])
        return
    assert main([str(chain.release)]) == 1
    (line, *_) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wrong")]
    reason = "is a symbolic link, or lies behind one" if kind in ("file", "folder") else "is a folder, a pipe or a device"
    assert f"{name}: {reason}" in line


def test_shards_whose_files_lie_behind_links_are_not_read(
    chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("web-00000.tar", "tokenizer"):
        (chain.shards / name).rename(tmp_path / name)
        (chain.shards / name).symlink_to(tmp_path / name)
    assert main([str(chain.release), "--shards", str(chain.shards)]) == 1
    lines = capsys.readouterr().out.splitlines()
    wrong = [line for line in lines if line.startswith("wrong")]
    assert not any("files are as index.json says" in line for line in lines)
    assert len(wrong) == 2 and all("such links are not followed" in line for line in wrong)


@pytest.mark.parametrize("part", ["../../../../etc/passwd", "/etc/passwd", 7, None])
def test_markers_that_name_parts_elsewhere_are_wrong(chain: Chain, capsys: pytest.CaptureFixture[str], part: Any) -> None:
    marker = next((chain.shards / "work" / "documents" / "web").glob("*.json"))
    marker.write_text(json.dumps({"parts": [{"file": part}]}))
    assert main([str(chain.release), "--shards", str(chain.shards)]) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wrong")]
    assert any("documents" in line and "their parts cannot be read" in line for line in wrong)


def test_a_corpus_that_leads_out_and_a_checkpoint_that_is_none_are_wrong(
    chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    statement = chain.statement()
    for link in definition(statement)["resolvedDependencies"]:
        if link["annotations"].get("corpus") == "web" and link["annotations"]["kind"] == "documents":
            link["annotations"]["corpus"] = "../../.."
        if link["annotations"].get("file") == "web.jsonl":
            link["annotations"]["file"] = "../../etc/passwd"
        if link["annotations"]["kind"] == "checkpoint":
            link["name"] = "../../somewhere/manifest.json"
    chain.rewrite(statement)
    assert main([str(chain.release), *chain.options]) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wrong")]
    assert any("'../../somewhere/manifest.json' in provenance.json is no checkpoint" in line for line in wrong)
    # The record beside the shards, whose hash is right, says otherwise.
    assert any("has other links than provenance.json" in line for line in wrong)


def test_raw_files_are_found_in_any_folder_and_links_to_them_are_not_followed(
    chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (chain.corpora / "deep" / "er").mkdir(parents=True)
    (chain.corpora / "web.jsonl").rename(chain.corpora / "deep" / "er" / "web.jsonl")
    (chain.corpora / "web-ja.jsonl").rename(tmp_path / "web-ja.jsonl")
    (chain.corpora / "web-ja.jsonl").symlink_to(tmp_path / "web-ja.jsonl")
    assert main([str(chain.release), "--corpora", str(chain.corpora)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("web: 1 files by their sha256" in line for line in lines)
    assert any(line.startswith("open   raw file") and "such links are not followed" in line for line in lines)


def test_folders_that_are_none_are_named(chain: Chain) -> None:
    for options in (
        [str(chain.release / "none")],
        [str(chain.release), "--shards", "none"],
        [str(chain.release / "config.json")],
    ):
        with pytest.raises(ConfigError, match="no such directory"):
            main(options)


def test_names_on_the_disk_forge_no_line_and_can_be_printed(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    (chain.release / "a\ngood   signature").write_bytes(b"")
    (chain.release / os.fsdecode(b"b\xff.bin")).write_bytes(b"")
    assert main([str(chain.release)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("wrong") for line in lines) == 2 and not any(line.startswith("good   signature") for line in lines)
    assert main([str(chain.release), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["links"]
    assert [link["file"] for link in found if link["state"] == "wrong"] == ["a\\ngood   signature", "b\\udcff.bin"]


def test_a_card_is_not_taken_into_a_statement_that_cannot_be_written(chain: Chain) -> None:
    for value in (10**30, "\ud800"):
        statement = chain.statement()
        definition(statement)["internalParameters"]["x"] = value
        chain.rewrite(json.dumps(statement).encode())
        with pytest.raises(CheckpointError, match=r"the card cannot be taken into provenance\.json"):
            main([str(chain.release), "--accept-card"])


def weights_as(dtype: str) -> bytes:
    """A file of safetensors with one number of a type."""
    size = 2 if dtype == "BF16" else 1
    header = json.dumps({"x": {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


def test_weights_of_other_types_are_wrong_in_a_sentence(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    whole = load_file(chain.release / "model.safetensors")
    for content, sentence in (
        (weights_as("F8_E8M0"), "cannot be compared with the checkpoint"),
        (weights_as("BF16"), "not those of step-00000004"),
        (save({name: tensor.bfloat16() for name, tensor in whole.items()}), "not those of step-00000004"),
    ):
        (chain.release / "model.safetensors").write_bytes(content)
        assert main([str(chain.release), "--run", str(chain.run)]) == 1
        assert any(line.startswith("wrong  weights") and sentence in line for line in capsys.readouterr().out.splitlines())
