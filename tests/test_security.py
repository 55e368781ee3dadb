"""What SECURITY.md says is never executed: the source has no call that would."""

import ast
import re
from pathlib import Path

from tests.helpers import ROOT

EXECUTING = {
    "pickle.load", "pickle.loads", "torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "marshal.loads", "dill.load",
    "joblib.load", "eval", "exec", "compile", "os.system", "os.popen", "subprocess.getoutput",
}  # fmt: skip


def calls(path: Path) -> set[str]:
    """Names of the functions that a file calls, and `shell=True`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            words = {k.arg: ast.unparse(k.value) for k in node.keywords}
            # Torch's restricted reader takes tensors and plain containers, and no other class or function.
            is_restricted = ast.unparse(node.func) == "torch.load" and words.get("weights_only") == "True"
            found.add("restricted torch.load" if is_restricted else ast.unparse(node.func))
            found |= {f"{k.arg}={ast.unparse(k.value)}" for k in node.keywords if k.arg in ("shell", "trust_remote_code")}
    return found


def test_nothing_that_is_read_is_executed() -> None:
    files = [f for top in ("jadeberta", "preprocess") for f in (ROOT / top).rglob("*.py")]
    found = {
        str(f.relative_to(ROOT)): bad for f in files if (bad := calls(f) & (EXECUTING | {"shell=True", "trust_remote_code=True"}))
    }
    assert len(files) > 150 and found == {}
    # The weights that others publish, and nothing of this program's own.
    assert [f.name for f in files if "restricted torch.load" in calls(f)] == ["published.py"]


def test_the_scan_finds_such_calls(tmp_path: Path) -> None:
    source = tmp_path / "bad.py"
    source.write_text("import pickle, torch\npickle.load(f)\ntorch.load(f, weights_only=False)\nsubprocess.run(c, shell=True)\n")
    assert {"pickle.load", "torch.load", "shell=True"} <= calls(source)


def test_transformers_is_never_asked_to_run_code_of_a_models_directory() -> None:
    checked, unsafe = 0, []
    for path in (
        f
        for top in ("finetune", "release", "evaluation", "model", "checkpoint", "start")
        for f in (ROOT / "jadeberta" / top).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and re.search(r"\bAuto\w+\.from_pretrained$", ast.unparse(node.func)):
                words = {k.arg: ast.unparse(k.value) for k in node.keywords}
                checked += 1
                unsafe += [] if words.get("trust_remote_code") == "False" else [f"{path}:{node.lineno}"]
    assert checked >= 4 and unsafe == []
