"""A signed release is checked with the public key; every other key, statement and envelope is refused in one sentence."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jadeberta.errors import ConfigError
from jadeberta.provenance import cli, envelope
from jadeberta.provenance.cli import main
from tests.provenance.conftest import Chain

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl is not installed, which makes the keys of these tests"
)


def make_key(folder: Path, name: str, algorithm: str = "ed25519") -> tuple[Path, Path]:
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", algorithm, "-out", private], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    folder = tmp_path_factory.mktemp("keys")
    return {"own": make_key(folder, "own"), "other": make_key(folder, "other"), "x25519": make_key(folder, "x25519", "x25519")}


def verify(chain: Chain, capsys: pytest.CaptureFixture[str], *options: object) -> tuple[int, str]:
    status = main([str(chain.release), *map(str, options)])
    lines = capsys.readouterr().out.splitlines()
    return status, next((line for line in lines if " signature " in line), lines[-1])


def test_a_release_is_signed_and_only_its_key_and_statement_fit(
    chain: Chain, keys: dict[str, tuple[Path, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(chain, capsys, "--sign-key", keys["own"][0])[1].endswith("cannot be checked here, signed")
    assert verify(chain, capsys, "--verify-key", keys["own"][1])[1].startswith("good   signature")
    assert verify(chain, capsys)[1].startswith("open   signature")
    status, line = verify(chain, capsys, "--verify-key", keys["other"][1])
    assert status == 1 and "has no signature by the key " in line
    chain.rewrite(json.dumps(chain.statement()).encode())  # the same statement, and other bytes
    status, line = verify(chain, capsys, "--verify-key", keys["own"][1])
    assert status == 1 and "holds another statement than provenance.json" in line
    status, line = verify(chain, capsys)  # and without a key
    assert status == 1 and "holds another statement than provenance.json" in line
    (chain.release / "provenance.intoto.jsonl").unlink()
    status, line = verify(chain, capsys, "--verify-key", keys["own"][1])
    assert status == 1 and "the release is not signed" in line


def test_the_signature_is_over_the_bytes_that_dsse_says(chain: Chain, keys: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    assert main([str(chain.release), "--sign-key", str(keys["own"][0])]) == 0
    (line,) = (chain.release / "provenance.intoto.jsonl").read_text().splitlines()
    found = json.loads(line)
    statement = (chain.release / "provenance.json").read_bytes()
    assert base64.b64decode(found["payload"]) == statement and found["payloadType"] == "application/vnd.in-toto+json"
    (tmp_path / "message").write_bytes(b"DSSEv1 28 application/vnd.in-toto+json %d " % len(statement) + statement)
    (tmp_path / "signature").write_bytes(base64.b64decode(found["signatures"][0]["sig"]))
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", keys["own"][1], "-rawin"]
    command += ["-in", tmp_path / "message", "-sigfile", tmp_path / "signature"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_release_with_a_fault_is_not_signed(
    chain: Chain, keys: dict[str, tuple[Path, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    (chain.release / "config.json").write_text("{}")
    status, line = verify(chain, capsys, "--sign-key", keys["own"][0])
    assert status == 1 and line.endswith(", not signed")
    assert not (chain.release / "provenance.intoto.jsonl").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"payloadType": "text/plain"}',
        b'{"payloadType": "application/vnd.in-toto+json", "payload": 7}',
        b"\xff" * 40,
    ],
)
def test_an_envelope_that_is_none_is_wrong(
    chain: Chain, keys: dict[str, tuple[Path, Path]], capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (chain.release / "provenance.intoto.jsonl").write_bytes(content)
    status, line = verify(chain, capsys, "--verify-key", keys["own"][1])
    assert status == 1 and line.startswith("wrong  signature")


def test_keys_of_other_kinds_and_files_that_are_no_keys_are_refused_without_their_content(
    chain: Chain, keys: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    secret = tmp_path / "notes.txt"
    secret.write_text("hunter2")
    os.mkfifo(tmp_path / "pipe")
    for option, file, reason in (
        ("--sign-key", keys["x25519"][0], "no key of Ed25519"),
        ("--sign-key", keys["own"][1], "no private key as PEM"),
        ("--verify-key", keys["own"][0], "no public key as PEM"),
        ("--sign-key", secret, "no private key as PEM"),
        ("--sign-key", tmp_path / "none", "cannot be read as a file"),
        ("--sign-key", tmp_path / "pipe", "cannot be read as a file"),
    ):
        with pytest.raises(ConfigError, match=reason) as refused:
            main([str(chain.release), option, str(file)])
        assert "hunter2" not in str(refused.value)


def test_without_library_and_program_the_refusal_names_the_extra(
    chain: Chain, keys: dict[str, tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(envelope, "_library", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"need the library cryptography or the program openssl; .*'jadeberta\[sign\]'"):
        main([str(chain.release), "--sign-key", str(keys["own"][0])])


def test_a_card_that_is_taken_in_ends_the_signature(
    chain: Chain, keys: dict[str, tuple[Path, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(chain.release), "--sign-key", str(keys["own"][0])]) == 0
    assert main([str(chain.release), "--accept-card"]) == 0  # the card is the same
    assert (chain.release / "provenance.intoto.jsonl").exists()
    (chain.release / "README.md").write_text("# another card\n")
    with pytest.raises(ConfigError, match="give one of them"):
        main([str(chain.release), "--accept-card", "--verify-key", str(keys["own"][1])])
    capsys.readouterr()
    assert main([str(chain.release), "--accept-card", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "sign again with --sign-key" in err and json.loads(out)["wrong"] == 0
    assert not (chain.release / "provenance.intoto.jsonl").exists()


def test_what_was_checked_is_signed_though_the_file_changes_meanwhile(
    chain: Chain, keys: dict[str, tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = (chain.release / "provenance.json").read_bytes()
    whole = cli.raw_links

    def changes(*arguments: Any) -> Any:
        chain.rewrite(b"{}")
        return whole(*arguments)

    monkeypatch.setattr(cli, "raw_links", changes)
    assert main([str(chain.release), "--sign-key", str(keys["own"][0])]) == 0
    signed = json.loads((chain.release / "provenance.intoto.jsonl").read_text())
    assert base64.b64decode(signed["payload"]) == checked


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("echo LibreSSL 3.3.6", "is 'LibreSSL 3.3.6', and signatures need OpenSSL 3 or later"),
        ("echo OpenSSL 1.1.1w  11 Sep 2023", "signatures need OpenSSL 3 or later"),
        ("exec sleep 9", "cannot be used for signatures .no answer within"),
    ],
)
def test_a_program_that_cannot_check_says_so_and_calls_no_signature_wrong(
    chain: Chain,
    keys: dict[str, tuple[Path, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    sentence: str,
) -> None:
    assert main([str(chain.release), "--sign-key", str(keys["own"][0])]) == 0
    (tmp_path / "openssl").write_text(f"#!/bin/sh\n{program}\n")
    (tmp_path / "openssl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(envelope, "_library", lambda: None)
    monkeypatch.setattr(envelope, "OPENSSL_SECONDS", 0.5)
    with pytest.raises(ConfigError, match=sentence):
        main([str(chain.release), "--verify-key", str(keys["own"][1])])
