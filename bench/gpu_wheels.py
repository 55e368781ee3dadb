"""Fetches the wheels that `bench/gpu.sh` needs beside torch, Triton and transformers: `python bench/gpu_wheels.py [FOLDER]`.

It needs a network. Which they are was found by running every part with everything else hidden, as `tests/bench/test_gpu_rehearsal.py`
does, not from what packages say of themselves. Versions are those of requirements/cuda.lock, built for Python 3.12 on x86-64, whatever
runs here. What has no wheel is built from its source, which for these packages gives pure Python. Together they stay under 60 MB.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jadeberta.utils.paths import path_option

ROOT = Path(__file__).resolve().parents[1]
NEEDED = (
    "orjson", "xxhash", "zstandard", "deepspeed", "hjson", "einops", "msgpack", "ninja", "psutil", "py-cpuinfo", "pydantic",
    "pydantic-core", "annotated-types", "typing-inspection", "tqdm", "jsonargparse", "docstring-parser", "webdataset", "braceexpand",
    "rich", "markdown-it-py", "mdurl", "pygments",
)  # fmt: skip
"""Distributions that the parts import; NumPy, PyYAML and the like come with torch and transformers."""
LARGEST_MB = 60
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
)
"""pip takes these names exactly as they stand in a wheel's name."""


def pinned(lock: str, names: Sequence[str] = NEEDED) -> list[str]:
    """The lines NAME==VERSION of a lock file's text.

    Raises:
        SystemExit: the lock lacks one.
    """
    found = dict(re.findall(r"^([a-z0-9][a-z0-9.-]*)==([^\s\\;]+)", lock, re.MULTILINE))
    if absent := [name for name in names if name not in found]:
        raise SystemExit(f"gpu_wheels: requirements/cuda.lock has no {absent[0]}; take it out of NEEDED or lock it.")
    return [f"{name}=={found[name]}" for name in names]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=path_option, nargs="?", default=ROOT / "wheels", help="where they go (wheels)")
    parser.add_argument("--python", default="3.12", help="version for which they are built (3.12)")
    parser.add_argument("--list", action="store_true", help="say which they are and fetch nothing")
    options = parser.parse_args(arguments)
    wanted = pinned((ROOT / "requirements" / "cuda.lock").read_text(encoding="utf-8"))
    if options.list:
        print("\n".join(wanted))
        return 0
    options.folder.mkdir(parents=True, exist_ok=True)
    for one in wanted:
        if not fetch(one, options.folder, options.python):
            print(f"gpu_wheels: pip can neither fetch nor build {one} for Python {options.python}", file=sys.stderr)
            return 1
    size = sum(path.stat().st_size for path in options.folder.glob("*.whl")) / 1e6
    print(f"{len(list(options.folder.glob('*.whl')))} wheels, {size:.1f} MB, in {options.folder}")
    if size > LARGEST_MB:
        print(f"gpu_wheels: more than {LARGEST_MB} MB; remove what is not needed", file=sys.stderr)
    return int(size > LARGEST_MB)


def fetch(one: str, folder: Path, python: str) -> bool:
    """The wheel as it is published for that Python, or one built here from the source where it is pure Python."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    where = [part for platform in PLATFORMS for part in ("--platform", platform)]
    target = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp", *where]
    quiet = {"check": False, "capture_output": True}
    if subprocess.run([*pip, "download", "-q", "--no-deps", *target, "-d", str(folder), one], **quiet).returncode == 0:  # type: ignore[call-overload]
        return True
    # DeepSpeed compiles its operators when they are used, unless this asks for them now.
    environment = os.environ | {"DS_BUILD_OPS": "0"}
    build = [*pip, "wheel", "-q", "--no-deps", "--no-binary=:all:", "--no-build-isolation", "-w", str(folder), one]
    before = set(folder.glob("*.whl"))
    built = subprocess.run(build, env=environment, **quiet).returncode == 0  # type: ignore[call-overload]
    new = set(folder.glob("*.whl")) - before
    for path in new:
        if not path.name.endswith("none-any.whl"):
            path.unlink()
            return False
    return built


if __name__ == "__main__":
    sys.exit(main())
