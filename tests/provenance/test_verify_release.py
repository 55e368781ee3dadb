"""A release is followed by hashes to the files of its corpora, and a changed byte anywhere on the way is named."""

import hashlib
import json
from pathlib import Path

import pytest

from jadeberta.errors import CheckpointError
from jadeberta.provenance import corpus_links, record
from jadeberta.provenance.cli import main
from jadeberta.provenance.corpus_links import raw_links
from jadeberta.provenance.statement import BUILD_TYPE, KINDS, Dependency
from tests.provenance.conftest import Chain, export_weights, seal


def verified(chain: Chain, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, list[dict[str, str]]]:
    status = main([str(chain.release), "--json", *(options or chain.options)])
    return status, json.loads(capsys.readouterr().out)["links"]


def wrong(links: list[dict[str, str]]) -> list[dict[str, str]]:
    return [link for link in links if link["state"] == "wrong"]


def test_every_link_of_an_untouched_chain_is_good_but_those_of_the_program(
    whole_chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    status, links = verified(whole_chain, capsys)
    assert status == 0 and wrong(links) == []
    assert {link["name"] for link in links if link["state"] == "open"} == {"signature", "lock file", "program"}
    good = {link["name"] for link in links if link["state"] == "good"}
    assert good == {
        "weights", "release", "checkpoint", "recipe", "shards", "shards record", "index", "tokenizer", "words", "documents", "raw file"
    }  # fmt: skip


def test_without_other_folders_the_rest_says_which_to_name(whole_chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(whole_chain.release)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, option in {
        "checkpoint": "--run DIR",
        "shards": "--shards DIR",
        "words": "--shards DIR",
        "raw file": "--corpora DIR",
    }.items():
        assert any(line.startswith("open") and f" {name} " in line and option in line for line in lines), name
    assert lines[-1].endswith(" 0 wrong, 11 cannot be checked here")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "link", "named"),
    [
        ("release/model.safetensors", "weights", "model.safetensors"),
        ("release/generator/config.json", "release", "generator/config.json"),
        ("run/checkpoints/step-00000004/spm.model", "checkpoint", "step-00000004/spm.model"),
        ("run/checkpoints/step-00000004/manifest.json", "checkpoint", "step-00000004/manifest.json"),
        ("shards/web-00000.tar", "shards", "web-00000.tar"),
        ("shards/valid-web-00000.sums", "shards", "valid-web-00000.sums"),
        ("shards/tokenizer/spm.model", "tokenizer", "tokenizer/spm.model"),
        ("shards/provenance.json", "shards record", "provenance.json"),
        ("shards/work/words/web/web-00000.jsonl.zst", "words", "work/words/web"),
        ("shards/work/documents/web-ja/web-ja-00000.jsonl.zst", "documents", "work/documents/web-ja"),
        ("corpora/web.jsonl", "raw file", "web.jsonl"),
    ],
)  # fmt: skip
def test_a_flipped_bit_is_found_in_its_link(
    chain: Chain, capsys: pytest.CaptureFixture[str], file: str, link: str, named: str
) -> None:
    flip(chain.top / file)
    status, links = verified(chain, capsys)
    assert status == 1
    (first, *_) = [found for found in wrong(links) if found["name"] == link]
    assert named in first.get("file", "") + first["detail"]
    if "found" in first and not file.startswith("shards/work"):
        assert first["found"] == hashlib.sha256((chain.top / file).read_bytes()).hexdigest() != first["expected"]


def test_weights_of_another_step_are_found_though_every_hash_is_right(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    # Somebody puts other weights in and writes their sha256 into the statement.
    flip(chain.release / "model.safetensors")
    statement = chain.statement()
    (weights,) = [subject for subject in statement["subject"] if subject["name"] == "model.safetensors"]
    weights["digest"]["sha256"] = hashlib.sha256((chain.release / "model.safetensors").read_bytes()).hexdigest()
    chain.rewrite(statement)
    status, links = verified(chain, capsys)
    assert status == 1
    assert [link["detail"].split(" (")[0] for link in wrong(links)] == ["not those of step-00000004"]


def test_other_shards_and_a_sealed_state_of_another_run_are_wrong(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = chain.run / "checkpoints" / "step-00000004"
    state = json.loads((checkpoint / "state.json").read_text())
    state["recipe"]["training"]["seed"] = 77
    (checkpoint / "state.json").write_text(json.dumps(state))
    seal(checkpoint)
    _, links = verified(chain, capsys)
    assert [link["name"] for link in wrong(links)] == ["checkpoint"]  # the manifest is another one
    statement = chain.statement()
    definition = statement["predicate"]["buildDefinition"]
    for link in definition["resolvedDependencies"]:
        if link["annotations"]["kind"] == "checkpoint":
            link["digest"]["sha256"] = hashlib.sha256((checkpoint / "manifest.json").read_bytes()).hexdigest()
        if link["annotations"]["kind"] == "shards":
            link["digest"] = {"jadebertaFingerprint": "0" * 64}
    chain.rewrite(statement)
    _, links = verified(chain, capsys)
    assert {link["name"] for link in wrong(links)} == {"recipe", "shards"}


def test_a_file_that_the_statement_does_not_name_is_wrong_and_hidden_ones_are_not(
    chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    (chain.release / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    assert verified(chain, capsys, "--run", str(chain.run))[0] == 0
    (chain.release / "pytorch_model.bin").write_bytes(b"\x80")
    (chain.release / "model.safetensors").unlink()
    status, links = verified(chain, capsys, "--shards", str(chain.shards))
    assert status == 1
    assert [(link["file"], link["detail"]) for link in wrong(links)] == [
        ("model.safetensors", "is missing"),
        ("pytorch_model.bin", "lies there, and provenance.json does not name it"),
    ]


def test_a_card_that_was_edited_is_taken_in_when_asked(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    (chain.release / "README.md").write_text("# card\n\nlicense: apache-2.0\n")
    assert [link["file"] for link in wrong(verified(chain, capsys)[1])] == ["README.md"]
    assert main([str(chain.release), "--accept-card"]) == 0
    capsys.readouterr()
    assert verified(chain, capsys)[0] == 0


def test_a_release_from_older_shards_says_what_is_not_recorded(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = chain.run / "checkpoints" / "step-00000004"
    state = json.loads((checkpoint / "state.json").read_text())
    del state["data"]["provenance_sha256"]
    (checkpoint / "state.json").write_text(json.dumps(state))
    seal(checkpoint)
    export_weights(chain)
    (chain.shards / "provenance.json").unlink()
    status, links = verified(chain, capsys)
    assert status == 0
    assert "not recorded: the shards were made by an older version" in [
        link["detail"] for link in links if link["state"] == "open"
    ]


def test_the_statement_has_every_field_that_in_toto_and_slsa_require(whole_chain: Chain) -> None:
    statement = whole_chain.statement()
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert set(statement) == {"_type", "subject", "predicateType", "predicate"}
    files = {p.relative_to(whole_chain.release).as_posix(): p for p in whole_chain.release.rglob("*") if p.is_file()}
    del files["provenance.json"]
    assert {s["name"]: s["digest"] for s in statement["subject"]} == {
        name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for name, path in files.items()
    }
    definition, details = statement["predicate"]["buildDefinition"], statement["predicate"]["runDetails"]
    assert definition["buildType"] == BUILD_TYPE and isinstance(definition["externalParameters"], dict)
    assert details["builder"]["id"] and ":" in details["builder"]["id"]
    assert details["metadata"]["startedOn"] == "2026-11-28T18:21:57Z" and details["metadata"]["finishedOn"].endswith("Z")
    for link in definition["resolvedDependencies"]:
        # ResourceDescriptor: at least one of uri, digest and content.
        assert link["uri"] and all(isinstance(value, str) for value in link["digest"].values())
    assert {link["annotations"]["kind"] for link in definition["resolvedDependencies"]} == set(KINDS)
    assert definition["internalParameters"]["attempts"] == 2


def test_what_the_statement_leaves_out_or_invents_about_the_run_is_wrong(
    chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    statement = chain.statement()
    definition = statement["predicate"]["buildDefinition"]
    whole = definition["resolvedDependencies"]
    left_out = {"recipe", "shards", "tokenizer", "shards record", "lock file", "program"}
    definition["resolvedDependencies"] = [link for link in whole if link["annotations"]["kind"] not in left_out]
    chain.rewrite(statement)
    status, links = verified(chain, capsys, "--run", str(chain.run))
    assert status == 1 and {link["name"] for link in wrong(links)} == left_out
    definition["resolvedDependencies"] = [link for link in whole if link["annotations"]["kind"] != "checkpoint"]
    chain.rewrite(statement)
    assert [link["name"] for link in wrong(verified(chain, capsys, "--run", str(chain.run))[1])] == ["checkpoint"]
    definition["resolvedDependencies"] = whole
    (lock,) = [link for link in whole if link["annotations"]["kind"] == "lock file"]
    lock["digest"]["sha256"] = "ef" * 32
    chain.rewrite(statement)
    assert {link["detail"][-35:] for link in wrong(verified(chain, capsys, "--run", str(chain.run))[1])} == {
        "ef: is not in the ledger of the run",
        "the run, and provenance.json leaves it out"[-35:],
    }


def test_shards_below_the_folder_that_was_named_are_found(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    (chain.top / "outer").mkdir()
    chain.shards.rename(chain.top / "outer" / "shards")
    status, links = verified(chain, capsys, "--shards", str(chain.top / "outer"))
    assert status == 0
    assert {"shards", "shards record", "index", "tokenizer", "words"} <= {
        link["name"] for link in links if link["state"] == "good"
    }


def test_a_statement_of_very_many_files_leaves_them_to_the_record_of_the_shards(
    chain: Chain, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "MOST_RAW_FILES", 1)
    export_weights(chain)
    kinds = {link["annotations"]["kind"] for link in chain.statement()["predicate"]["buildDefinition"]["resolvedDependencies"]}
    assert "raw file" not in kinds and "words" in kinds
    flip(chain.corpora / "web.jsonl")
    status, links = verified(chain, capsys)
    assert status == 1 and [link["file"] for link in wrong(links)] == ["web.jsonl"]


def test_shards_whose_record_is_of_a_newer_version_are_refused_at_the_export(chain: Chain) -> None:
    path = chain.shards / "provenance.json"
    path.write_bytes(path.read_bytes().replace(b'"version": 1', b'"version": 99', 1))
    state_file = chain.run / "checkpoints" / "step-00000004" / "state.json"
    state = json.loads(state_file.read_text())
    state["recipe"]["data"]["shards"] = str(chain.shards)
    state["data"]["provenance_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    state_file.write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=r"its provenance\.json is of another version .*version 99"):
        export_weights(chain)


def raw_file(corpus: str, name: str, content: bytes) -> Dependency:
    about = {"corpus": corpus, "file": name, "bytes": len(content)}
    return Dependency("raw file", f"{corpus}/{name}", hashlib.sha256(content).hexdigest(), about)


def test_a_file_that_is_not_here_is_not_mistaken_for_another_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{folder}/wiki_00" for folder in ("AA", "AB", "AC")]
    raw = [raw_file("a", "train.jsonl", b"aaaa"), raw_file("b", "train.jsonl", b"bbbb")]
    raw += [raw_file("wiki", name, name.encode()) for name in names]
    (tmp_path / "train.jsonl").write_bytes(b"bbbb")
    for name in names[:2]:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(name.encode())
    read: list[str] = []
    whole = corpus_links.sha256_inside
    monkeypatch.setattr(corpus_links, "sha256_inside", lambda folder, name: read.append(name) or whole(folder, name))
    found = list(raw_links([tmp_path], raw))
    assert sorted((link.state, link.detail.split(":")[0]) for link in found) == [
        ("good", "b"), ("good", "wiki"), ("open", "a"), ("open", "wiki")
    ]  # fmt: skip
    assert len(read) == len(set(read)) == 3  # none is read twice
    # What lies at its place and holds something else is wrong, be it the content of another.
    (tmp_path / "AA/wiki_00").write_bytes(b"AB/wiki_00")
    (tmp_path / "train.jsonl").write_bytes(b"bbb")
    assert {link.file for link in raw_links([tmp_path], raw) if link.state == "wrong"} == {"AA/wiki_00", "train.jsonl"}
    monkeypatch.setattr(corpus_links, "MOST_FILES", 0)
    first, *others = raw_links([tmp_path], raw)
    assert first.state == "open" and "only the first are looked at" in first.detail
    assert {link.state for link in others} == {"open"}
