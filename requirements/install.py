"""Installs the locked packages and the project into the environment of the Python that runs this: `make setup` and `make setup-dev`.

It shows how far pip is, picks the CPU build of torch where there is no NVIDIA GPU, and keeps all that pip says in `.venv/setup.log`. A bare
environment has to run it, so it uses the standard library alone.
"""

import argparse
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOG = Path(sys.prefix) / "setup.log"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
LOCKED = ["--require-hashes", "--no-deps", "--no-build-isolation", "--use-pep517", "--progress-bar", "off"]
WORKING = re.compile(r"^\s*(Collecting|Downloading|Using cached|Building wheels? for|Installing collected) ?(\S*)(.*)$")
"""The lines of pip that say what it does now."""
QUIET_SECONDS = 15.0
"""Time between two lines where the output is no terminal."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("hardware", nargs="?", default="", choices=["", "cpu", "cuda"], help="empty: found out")
    parser.add_argument("--dev", action="store_true", help="install the tools for development on top")
    options = parser.parse_args()
    began = time.monotonic()
    if options.dev:
        hardware = "cpu" if importlib.metadata.version("torch").endswith("+cpu") else "cuda"
        install(f"{hardware}-dev.lock", ["-r", str(HERE / f"{hardware}-dev.lock")], entries_of(f"{hardware}-dev.lock"))
        say(f"the tools for development are installed, in {time.monotonic() - began:.0f} s")
        return
    hardware = choose(options.hardware)
    say(f"installing requirements/{hardware}.lock into {sys.prefix}; pip's own words go to {LOG}")
    entries = entries_of(f"{hardware}.lock")
    with tempfile.TemporaryDirectory() as folder:  # first, because the sources among the packages are built with it
        install("setuptools", ["-r", str(write_lock(Path(folder), ["setuptools"], entries))], {"setuptools": ""})
    install(f"{hardware}.lock", ["-r", str(HERE / f"{hardware}.lock")], entries)
    install("the project", ["-e", str(HERE.parent)], {}, ["--no-deps", "--no-build-isolation"])
    size, files = weigh(Path(sys.prefix))
    say(
        f"installed in {time.monotonic() - began:.0f} s: {len(entries)} packages, {size / 1e9:.1f} GB, {files:,} files in {sys.prefix}"
    )


def choose(wanted: str) -> str:
    """Returns cpu or cuda: as wanted, else cpu where there is no NVIDIA GPU and pip finds the CPU build of torch."""
    if wanted == "cuda" or (not wanted and shutil.which("nvidia-smi")):
        return "cuda"
    say("looking for the CPU build of torch")
    with tempfile.TemporaryDirectory() as folder:
        lock = write_lock(Path(folder), ["torch"], entries_of("cpu.lock"))
        command = [*PIP, "install", "--dry-run", "--ignore-installed", "--no-deps", "--require-hashes", "-r", str(lock)]
        if subprocess.run(command, capture_output=True).returncode == 0:
            return "cpu"
    remedy = (
        "To have it, name PyTorch's package index for CPUs in PIP_EXTRA_INDEX_URL, or a folder with the wheel in PIP_FIND_LINKS"
    )
    if wanted:
        sys.exit(
            "pip finds no build of torch for CPUs with the hash of requirements/cpu.lock.\n"
            f"{remedy}.\nOr take HARDWARE=cuda, which runs on a CPU too."
        )
    say("pip finds no build of torch for CPUs here: the one for GPUs is installed, which runs on a CPU too and takes 3 GB more")
    say(remedy)
    return "cuda"


def entries_of(lock: str) -> dict[str, str]:
    """The entries of a lock file by the package's name."""
    text = "\n".join(line for line in (HERE / lock).read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return {entry.split("==")[0]: entry + "\n" for entry in re.split(r"\n(?=\S)", text.strip())}


def write_lock(folder: Path, names: list[str], entries: dict[str, str]) -> Path:
    """Writes a lock file of some packages."""
    lock = folder / "some.lock"
    lock.write_text("".join(entries[name] for name in names), encoding="utf-8")
    return lock


def install(what: str, options: list[str], entries: dict[str, str], locked: list[str] = LOCKED) -> None:
    """Runs `pip install` and shows a line about it; ends this program with pip's last words where it fails.

    Args:
        what: is installed, in words.
        options: of pip.
        entries: packages that are expected, by name.
        locked: options for locked packages.
    """
    with LOG.open("a", encoding="utf-8") as log:
        begin = log.tell()
        pip = subprocess.Popen([*PIP, "install", *locked, *options], stdout=log, stderr=log)
        shown, last_line = 0.0, ""
        while pip.poll() is None:
            time.sleep(0.25)  # pip tells its progress to a terminal alone
            line = progress(what, begin, entries)
            if line != last_line and time.monotonic() - shown > (0.0 if sys.stdout.isatty() else QUIET_SECONDS):
                show(line)
                shown, last_line = time.monotonic(), line
    show("")
    if pip.returncode:
        words = LOG.read_text(encoding="utf-8", errors="replace")[begin:].splitlines()
        print("\n".join([*words[-15:], f"pip could not install {what}; {LOG} has all that it said."]), file=sys.stderr)
        sys.exit(1)


def progress(what: str, begin: int, entries: dict[str, str]) -> str:
    """One line about a running pip: how many packages it has found, then how many are in place."""
    with LOG.open(encoding="utf-8", errors="replace") as log:
        log.seek(begin)
        said = [found for line in log if (found := WORKING.match(line))]
    if not said:
        return f"{what}: starting"
    verb, name, rest = said[-1].groups()
    if verb == "Installing collected":
        normal = {re.sub(r"[-_.]+", "-", path.name.split("-")[0]).lower() for path in site_packages().glob("*.dist-info")}
        return f"{what}: {len(normal & entries.keys())} of {len(entries)} packages are in place"
    found = sum(each[1] == "Collecting" for each in said)
    size = re.search(r"\(([\d.]+ [kMG]B)\)", rest)
    return f"{what}: {found} of {len(entries)} packages, {verb.lower()} {name[:40]}{f' ({size[1]})' if size else ''}"


def site_packages() -> Path:
    return next((Path(sys.prefix) / "lib").glob("python3*/site-packages"))


def show(line: str) -> None:
    """Shows a line that the next one replaces, cut to the terminal; elsewhere a line of its own."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[K{line[:width]}", end="", flush=True)
    elif line:
        print(line, flush=True)


def say(line: str) -> None:
    show("")
    print(line, flush=True)


def weigh(folder: Path) -> tuple[int, int]:
    """Bytes on the disk and number of the files in a folder."""
    sizes = [path.lstat().st_blocks * 512 for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum(sizes), len(sizes)


if __name__ == "__main__":
    main()
