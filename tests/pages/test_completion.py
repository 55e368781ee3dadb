"""`jadeberta completion`: the shells complete verbs, options, keys of a recipe and their choices with the script that it prints."""

import shutil
import subprocess

import pytest

from jadeberta.config import known_keys
from tests.fork_server import run_forked

EXPECTED = {
    "jadeberta pre": ["pretrain", "preflight"],
    "jadeberta publish": ["publish-metrics", "publish"],
    "jadeberta status --w": ["--watch"],
    "jadeberta publish-metrics run --to ": ["wandb", "mlflow", "tensorboard", "prometheus"],
    "jadeberta publish-metrics run --to m": ["mlflow"],
    "jadeberta evaluate ": ["mlm", "text"],
    "jadeberta checkpoint v": ["verify"],
    "jadeberta race ": ["plan", "run", "report"],
    "jadeberta race run dir --at": ["--at-once"],
    "jadeberta scaling report d --j": ["--json"],
    "jadeberta pretrain --resume ": ["auto", "required", "never"],
    "jadeberta pretrain --training.max_st": ["--training.max_steps"],
    "jadeberta plan --config r --training.max_st": ["--training.max_steps"],
    "jadeberta pretrain --model.attention ": ["eager", "sdpa", "fused"],
    "jadeberta plan --measu": ["--measured"],
    "jadeberta status ": [],
    "jadeberta report --out ": [],
    "jadeberta pretrain --run.dir ": [],
    "jadeberta status --training.max": [],
    "jadeberta completion ": ["bash", "zsh"],
    "jadeberta nonsense --": [],
}
"""A command line, and the words that complete its last one; none where a file may follow."""
BASH = """
set -u
source "$0"
for line in "$@"; do
    read -ra COMP_WORDS <<<"$line"
    [ "${line: -1}" != ' ' ] || COMP_WORDS+=('')
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
    _jadeberta
    echo "${COMPREPLY[*]-}"
done
complete -p jadeberta >&2
"""
ZSH = """
compdef() { :; }
compadd() { shift; local word; for word in "$@"; do [[ $word != ${words[CURRENT]}* ]] || print -rn -- "$word "; done; print; }
_files() { print; }
source "$0"
for line in "$@"; do
    words=(${=line})
    [[ $line != *' ' ]] || words+=('')
    CURRENT=${#words}
    _jadeberta_complete
done
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("completion")
    found = {}
    for shell in ("bash", "zsh"):
        printed = run_forked("completion", shell)
        assert printed.returncode == 0 and printed.stderr == "", printed.stderr
        (directory / shell).write_text(printed.stdout)
        found[shell] = str(directory / shell)
    return found


@pytest.mark.parametrize(("shell", "program"), [("bash", BASH), ("zsh", ZSH)])
def test_a_shell_completes_with_the_script(scripts: dict[str, str], shell: str, program: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} on this machine")
    quiet = ["--norc", "--noprofile"] if shell == "bash" else ["-f"]
    said = subprocess.run([shell, *quiet, "-c", program, scripts[shell], *EXPECTED], capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr
    assert dict(zip(EXPECTED, map(str.split, said.stdout.splitlines()), strict=True)) == EXPECTED
    assert shell == "zsh" or said.stderr == "complete -o default -F _jadeberta jadeberta\n"


def test_every_key_of_a_recipe_is_offered(scripts: dict[str, str]) -> None:
    source = f"source {scripts['bash']}; _jadeberta_words pretrain x -- 3"
    offered = subprocess.run(["bash", "-c", source], capture_output=True, text=True, check=True).stdout.split()
    assert {f"--{key}" for key in known_keys()} <= set(offered)


def test_an_unknown_shell_is_refused_in_one_sentence() -> None:
    refused = run_forked("completion", "fish")
    assert refused.returncode == 2 and refused.stderr.startswith("ConfigError: argument shell: invalid choice: 'fish'")
    assert len(refused.stderr.splitlines()) == 1
