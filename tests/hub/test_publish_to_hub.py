"""`publish` puts a release and chosen checkpoints on the Hub, goes on after any interruption, and shows nobody the token."""

import base64
import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from jadeberta.errors import CheckpointError, ConfigError, JadebertaError, OutputError
from jadeberta.hub import cli
from jadeberta.hub.card_check import card_faults, card_of_revision
from jadeberta.hub.cli import main
from jadeberta.model.published import weights_sha256
from jadeberta.provenance.cli import follow
from jadeberta.provenance.record import statement_bytes
from jadeberta.provenance.statement import statement_document
from tests.hub.hub_standin import TOKEN, HubStandin

CARD = '---\nlicense: apache-2.0\nlanguage: ja\n---\n# Model\n\nAutoModel.from_pretrained("o/n")\n'
FILES = {
    "config.json": b"{}",
    "generator/config.json": b"{ }",
    "model.safetensors": b"weights" * 999,
    "spm.model": b"pieces" * 99,
}


def write_release(folder: Path, card: str = CARD, **files: bytes) -> Path:
    """A release whose statement is right; its weights are bytes, which no step of an upload looks into."""
    content = FILES | {"README.md": card.encode()} | files
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    subjects = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    (folder / "provenance.json").write_bytes(statement_bytes(statement_document(subjects, [], {}, {}, "0")))
    return folder


def content_of(release: Path) -> dict[str, bytes]:
    return {p.relative_to(release).as_posix(): p.read_bytes() for p in release.rglob("*") if p.is_file()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandin]:
    standin = HubStandin()
    monkeypatch.setenv("HF_ENDPOINT", standin.endpoint)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    import huggingface_hub.utils._http as http

    monkeypatch.setattr(http.time, "sleep", lambda seconds: None)  # between the library's own attempts
    yield standin
    standin.close()


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write_release(tmp_path / "release")


def on_hub(hub: HubStandin, revision: str = "main") -> dict[str, bytes]:
    return {name: data for name, data in hub.revisions[revision].items() if name != ".gitattributes"}


def scores_of(weights: dict[str, torch.Tensor]) -> str:
    """What `finetune` writes, of an encoder with these weights."""
    chosen = {"mean": {"valid": {"pearson": 0.5}}, "deviation": {}, "lr": 1e-5, "epochs": 1, "seeds": [0]}
    return json.dumps({"task": "jsts", "chosen": chosen, "model": {"sha256": weights_sha256(weights)}})


def figures_of(**other: object) -> str:
    """What `evaluate mlm` writes."""
    figures = {"accuracy": 0.5, "loss": 1.0, "unigram_accuracy": 0.1, "masked_tokens": 9}
    return json.dumps({"corpora": {}, "all": figures, "mask_probability": 0.15, **other})


def test_figures_of_other_weights_are_refused_before_the_network(hub: HubStandin, release: Path, tmp_path: Path) -> None:
    weights = {"deberta.x": torch.ones(3), "cls.x": torch.zeros(2)}
    write_release(release, **{"model.safetensors": save(weights)})
    other, file = {"deberta.x": torch.full((3,), 2.0)}, tmp_path / "figures.json"
    command = [str(release), "--repo", "o/n", "--evaluation", str(file)]
    for content, sentence in (
        (scores_of(other), "its figures are of other weights"),
        (figures_of(weights_sha256=weights_sha256(other)), "its figures are of other weights"),
        (figures_of(), "its figures are of other weights"),
        ("{}", "not the JSON of 'jadeberta evaluate mlm"),
        ("\xff", "not the JSON of 'jadeberta evaluate mlm"),
    ):
        file.write_text(content)
        with pytest.raises(CheckpointError, match=sentence):
            main(command)
    assert hub.requests == []
    file.write_text(figures_of(weights_sha256=weights_sha256(weights)))
    assert main([*command, "--dry-run"]) == 0


def test_main_is_the_release_and_nothing_is_sent_twice(
    hub: HubStandin, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (release / ".cache").write_text("of a program, and no part of the release")
    weights = {"deberta.x": torch.ones(3), "cls.x": torch.zeros(2)}
    model = {"model.safetensors": save(weights)}
    write_release(release, **model)
    (tmp_path / "jglue.json").write_text(scores_of({"deberta.x": weights["deberta.x"]}))
    command = [str(release), "--repo", "o/n", "--private", "--evaluation", str(tmp_path / "jglue.json")]
    assert main(command) == 0
    assert hub.created == {"name": "n", "organization": "o", "visibility": "private"}
    (release / ".cache").unlink()
    assert on_hub(hub) == content_of(release) | {"evaluation/jglue.json": (tmp_path / "jglue.json").read_bytes()}
    # Whoever loads the repository can follow it.
    for name, data in hub.revisions["main"].items():
        (tmp_path / "loaded" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "loaded" / name).write_bytes(data)
    assert [link for link in follow(tmp_path / "loaded") if link.state == "wrong"] == []
    commits = len([path for path in hub.sent("POST") if "/commit/" in path])
    puts = len(hub.sent("PUT"))
    assert (commits, puts) == (1, 2)
    assert main(command) == 0
    assert len(hub.sent("PUT")) == puts and len([path for path in hub.sent("POST") if "/commit/" in path]) == commits
    out, err = capsys.readouterr()
    assert "1 revisions, 0 files sent" in out and TOKEN not in out + err
    write_release(release, **model, **{"config.json": b'{"a": 1}'})
    assert main(command) == 0
    assert len(hub.sent("PUT")) == puts and on_hub(hub)["config.json"] == b'{"a": 1}'


@pytest.mark.parametrize("where", ["PUT /lfs/", "/commit/", "/preupload/", "objects/batch"])
def test_an_upload_that_breaks_off_goes_on_with_the_same_command(hub: HubStandin, release: Path, where: str) -> None:
    hub.failing = {where: [0] * 20}
    with pytest.raises(OutputError, match=r"the Hub cannot be reached, or broke off \(\w+\); run the same command again"):
        main([str(release), "--repo", "o/n"])
    assert on_hub(hub) == {}  # a revision changes as a whole
    hub.failing = {}
    before = len(hub.large)
    assert main([str(release), "--repo", "o/n"]) == 0
    assert on_hub(hub) == content_of(release)
    assert before == (2 if where == "/commit/" else 0)
    uploads = hub.sent("PUT")
    assert where != "/commit/" or len(uploads) == len(set(uploads)) == 2


def test_a_kill_between_two_large_files_sends_only_the_second_again(
    hub: HubStandin, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    sends = HfApi.preupload_lfs_files

    def dies(self: Any, name: str, additions: Any, **options: Any) -> Any:
        if additions[0].path_in_repo == "spm.model":
            raise KeyboardInterrupt
        return sends(self, name, additions, **options)

    monkeypatch.setattr(HfApi, "preupload_lfs_files", dies)
    with pytest.raises(KeyboardInterrupt):
        main([str(release), "--repo", "o/n"])
    monkeypatch.setattr(HfApi, "preupload_lfs_files", sends)
    assert len(hub.sent("PUT")) == 1 and on_hub(hub) == {}
    assert main([str(release), "--repo", "o/n"]) == 0
    assert len(hub.sent("PUT")) == 2 and on_hub(hub) == content_of(release)


@pytest.mark.parametrize(
    ("status", "error", "sentence"),
    [
        (401, ConfigError, "it does not know the token"),
        (403, ConfigError, "the token may not write to o/n"),
        (400, ConfigError, "it does not take this request"),
        (409, OutputError, "something else has changed o/n meanwhile"),
        (412, OutputError, "something else has changed o/n meanwhile"),
        (429, OutputError, "too many requests; wait some minutes and run the same command again"),
        (500, OutputError, "the Hub answers 500; run the same command again"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence_without_token_or_address(
    hub: HubStandin, release: Path, capsys: pytest.CaptureFixture[str], status: int, error: type[JadebertaError], sentence: str
) -> None:
    for where in ("/commit/", "/api/repos/create" if status not in (409, 412) else "/commit/", "objects/batch"):
        hub.failing = {where: [status] * 20, "GET /api/models/o/n": [404] * 9 if where == "/api/repos/create" else []}
        with pytest.raises(error) as refused:
            main([str(release), "--repo", "o/n"])
        text = str(refused.value)
        assert sentence in text and "\n" not in text and TOKEN not in text and "secret" not in text
        assert error is OutputError or "run the same command again" not in text
        assert refused.value.__cause__ is None
        assert TOKEN not in "".join(capsys.readouterr())


def test_a_short_trouble_of_the_hub_is_waited_for(hub: HubStandin, release: Path) -> None:
    hub.failing = {"PUT /lfs/": [500, 0, 503], "/preupload/": [429]}
    assert main([str(release), "--repo", "o/n"]) == 0
    assert on_hub(hub) == content_of(release)


def test_without_a_token_nothing_is_asked(hub: HubStandin, release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ConfigError, match=r"no token for the Hub is set; run 'hf auth login', or set HF_TOKEN"):
        main([str(release), "--repo", "o/n"])
    assert hub.requests == []


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with two checkpoints whose exports are releases of bytes."""
    for step in (0, 2):
        (tmp_path / "run" / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    monkeypatch.setattr(cli, "verify_checkpoint", lambda checkpoint: [])

    @contextlib.contextmanager
    def exported(checkpoint: Path, revision: str, card: str, repository: str) -> Iterator[Path]:
        folder = tmp_path / "exports" / revision
        yield write_release(folder, f"# {revision}\n", **{"model.safetensors": checkpoint.name.encode() * 99})
        shutil.rmtree(folder)

    monkeypatch.setattr(cli, "exported", exported)
    return tmp_path / "run"


def test_checkpoints_are_branches_of_their_own_files_step_0_too(hub: HubStandin, release: Path, run: Path) -> None:
    write_release(release, **{"only-in-main.json": b"{}"})
    command = [str(release), "--repo", "o/n", "--checkpoints", str(run), "--steps", "0,2"]
    hub.failing = {"/commit/step-2": [0] * 20}
    with pytest.raises(OutputError):
        main(command)
    assert on_hub(hub, "step-2") == {}  # and not the weights of main
    hub.failing = {}
    assert main(command) == 0
    assert set(hub.revisions) == {"main", "step-0", "step-2"}
    for step in (0, 2):
        found = on_hub(hub, f"step-{step}")
        assert (
            found["model.safetensors"] == f"step-{step:08d}".encode() * 99 and found["README.md"] == f"# step-{step}\n".encode()
        )
        assert "only-in-main.json" not in found and ".gitattributes" in hub.revisions[f"step-{step}"]
    uploads = hub.sent("PUT")
    assert len(uploads) == len(set(uploads)) == 4  # spm.model of all is one


def test_a_dry_run_lists_files_sizes_and_revisions_and_asks_nobody(
    hub: HubStandin, release: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(release), "--repo", "o/n", "--checkpoints", str(run), "--steps", "0,2", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("main: 6 files, ") and "  6,993  model.safetensors" in lines
    assert [line.split(":")[0] for line in lines if line.startswith("step-")] == ["step-0", "step-2"]
    assert hub.requests == []


Change = Callable[[Path], object]


@pytest.mark.parametrize(
    ("change", "options", "error", "sentence"),
    [
        (lambda r: write_release(r, CARD.replace("license", "lizenz")), [], ConfigError, "has no licence"),
        (lambda r: write_release(r, CARD.replace('"o/n"', '"PATH"')), [], ConfigError, '"PATH" in line 7'),
        (lambda r: write_release(r, CARD + "\nTODO: limits\n"), [], ConfigError, "TODO in line 9"),
        (lambda r: (r / "README.md").write_text("# edited"), [], CheckpointError, "if you edited it, run .*--accept-card"),
        (lambda r: (r / "model.safetensors").write_bytes(b"other"), [], CheckpointError, "model.safetensors: sha256 differs"),
        (lambda r: (r / "provenance.json").unlink(), [], CheckpointError, "provenance.json: is missing"),
        (lambda r: None, ["--repo", "name"], ConfigError, "is no name of a repository"),
        (lambda r: None, ["--repo", "../o/n"], ConfigError, "is no name of a repository"),
        (lambda r: None, ["--repo", "\u65e5\u672c/n"], ConfigError, "is no name of a repository"),
        (lambda r: None, ["--repo", "o-/n"], ConfigError, "is no name of a repository"),
        (lambda r: None, ["--steps", "1"], ConfigError, "give both, or neither"),
        (lambda r: None, ["--checkpoints", "x", "--steps", "1;2"], ConfigError, "are no steps"),
        (lambda r: None, ["--checkpoints", "x", "--steps", "7"], CheckpointError, "step-00000007: not there; --steps may name none"),
        (lambda r: None, ["--evaluation", "none.json"], ConfigError, "none.json: no such file of JSON"),
    ],
)  # fmt: skip
def test_what_is_not_fit_to_be_shown_is_refused_before_the_network(
    hub: HubStandin, release: Path, change: Change, options: list[str], error: type[JadebertaError], sentence: str
) -> None:
    change(release)
    with pytest.raises(error, match=sentence):
        main([str(release), "--repo", "o/n", *options])
    assert hub.requests == []


def test_an_unfinished_card_is_published_when_asked(hub: HubStandin, release: Path) -> None:
    write_release(release, "# no licence\n")
    assert main([str(release), "--repo", "o/n", "--allow-unfinished-card"]) == 0
    assert on_hub(hub)["README.md"] == b"# no licence\n"


def test_the_card_of_a_checkpoint_names_its_revision_wherever_a_path_was_left_open() -> None:
    snippet = (
        'tokenizer = Tokenizer("PATH")\n'
        'model = AutoModel.from_pretrained("PATH/generator").eval()\n'
        '`jadeberta fill --model PATH "x"`\n'
    )
    text = card_of_revision(f"---\nlanguage: ja\n---\n{snippet}", CARD, "o/n", "step-2")
    assert text == (
        "---\nlicense: apache-2.0\nlanguage: ja\n---\n"
        'tokenizer = Tokenizer("step-2")  # after: hf download o/n --revision step-2 --local-dir step-2\n'
        'model = AutoModel.from_pretrained("o/n", revision="step-2", subfolder="generator").eval()\n'
        '`jadeberta fill --model step-2 "x"`\n'
    )
    assert card_faults(text) == [] and len(card_faults(snippet)) == 4  # the licence too


def sign_as_it_is(release: Path) -> None:
    """An envelope of the statement, with a signature that nobody checks here."""
    payload = base64.b64encode((release / "provenance.json").read_bytes()).decode()
    signatures = [{"keyid": "", "sig": base64.b64encode(bytes(64)).decode()}]
    envelope = {"payloadType": "application/vnd.in-toto+json", "payload": payload, "signatures": signatures}
    (release / "provenance.intoto.jsonl").write_text(json.dumps(envelope) + "\n")


def test_a_signature_of_the_release_before_is_neither_sent_nor_left_on_the_hub(hub: HubStandin, release: Path) -> None:
    sign_as_it_is(release)
    assert main([str(release), "--repo", "o/n"]) == 0
    assert "provenance.intoto.jsonl" in on_hub(hub)
    before = on_hub(hub)
    write_release(release, **{"config.json": b'{"a": 1}'})
    with pytest.raises(CheckpointError, match=r"holds another statement than provenance\.json; sign again"):
        main([str(release), "--repo", "o/n"])
    assert on_hub(hub) == before
    (release / "provenance.intoto.jsonl").unlink()
    assert main([str(release), "--repo", "o/n"]) == 0
    assert on_hub(hub) == content_of(release)
