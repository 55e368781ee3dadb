"""Writes five lock files beside this file: for CPUs and for CUDA, the packages of users and on top of them those of developers; and
docs.lock, what the site of the pages needs, for an environment of its own.

cpu.lock and cuda.lock hold what the dependencies and the extras `quality` and `web` of pyproject.toml need, cpu-dev.lock and
cuda-dev.lock the rest of the `dev` extra, every package with its version and hashes. pip resolves them without downloading the wheels. The
hashes of a version are those that the package index publishes for files that Python 3.11 or 3.12 can use on Linux x86-64, and that of the
file pip itself chose. `make lock` runs this with a recent pip.
"""

import json
import os
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from packaging.requirements import Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags, platform_tags
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

HERE = Path(__file__).parent
PYTHONS = [(3, 11), (3, 12)]
HEAD = {
    "cpu": "torch is the CPU build (a version that ends in +cpu). The default package index has none for Linux x86-64: install.py\n"
    "# looks for it where pip's settings name a place (PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS). The hash of\n"
    "# torch is that of the build found when this file was made. Without such a place use cuda.lock, which runs on a CPU too.",
    "cuda": "torch is the build for CUDA that the default package index publishes, with NVIDIA's libraries. The hashes are those that the\n"
    "# index states; the wheels themselves were not downloaded when this file was made.",
}


DOCS_HEAD = "The tools of the `docs` extra, by which `make docs` builds the site of the pages in an environment of its own."
DEV_HEAD = "The tools for development that come on top of {}.lock."
USERS_EXTRAS = ("quality", "web")
"""The extras that users get too: filters and readers that a recipe may name."""
NOTE = "# Made by `make lock` from pyproject.toml; not edited by hand. For Linux x86-64 and Python 3.11 or 3.12."


def resolve(environment: dict[str, str], requirements: list[str]) -> list[dict]:
    """What pip would install into an empty environment (the report's `install` list, without the project itself).

    Args:
        environment: variables for pip, on top of this process's.
        requirements: as on pip's command line.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", str(report)]
        subprocess.run([*command, *requirements], env=os.environ | environment, check=True)
        return [item for item in json.loads(report.read_text())["install"] if item["metadata"]["name"] != "jadeberta"]


def published_files(name: str) -> list[dict]:
    """The files of all versions of a package, as the index that pip uses lists them (the JSON form of the simple API)."""
    from pip._internal.models.index import PyPI  # pip's default, where its settings name no other

    configured = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True
    )
    index = os.environ.get("PIP_INDEX_URL") or configured.stdout.strip() or PyPI.simple_url
    request = urllib.request.Request(
        f"{index.rstrip('/')}/{canonicalize_name(name)}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["files"]


def usable_tags(python: tuple[int, int]) -> set[Tag]:
    platforms = list(platform_tags())
    interpreter = f"cp{python[0]}{python[1]}"
    return {*cpython_tags(python, platforms=platforms), *compatible_tags(python, interpreter, platforms)}


def release_hashes(name: str, version: Version) -> set[str]:
    """sha256 of each wheel of the version that one of PYTHONS can use; of the source archive where a Python has no wheel."""
    wheels: dict[tuple[int, int], set[str]] = {python: set() for python in PYTHONS}
    sources = set()
    for file in published_files(name):
        try:
            if file["filename"].endswith(".whl"):
                _, found, _, tags = parse_wheel_filename(file["filename"])
                for python in PYTHONS:
                    if found == version and tags & usable_tags(python):
                        wheels[python].add(file["hashes"]["sha256"])
            elif parse_sdist_filename(file["filename"])[1] == version:
                sources.add(file["hashes"]["sha256"])
        except (InvalidWheelFilename, InvalidSdistFilename):
            continue  # names from before the rules for them; no version in use has one
    hashes = set().union(*wheels.values())
    if not all(wheels.values()):
        hashes |= sources
    return hashes


def entry(item: dict) -> str:
    """The lines of one package; the index has no builds with a local version such as +cpu."""
    name, version = canonicalize_name(item["metadata"]["name"]), Version(item["metadata"]["version"])
    hashes = {item["download_info"]["archive_info"]["hashes"]["sha256"]} | (
        set() if version.local else release_hashes(name, version)
    )
    return " \\\n".join([f"{name}=={version}", *(f"    --hash=sha256:{h}" for h in sorted(hashes))])


def needed_by(requirements: list[str], items: list[dict]) -> set[str]:
    """Names of the packages that some requirements lead to, directly or not.

    Args:
        requirements: such as "torch==2.13.0", as pyproject.toml has them.
        items: the resolved packages, see `resolve`.
    """
    metadata = {canonicalize_name(item["metadata"]["name"]): item["metadata"] for item in items}
    ahead, found = [Requirement(line) for line in requirements], set()
    while ahead:
        wanted = ahead.pop()
        name, extras = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if name not in metadata or (name, extras) in found:
            continue
        found.add((name, extras))
        for line in metadata[name].get("requires_dist", []):
            inner = Requirement(line)
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in ["", *extras]):
                ahead.append(inner)
    return {name for name, _ in found}


def lock(items: list[dict], head: str) -> str:
    with ThreadPoolExecutor(4) as pool:
        entries = sorted(pool.map(entry, items))
    return "\n".join([NOTE, f"# {head}", *entries]) + "\n"


def main() -> None:
    # Settings of the user and the machine can name places with other builds of torch: the CUDA lock is made without them.
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    plain = {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
    for kind, environment in (("cpu", {}), ("cuda", plain)):
        items = resolve(environment, [f"{HERE.parent}[dev]"])
        torch = next(item["metadata"]["version"] for item in items if item["metadata"]["name"] == "torch")
        if (kind == "cpu") != torch.endswith("+cpu"):
            sys.exit(
                f"{kind}.lock: pip found torch {torch}; name a place with the CPU build in PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS."
            )
        extras = [line for extra in USERS_EXTRAS for line in project["optional-dependencies"][extra]]
        users = needed_by([*project["dependencies"], *extras], items)
        for name, head, wanted in ((f"{kind}.lock", HEAD[kind], True), (f"{kind}-dev.lock", DEV_HEAD.format(kind), False)):
            chosen = [item for item in items if (canonicalize_name(item["metadata"]["name"]) in users) == wanted]
            (HERE / name).write_text(lock(chosen, head), encoding="utf-8")
            print(f"requirements/{name}: {len(chosen)} packages, torch {torch}")
    write_docs_lock(project)


def write_docs_lock(project: dict) -> None:
    """Writes docs.lock. The tools of the site need nothing of the project."""
    items = resolve({}, project["optional-dependencies"]["docs"])
    (HERE / "docs.lock").write_text(lock(items, DOCS_HEAD), encoding="utf-8")
    print(f"requirements/docs.lock: {len(items)} packages")


if __name__ == "__main__":
    main()
