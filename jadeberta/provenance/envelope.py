"""Signed statements: DSSE envelopes with Ed25519 keys, one envelope a line in `provenance.intoto.jsonl`, as tools of in-toto read them.

The library `cryptography` signs where it is installed (extra `sign`), else the program openssl, from version 3 on.
Source: github.com/secure-systems-lab/dsse, protocol.md and envelope.md.
"""

import base64
import binascii
import hashlib
import os
import re
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import orjson

from jadeberta.errors import ConfigError
from jadeberta.provenance.safe_files import UnsafeFile, parse_object

PAYLOAD_TYPE = "application/vnd.in-toto+json"
ED25519_KEY = bytes.fromhex("302a300506032b6570032100")
"""How the public key of Ed25519 begins as DER (RFC 8410); 32 bytes follow."""
LARGEST_KEY = 1 << 16
OPENSSL_SECONDS = 30
OPENSSL_VERSION = re.compile(rb"OpenSSL (\d+)\.")
"""LibreSSL calls itself so; it and OpenSSL 1.1 do not sign with Ed25519 as this module asks for it."""


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """Returns the bytes that are signed (DSSE v1, PAE)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(statement: bytes, key: Path) -> bytes:
    """Returns the envelope of a statement, a line.

    Args:
        statement: bytes of the statement's file.
        key: file of a private key of Ed25519 as PEM, without a passphrase.

    Raises:
        ConfigError: there is no such key, or nothing here that can sign.
    """
    require_key(key, "--sign-key")
    signature, public = _signed(pre_authentication(PAYLOAD_TYPE, statement), key)
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(statement).decode(),
        "signatures": [{"keyid": key_id(public), "sig": base64.b64encode(signature).decode()}],
    }
    return orjson.dumps(envelope, option=orjson.OPT_APPEND_NEWLINE)


def verify_envelope(content: bytes, statement: bytes, key: Path) -> str:
    """Checks that an envelope holds a statement, signed by a key; returns the key's id.

    Args:
        content: of the envelope's file.
        statement: bytes of the statement's file.
        key: file of a public key of Ed25519 as PEM.

    Raises:
        UnsafeFile: it does not.
        ConfigError: there is no such key, or nothing here that can check a signature.
    """
    require_key(key, "--verify-key")
    payload, signatures = read_envelope(content)
    if payload != statement:
        raise UnsafeFile("holds another statement than provenance.json")
    message = pre_authentication(PAYLOAD_TYPE, payload)
    public = _public(key)
    # The id of a key is a hint that anybody can write; the key decides.
    if not any(_is_signed(message, signature, key) for signature in signatures):
        raise UnsafeFile(f"has no signature by the key {key_id(public)[:16]}…")
    return key_id(public)


def read_envelope(content: bytes) -> tuple[bytes, list[bytes]]:
    """Returns payload and signatures of an envelope; raises UnsafeFile where it is none."""
    envelope = parse_object(content)
    if envelope.get("payloadType") != PAYLOAD_TYPE:
        raise UnsafeFile(f"is no DSSE envelope of {PAYLOAD_TYPE}")
    signatures = envelope.get("signatures")
    if not isinstance(signatures, list) or not 0 < len(signatures) <= 16 or not all(isinstance(s, dict) for s in signatures):
        raise UnsafeFile("has no signatures, or more than sixteen")
    return _base64(envelope.get("payload")), [_base64(s.get("sig")) for s in signatures]


def key_id(public: bytes) -> str:
    """Returns the id of a public key: the sha256 of its DER."""
    return hashlib.sha256(public).hexdigest()


def require_key(key: Path, option: str) -> None:
    """Raises ConfigError where a key's file cannot be a PEM, before anything long begins; says nothing of its content."""
    try:
        # A pipe would be waited for, and is empty when the key is read again.
        descriptor = os.open(key, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        raise ConfigError(f"{option} {key}: cannot be read as a file ({e.strerror}); name an Ed25519 key as PEM.") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ConfigError(f"{option} {key}: cannot be read as a file (a folder, a pipe or a device); name an Ed25519 key as PEM.")
    try:
        with open(descriptor, "rb") as f:
            content = f.read(LARGEST_KEY + 1)
    except OSError as e:
        raise ConfigError(f"{option} {key}: cannot be read ({e.strerror}); name an Ed25519 key as PEM.") from None
    wanted = b"PRIVATE KEY" if option == "--sign-key" else b"PUBLIC KEY"
    if len(content) > LARGEST_KEY or b"-----BEGIN " + wanted not in content:
        kind = "private" if option == "--sign-key" else "public"
        raise ConfigError(f"{option} {key}: no {kind} key as PEM; make one with 'openssl genpkey -algorithm ed25519'.")


def _base64(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise UnsafeFile("holds something else than base64") from None


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError:
        return None
    return serialization


def _no_ed25519(key: Path) -> ConfigError:
    return ConfigError(f"{key}: no key of Ed25519 that can be used; make one with 'openssl genpkey -algorithm ed25519'.")


def _signed(message: bytes, key: Path) -> tuple[bytes, bytes]:
    """Signature, and the public key as DER."""
    if (serialization := _library()) is None:
        public = _openssl("pkey", "-in", str(key), "-passin", "pass:", "-pubout", "-outform", "DER", key=key)
        _require_ed25519(public, key)
        return _openssl("pkeyutl", "-sign", "-inkey", str(key), "-passin", "pass:", "-rawin", message=message, key=key), public
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        private = serialization.load_pem_private_key(key.read_bytes(), None)
        public = private.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        _require_ed25519(public, key)
        return private.sign(message), public
    except (ValueError, TypeError, AttributeError, OSError, UnsupportedAlgorithm):
        raise _no_ed25519(key) from None


def _public(key: Path) -> bytes:
    """A public key as DER."""
    if (serialization := _library()) is None:
        public = _openssl("pkey", "-pubin", "-in", str(key), "-pubout", "-outform", "DER", key=key)
    else:
        from cryptography.exceptions import UnsupportedAlgorithm

        try:
            loaded = serialization.load_pem_public_key(key.read_bytes())
            public = loaded.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        except (ValueError, TypeError, AttributeError, OSError, UnsupportedAlgorithm):
            raise _no_ed25519(key) from None
    _require_ed25519(public, key)
    return public


def _is_signed(message: bytes, signature: bytes, key: Path) -> bool:
    if len(signature) != 64:
        return False
    if (serialization := _library()) is None:
        with tempfile.NamedTemporaryFile() as f:
            f.write(signature)
            f.flush()
            arguments = ("pkeyutl", "-verify", "-pubin", "-inkey", str(key), "-rawin", "-sigfile", f.name)
            return b"Verified Successfully" in _openssl(*arguments, message=message, key=key, may_fail=True)
    from cryptography.exceptions import InvalidSignature

    try:
        serialization.load_pem_public_key(key.read_bytes()).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _require_ed25519(public: bytes, key: Path) -> None:
    if len(public) != len(ED25519_KEY) + 32 or not public.startswith(ED25519_KEY):
        raise _no_ed25519(key)


def _openssl(*arguments: str, key: Path, message: bytes | None = None, may_fail: bool = False) -> bytes:
    """Runs openssl; returns its output.

    Args:
        arguments: of the program.
        key: named in errors.
        message: content of the file that is signed.
        may_fail: whether a failure is an answer.
    """
    if (program := shutil.which("openssl")) is None:
        raise ConfigError(
            "signatures need the library cryptography or the program openssl; install one, e.g. by pip install 'jadeberta[sign]'."
        )
    version = _run(program, "version").stdout
    number = OPENSSL_VERSION.match(version)
    if number is None or int(number[1]) < 3:
        # Its failure to check a signature would read as a wrong signature.
        name = " ".join(version.decode(errors="replace").split())[:60]
        raise ConfigError(
            f"{program}: is {name or 'no OpenSSL'!a}, and signatures need OpenSSL 3 or later, or the library cryptography; install one, "
            "e.g. by pip install 'jadeberta[sign]'."
        )
    with tempfile.NamedTemporaryFile() as f:
        # A file and not a pipe: Ed25519 has to know the whole message.
        f.write(message or b"")
        f.flush()
        done = _run(program, *arguments, *(("-in", f.name) if message is not None else ()))
    if done.returncode and not may_fail:
        raise _no_ed25519(key)
    return done.stdout


def _run(*command: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=OPENSSL_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as e:
        why = e.strerror if isinstance(e, OSError) else f"no answer within {OPENSSL_SECONDS} s"
        raise ConfigError(f"{command[0]}: cannot be used for signatures ({why}); install the library cryptography.") from e
