"""What people do with a model of transformers works after `jadeberta.fast` too."""

import copy
import inspect
import pickle
import subprocess
import sys

import pytest
import torch
import transformers
from torch import nn

import jadeberta
from tests.helpers import ROOT
from tests.model.drop_in.conftest import HEADS, make_batch, make_pair, make_slow


def same_state(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("head", HEADS)
def test_a_saved_model_is_bit_for_bit_transformers_own(head, tmp_path) -> None:
    slow, quick = make_pair(head, torch.float32)
    assert same_state(quick, slow) and type(quick).__name__ == type(slow).__name__ and isinstance(quick, type(slow))
    for model, name in ((slow, "slow"), (quick, "fast")):
        model.save_pretrained(tmp_path / name)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "fast" / file).read_bytes() == (tmp_path / "slow" / file).read_bytes()
    loaded = type(slow).from_pretrained(tmp_path / "fast")
    assert type(loaded) is type(slow) and same_state(loaded, slow)
    again = type(quick).from_pretrained(tmp_path / "slow").eval()
    assert type(again) is type(quick) and same_state(again, slow)
    batch = make_batch(head, 9, 2, 2)
    found, expected = (model.eval()(**batch, output_hidden_states=True).hidden_states for model in (again, quick))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_copies_and_pickles_stay_fast_and_keep_their_bits(masked_lm, tmp_path) -> None:
    _, quick = masked_lm
    batch = make_batch("ForMaskedLM", 8, 1, 2)
    expected = quick(**batch).logits
    torch.save(quick, tmp_path / "model.pt")
    others = copy.deepcopy(quick), pickle.loads(pickle.dumps(quick)), torch.load(tmp_path / "model.pt", weights_only=False)
    for other in others:
        assert type(other.deberta.encoder) is type(quick.deberta.encoder) and torch.equal(other(**batch).logits, expected)


def test_a_second_call_changes_nothing_and_eager_gives_transformers_classes_back() -> None:
    slow, quick = make_pair("ForMaskedLM")
    classes = [type(module) for module in quick.modules()]
    assert jadeberta.fast(quick) is quick and [type(module) for module in quick.modules()] == classes
    assert [type(module) for module in slow.modules()] != classes
    jadeberta.fast(quick, attention="eager")
    batch = make_batch("ForMaskedLM", 8, 1, 2)
    assert [type(module) for module in quick.modules()] == [type(module) for module in slow.modules()]
    assert torch.equal(quick(**batch).logits, slow(**batch).logits)


def test_dropout_is_active_in_training_follows_the_seed_and_obeys_its_modules() -> None:
    _, quick = make_pair("Model", attention_probs_dropout_prob=0.3)
    batch = make_batch("Model", 16)

    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return quick(**batch).last_hidden_state

    assert torch.equal(quick.train() and run(1), run(1)) and not torch.equal(run(1), run(2))
    assert torch.equal(quick.eval() and run(1), run(2))
    still = run(1)
    for module in quick.modules():
        if isinstance(module, nn.Dropout):
            module.train()  # Monte-Carlo dropout
    assert not torch.equal(run(1), still) and torch.equal(run(1), run(1))


def test_dropout_keeps_the_mean_of_the_output() -> None:
    _, quick = make_pair("Model", attention_probs_dropout_prob=0.2, num_hidden_layers=1, conv_kernel_size=0)
    attention = quick.encoder.layer[0].attention.self
    hidden, nothing = torch.randn(1, 12, 24, dtype=torch.float64), torch.empty(0)
    table = quick.encoder.get_rel_embedding()
    torch.manual_seed(0)
    many = attention.train()(hidden.expand(500, -1, -1), nothing, rel_embeddings=table)[0]  # each row has a mask of its own
    still = attention.eval()(hidden, nothing, rel_embeddings=table)[0]
    assert float((many.mean(0) - still[0]).norm() / still.norm()) < 0.1 and float((many[0] - many[1]).detach().abs().max()) > 0


class Adapter(nn.Linear):
    """An adapter as others put in the place of a projection: it has the weight, and does more."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * 2


@pytest.mark.parametrize("name", ["query_proj", "key_proj", "value_proj"])
@pytest.mark.parametrize("how", ["adapter", "hook"])
def test_adapters_and_hooks_of_a_projection_have_their_effect(how, name) -> None:
    pair = make_pair("Model")
    for model in pair:
        attention = model.encoder.layer[1].attention.self
        if how == "adapter":
            getattr(attention, name).__class__ = Adapter
        else:
            getattr(attention, name).register_forward_hook(lambda module, args, output: output * 2)
    batch = make_batch("Model", 9, 1, 2)
    expected, found = (model(**batch).last_hidden_state for model in pair)
    assert float((found - expected).detach().abs().max()) < 1e-7


def test_hooks_of_layers_attention_and_convolution_are_called() -> None:
    pair = make_pair("Model")
    calls: list[list[str]] = [[], []]
    for model, seen in zip(pair, calls, strict=True):
        for name, module in model.named_modules():
            if not isinstance(module, nn.Linear | nn.Dropout):
                module.register_forward_hook(lambda *_, name=name, seen=seen: seen.append(name))
    batch = make_batch("Model", 9, 1, 2)
    expected, found = (model(**batch).last_hidden_state for model in pair)
    assert calls[0] == calls[1] and float((found - expected).detach().abs().max()) < 1e-7


def test_a_module_that_holds_a_model_gets_the_attention() -> None:
    slow, quick = (nn.ModuleDict({"encoder": model}) for model in (make_slow("Model"), make_slow("Model")))
    assert jadeberta.fast(quick) is quick
    batch = make_batch("Model", 9, 1, 2)
    assert type(quick["encoder"]) is not type(slow["encoder"]) and same_state(slow, quick)
    expected, found = (module["encoder"](**batch).last_hidden_state for module in (slow, quick))
    assert float((found - expected).detach().abs().max()) < 1e-7


def test_trainers_see_the_arguments_that_transformers_own_head_has() -> None:
    slow, quick = make_pair("ForTokenClassification")
    theirs, ours = (list(inspect.signature(model.forward).parameters) for model in (slow, quick))
    assert [name for name in ours if name != "documents"] == theirs and "documents" in ours
    batch = make_batch("ForTokenClassification", 5)
    assert torch.equal(quick(batch["input_ids"], batch["attention_mask"]).logits, quick(**batch).logits)


LIGHT = """
import sys
import jadeberta
assert not any(name.startswith(("torch", "transformers")) for name in sys.modules), "import jadeberta waits for torch"
import torch, transformers
from transformers import DebertaV2Config, DebertaV2Model
before = {name.partition(".")[0] for name in sys.modules}
sizes = {"vocab_size": 9, "hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1, "intermediate_size": 8}
jadeberta.fast(DebertaV2Model(DebertaV2Config(**sizes)))
new = {name.partition(".")[0] for name in sys.modules} - before
own = sorted(name for name in sys.modules if name.startswith("jadeberta.") and name.count(".") == 1)
print(sorted(new - set(sys.stdlib_module_names)), own)
"""


def test_fast_needs_torch_and_transformers_alone() -> None:
    found = subprocess.run([sys.executable, "-c", LIGHT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "[] ['jadeberta.errors', 'jadeberta.model', 'jadeberta.model_constants']"


def test_fill_mask_pipeline_gives_the_same_answers() -> None:
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4} | {f"w{n}": n for n in range(5, 99)}
    tokenizers = pytest.importorskip("tokenizers", reason="transformers installs it")
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    texts = ["w7 [MASK] w9 w10", "w11 w12 w13 [MASK] w5 w6 w7"]
    expected, found = (
        transformers.pipeline("fill-mask", model=model, tokenizer=tokenizer, device="cpu")(texts, batch_size=2)
        for model in make_pair("ForMaskedLM")
    )
    assert [[answer["token_str"] for answer in row] for row in found] == [[a["token_str"] for a in row] for row in expected]
    assert found[0][0]["score"] == pytest.approx(expected[0][0]["score"])
