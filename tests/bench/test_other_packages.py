"""Other packages' attention in the table of steps: there where the package works, one printed reason where it does not.

The packages are no part of the tests' environment; modules of their names stand in for them.
"""

import copy
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

from bench.steps.other_packages import ANCHORS, build_with
from bench.steps.variants import Setting, measure, ways_on
from jadeberta.config import ModelConfig
from jadeberta.model import build
from tests.helpers import TINY_MODEL

CPU = torch.device("cpu")
SETTING = Setting(ModelConfig(**TINY_MODEL, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), 1, torch.float32, CPU)
UNCOMPILED = [way for way in ways_on(CPU) if not way.compiled]
OURS = [f"{way}, {head} head" for way in ("Hugging Face eager", "sdpa") for head in ("whole", "masked")]
PYTORCH, FLASH = "disentangled-flash, PyTorch backend", "flashdeberta, no attention dropout"


class FlashAttention(DisentangledSelfAttention):
    """Stands for flashdeberta's."""


def replace_attention(model, **settings) -> None:
    """Stands for disentangled-flash's function, which puts other modules with the same weights in place."""
    assert settings == {"backend": "torch", "assume_unpadded": True}
    for layer in model.encoder.layer:
        layer.attention.self = copy.deepcopy(layer.attention.self)


def provide(monkeypatch, **modules) -> None:
    """Puts modules in the packages' places; None: not installed."""
    for name in ("disentangled_flash", "flashdeberta"):
        monkeypatch.setitem(sys.modules, name, modules.get(name))


def names(timings) -> list[str]:
    return [timing.way.name for timing in timings]


def test_an_absent_package_gives_no_rows_and_one_line_with_the_reason(monkeypatch, capsys) -> None:
    provide(monkeypatch)
    assert names(measure(SETTING, UNCOMPILED, 1, 0, False)) == OURS
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" on cpu: ModuleNotFoundError: ")[0] for line in lines] == [
        f"no rows of {PYTORCH}",
        f"no rows of {FLASH}",
    ]


def test_a_package_that_is_there_is_timed_with_both_heads_in_every_round(monkeypatch, capsys) -> None:
    flash = SimpleNamespace(FlashDisentangledSelfAttention=FlashAttention)
    provide(monkeypatch, disentangled_flash=SimpleNamespace(optimize_deberta_training=replace_attention), flashdeberta=flash)
    timings = measure(SETTING, UNCOMPILED, 2, 0, False)
    assert names(timings) == [*OURS, *(f"{way}, {head} head" for way in (PYTORCH, FLASH) for head in ("whole", "masked"))]
    assert all(len(timing.seconds) == 2 for timing in timings)
    assert capsys.readouterr().out == ""


def test_a_package_gets_the_weights_of_the_other_rows(monkeypatch) -> None:
    provide(monkeypatch, flashdeberta=SimpleNamespace(FlashDisentangledSelfAttention=FlashAttention))
    model = build_with(ANCHORS[FLASH], SETTING.config, CPU, torch.float32, seed=1)
    assert all(type(layer.attention.self) is FlashAttention for layer in model.deberta.encoder.layer)
    expected = build(SETTING.config.hugging_face(), "eager", seed=1).state_dict()
    found = model.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_package_that_fails_or_changes_nothing_costs_only_its_own_rows(monkeypatch, capsys) -> None:
    class Refusing(FlashAttention):
        def forward(self, *args, **kwargs):
            raise RuntimeError("needs another device\nand more words")

    unchanging = SimpleNamespace(optimize_deberta_training=lambda model, **settings: model)
    provide(monkeypatch, disentangled_flash=unchanging, flashdeberta=SimpleNamespace(FlashDisentangledSelfAttention=Refusing))
    assert names(measure(SETTING, UNCOMPILED, 1, 0, False)) == OURS
    first, second = capsys.readouterr().out.splitlines()
    assert "disentangled-flash left Hugging Face's attention in place on cpu" in first
    assert second == f"no rows of {FLASH} on cpu: RuntimeError: needs another device"


@pytest.mark.parametrize("masked_head", [False, True])
def test_disentangled_flash_computes_the_same_loss_and_gradients(masked_head) -> None:
    pytest.importorskip("disentangled_flash", reason="disentangled-flash is not installed (pip install -e '.[bench]')")
    inputs = SETTING.inputs(1, masked_head)
    models = [
        build(SETTING.config.hugging_face(), "eager", seed=1),
        build_with(ANCHORS[PYTORCH], SETTING.config, CPU, torch.float32, 1),
    ]
    losses = [model.train()(**inputs).loss for model in models]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=0)
    expected, found = ({name: p.grad for name, p in model.named_parameters() if p.grad is not None} for model in models)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-5 * max(float(gradient.abs().max()), 1.0), msg=name)
