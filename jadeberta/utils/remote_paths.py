"""Paths of object stores and web sites in a recipe: they are refused, with the command that brings the files.

Everything here reads local files: a run must not depend on a network, and a file that changes between two attempts would change the run.
"""

import re
import shlex

from jadeberta.errors import ConfigError

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):/")
_HUGGING_FACE = re.compile(
    r"(?:hf:/+|https?:/+(?:www\.)?(?:huggingface\.co|hf\.co)/)(?:(datasets|spaces|models)/)?([^/]+)/([^/@]+)(.*)"
)
HERE = "DIR"
"""Stands for the folder that the user chooses."""


def refuse_remote(text: str, what: str = "") -> None:
    """Refuses a path such as `s3://bucket/data/*.parquet`; local paths pass.

    Args:
        text: as the user wrote it.
        what: names the key or option in the error, e.g. "preprocess.corpora.web.path".

    Raises:
        ConfigError: it is no path of this machine; with the command that brings the files.
    """
    scheme = _SCHEME.match(text.strip())
    if scheme is None:
        return
    where = f"{what} {text.strip()}" if what else text.strip()
    if scheme[1].lower() == "file":
        raise ConfigError(f"{where}: write the path without file://, as {re.sub(r'^file:/+', '/', text.strip())}.")
    command = _command(text.strip(), scheme[1].lower())
    how = f"bring the files first, by: {command}" if command else "bring the files first, with the tools of that store"
    raise ConfigError(f"{where}: only local files are read; {how} (then name them there).")


def _command(url: str, scheme: str) -> str:
    """Returns the command that copies what a URL names into HERE; empty where none is known."""
    if scheme == "hf" or (scheme in ("http", "https") and _HUGGING_FACE.match(url)):
        return _hub_command(url)
    path = re.sub(r"^[^:]+:/+", f"{scheme}://", url)
    folder, _, pattern = path.rpartition("/")
    if scheme in ("s3", "s3a", "s3n"):
        folder, path = re.sub(r"^s3[an]:", "s3:", folder), re.sub(r"^s3[an]:", "s3:", path)
        if not _is_pattern(path):
            ends_in_folder = path.endswith("/") or "." not in pattern
            return f"aws s3 cp {'--recursive ' if ends_in_folder else ''}{shlex.quote(path)} {HERE}"
        folder = re.split(r"[*?\[]", path, maxsplit=1)[0].rpartition("/")[0]
        rest = re.sub(r"\*\*/\*?", "*", path[len(folder) + 1 :])
        return f"aws s3 cp --recursive {shlex.quote(folder + '/')} {HERE} --exclude '*' --include {shlex.quote(rest)}"
    if scheme in ("gs", "gcs"):
        return f"gsutil -m cp -r {shlex.quote(re.sub(r'^gcs:', 'gs:', path))} {HERE}"
    if scheme in ("http", "https"):
        return f"curl -fL -C - --create-dirs --output-dir {HERE} -O {shlex.quote(path)}"
    return ""


def _hub_command(url: str) -> str:
    match = _HUGGING_FACE.match(url)
    if match is None:
        return f"hf download OWNER/NAME --repo-type dataset --local-dir {HERE}"
    kind, owner, name, rest = match.groups()
    revision = ""
    if rest.startswith("@"):
        revision, _, rest = rest[1:].partition("/")
    elif in_site := re.match(r"/(?:resolve|blob|tree|raw)/([^/?]+)(.*)", rest):
        revision, rest = in_site.groups()
    inside = re.sub(r"\?.*$", "", rest) if url.startswith("http") else rest
    parts = [f"hf download {shlex.quote(f'{owner}/{name}')}"]
    if inside.strip("/"):
        # A folder is named by what is in it.
        last = inside.strip("/").rpartition("/")[2]
        pattern = inside.strip("/") if "." in last or _is_pattern(last) else f"{inside.strip('/')}/*"
        parts.append(f"--include {shlex.quote(pattern)}")
    if kind in ("datasets", "spaces"):
        parts.append(f"--repo-type {kind.removesuffix('s')}")
    if revision and revision != "main":
        parts.append(f"--revision {shlex.quote(revision)}")
    return " ".join([*parts, f"--local-dir {HERE}"])


def _is_pattern(path: str) -> bool:
    return any(sign in path for sign in "*?[")
