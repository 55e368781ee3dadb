"""The repository keeps its own promises: README links and commands exist, recipes are explained."""

import re
import subprocess
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement

from tests.fork_server import run_forked
from tests.helpers import ROOT, write_published

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_of_a_page_lead_to_files(page) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_and_targets_that_a_page_names_exist(page) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(
        r"\b((?:launch|slurm|recipes|ds_configs|jadeberta|preprocess|bench|tests|docs)/[\w./-]+\.(?:sh|yaml|json|py|md))\b", text
    )
    assert [name for name in named if not (ROOT / name).exists()] == []
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"(?m)(?:`|^)make ([a-z]+)", text)) <= targets


def test_bare_make_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split()
    listed = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in listed.splitlines()] == phony


@pytest.mark.parametrize(
    "verb",
    [
        "pretrain",
        "evaluate",
        "compare",
        "checkpoint",
        "status",
        "publish-metrics",
        "plan",
        "scaling",
        "race",
        "preflight",
        "finetune",
        "export",
        "fill",
        "completion",
    ],
)
def test_every_verb_explains_itself(verb) -> None:
    result = run_forked(verb, "--help")
    assert result.returncode == 0 and "usage:" in result.stdout and len(result.stdout.splitlines()) > 8


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_a_recipe_is_valid_for_training_and_for_preprocessing(recipe, tmp_path) -> None:
    from jadeberta.config import load_recipe
    from preprocess.load_config import load_config

    # The source of weights is no part of the project.
    starts = "init_from:" in recipe.read_text() and recipe.stem != "large"
    options = ("--model.init_from", str(write_published(tmp_path))) if starts else ()
    assert load_recipe(recipe, options).model.vocab_size == load_config(recipe).vocab_size


def test_the_large_recipe_names_and_explains_every_key() -> None:
    from jadeberta.config import known_keys
    from preprocess.load_config import _known_keys

    text = (ROOT / "recipes/large.yaml").read_text(encoding="utf-8")
    flat: set[str] = set()

    def walk(node: object, prefix: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                flat.add(f"{prefix}{key}")
                walk(value, f"{prefix}{key}.")

    walk(yaml.safe_load(text), "")
    assert set(known_keys()) - flat == set()
    assert {k for k in _known_keys() if k.startswith("preprocess.")} - flat == set()


def test_no_file_is_two_jobs_long() -> None:
    tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    assert {f: n for f in tracked.stdout.split() if (n := len((ROOT / f).read_text(encoding="utf-8").splitlines())) > 400} == {}


@pytest.mark.parametrize("hardware", ["cpu", "cuda"])
def test_the_locks_hold_every_dependency_with_hashes_and_users_get_no_tools_for_development(hardware) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    users, developers = (_locked(f"{hardware}{kind}.lock") for kind in ("", "-dev"))
    for line in [*project["dependencies"], *extras["quality"]]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(users[requirement.name.lower()], prereleases=True), requirement
    for line in extras["dev"]:
        requirement = Requirement(line)
        if requirement.name != "jadeberta":
            assert requirement.specifier.contains((users | developers)[requirement.name], prereleases=True), requirement
    assert users.keys() & developers.keys() == set()
    assert (
        not {"pytest", "mypy", "ruff", "hypothesis", "mwparserfromhell", *(["triton"] if hardware == "cpu" else [])}
        & users.keys()
    )


def _locked(name: str) -> dict[str, str]:
    """Version of each package of a lock file; every entry has a hash, and none names a place."""
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
    entries = re.split(r"\n(?=\S)", "\n".join(line for line in lines if not line.startswith("#")))
    assert all(re.fullmatch(r"[\w.-]+==\S+( \\\n    --hash=sha256:[0-9a-f]{64})+", entry) for entry in entries)
    return dict(entry.split()[0].split("==") for entry in entries)
