"""slurm/shards.sh, submitted as it stands: over MPI and as an array without it, with a node lost in the middle, makes the same bytes."""

import hashlib
import shlex
import sys
import time
from pathlib import Path

import pytest

from preprocess.cli import main
from tests.cluster.conftest import NODES, Cluster
from tests.helpers import ROOT
from tests.preprocess import tiny_corpus as tiny
from tests.preprocess.test_main import RECIPE

STANDIN = [sys.executable, "-I", "-S", str(ROOT / "tests" / "standins" / "jumanpp")]
SENTENCE = "17番の文"
"""Stands in one document; the first process that has to segment it hangs there until its node is gone."""
SMALL = ("--ntasks-per-node=1", "--mem-per-cpu=100")
pytestmark = pytest.mark.slow


class Place:
    """Corpora, a recipe whose segmenter is the stand-in for Juman++, and what one process makes of them, in a path with spaces."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        corpora = tiny.write_corpora(folder / "corpora")
        self.recipe = folder / "a recipe.yaml"
        engine = f'{{engine: jumanpp, command: "{shlex.join(STANDIN)}", timeout_seconds: 600}}'
        self.recipe.write_text(RECIPE.replace("CORPORA", str(corpora)).replace("{engine: mecab}", engine))
        self.expected = hashes(self.make("one"))

    def make(self, name: str) -> Path:
        """Shards made by this process alone."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["preprocess", "all", "--config", str(self.recipe), "--out", str(self.folder / name)])
            with pytest.raises(SystemExit) as end:
                main()
        assert end.value.code == 0
        return self.folder / name

    def submit(self, cluster: Cluster, name: str, *options: str, extra: str = "", hang: bool = False) -> int:
        """Submits slurm/shards.sh with its settings in the environment; the number of the job."""
        settings = {"RECIPE": str(self.recipe), "OUT": str(self.folder / name), "PYTHON": sys.executable, "EXTRA": extra}
        if hang:
            settings |= {"STANDIN_HANG": SENTENCE, "STANDIN_ONCE": str(self.flag(name))}
        log = f"--output={self.folder}/{name}-%a.log"
        return cluster.sbatch(log, *SMALL, *options, "slurm/shards.sh", **settings)

    def flag(self, name: str) -> Path:
        """There as soon as a process hangs, with the name of its node."""
        return self.folder / f"{name} hangs"

    def printed(self, name: str) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob(f"{name}-*.log")))


def hashes(out: Path) -> dict[str, str]:
    """The sha256 of every file that training reads: shards, their checksums, the index and the tokenizer."""
    files = [path for path in [*out.glob("*"), *(out / "tokenizer").glob("*")] if path.is_file() and path.name != "report.json"]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("shards") / "with spaces"
    folder.mkdir()
    return Place(folder)


@pytest.fixture
def pmix(cluster: Cluster) -> Cluster:
    """A cluster whose srun speaks PMIx."""
    said = cluster.run("srun", "--mpi=pmix", "true", check=False)
    if "can not load PMIx" in said or "Couldn't load" in said:
        pytest.skip("Slurm finds no libpmix.so for srun --mpi=pmix; .ci/run installs Debian's libpmix-dev")
    return cluster


def node_that_hangs(flag: Path, timeout: float = 60) -> str:
    """Waits for the process that hangs; its node."""
    end = time.monotonic() + timeout
    while not (flag.exists() and (told := flag.read_text()).endswith("\n")):
        assert time.monotonic() < end, f"{flag} did not appear"
        time.sleep(0.1)
    return told.strip()


@pytest.mark.long
def test_a_job_over_mpi_that_loses_a_node_is_requeued_and_makes_the_same_bytes(pmix: Cluster, place: Place) -> None:
    job = place.submit(pmix, "mpi", f"--nodes={NODES}", hang=True)
    node = node_that_hangs(place.flag("mpi"))
    end = time.monotonic() + 60
    while not (
        markers := list((place.folder / "mpi/work/words").glob("*/*.json"))
    ):  # of parts that the other ranks finish meanwhile
        assert time.monotonic() < end
        time.sleep(0.05)
    kept = {path: path.read_bytes() for path in markers}
    assert not (place.folder / "mpi/index.json").exists()
    pmix.tool("kill-node", node, "--tell")
    pmix.wait(job, "PENDING")
    pmix.tool("start-node", node)
    pmix.restart_soon(job)
    assert pmix.wait(job, "COMPLETED")["Restarts"] == "1"
    assert f"on {NODES} ranks" in place.printed("mpi")
    assert hashes(place.folder / "mpi") == place.expected
    assert {path: path.read_bytes() for path in kept} == kept, "finished pieces were done again"


def test_an_array_goes_on_when_a_node_is_lost_and_makes_the_same_bytes(cluster: Cluster, place: Place) -> None:
    options = (f"--array=0-{NODES - 1}", "--exclusive")
    job = place.submit(cluster, "array", *options, extra="--pool-silence 8", hang=True)
    node = node_that_hangs(place.flag("array"))
    tasks = [f"{job}_{number}" for number in range(NODES)]
    # By its node: another task may still wait for its turn.
    (lost,) = (task for task in tasks if cluster.job(task)["NodeList"] == node)
    assert not (place.folder / "array/index.json").exists()
    cluster.tool("kill-node", node, "--tell")
    for task in tasks:
        if task != lost:
            cluster.wait(task, "COMPLETED")
    assert hashes(place.folder / "array") == place.expected
    pool = place.folder / "array" / "work" / "pool" / f"{job}-all"
    assert len(list(pool.glob("call-*/*.claim-1"))) == 1, "nobody took the lost node's piece over, or more than that one"
    cluster.tool("start-node", node)
    cluster.restart_soon(lost)
    cluster.wait(lost, "COMPLETED")
    assert hashes(place.folder / "array") == place.expected
    assert len(list((pool.parent / f"{job}-verify").glob("call-*/*.done"))) == 1, "one of the tasks verifies for all"


def test_a_plain_job_needs_no_mpi_either(cluster: Cluster, place: Place) -> None:
    job = place.submit(cluster, "plain", "--nodes=2", "--export=ALL,MPI=none")
    cluster.wait(job, "COMPLETED")
    assert "on 2 ranks" in place.printed("plain") and hashes(place.folder / "plain") == place.expected


def test_an_array_whose_work_fails_ends_with_the_status_of_the_error(cluster: Cluster, place: Place) -> None:
    job = place.submit(cluster, "failed", "--array=0-1", extra="--preprocess.vocab_size 30000")
    for task in (f"{job}_0", f"{job}_1"):
        assert cluster.wait(task, "FAILED")["ExitCode"] == "2:0"
    printed = place.printed("failed")
    assert printed.count("ConfigError: preprocess.vocab_size 30000 is too large") == 2 and "Traceback" not in printed
    assert printed.count(f"the processes of pool {job} have not finished 'all'") == 2
