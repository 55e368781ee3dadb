"""The page's example of transformers' Trainer runs on a tiny model, and gives transformers' own training."""

import copy
import re

import pytest
import torch
import transformers

import jadeberta
from tests.helpers import ROOT

pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate, which the development packages have")


def test_the_pages_example_trains_and_saves_a_model_of_transformers(model, tmp_path, monkeypatch) -> None:
    page = (ROOT / "docs/fine-tune.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"(?s)```python\n(.*?)```", page)
    code = code.replace('"/data/release"', repr(str(model))).replace('"runs/animals"', repr(str(tmp_path)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    names: dict = {}
    exec(compile(code.replace('report_to="none"', 'report_to="none", use_cpu=True'), "fine-tune.md", "exec"), names)
    saved = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert type(saved) is transformers.DebertaV2ForSequenceClassification
    trained = names["model"].state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in saved.state_dict().items())
    untouched = transformers.DebertaV2ForMaskedLM.from_pretrained(model).state_dict()
    assert any(not torch.equal(tensor, trained[name]) for name, tensor in untouched.items() if name in trained)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_trainer_takes_the_same_steps_with_the_fast_model(model, tmp_path, accumulation) -> None:
    slow = transformers.DebertaV2ForTokenClassification.from_pretrained(model, num_labels=3)
    rows = [{"input_ids": [1, *range(5, 5 + n), 2], "labels": [-100, *(k % 3 for k in range(n)), -100]} for n in range(1, 9)]
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    losses = []
    for heads in (slow, jadeberta.fast(copy.deepcopy(slow))):
        args = transformers.TrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, max_steps=2, per_device_train_batch_size=4 // accumulation, learning_rate=1e-3,
            gradient_accumulation_steps=accumulation, gradient_checkpointing=accumulation == 2, report_to="none", save_strategy="no",
            logging_steps=1,
        )  # fmt: skip
        collator = transformers.DataCollatorForTokenClassification(tokenizer)
        trainer = transformers.Trainer(model=heads, args=args, train_dataset=rows, eval_dataset=rows, data_collator=collator)
        trainer.train()
        losses.append([*(row["loss"] for row in trainer.state.log_history if "loss" in row), trainer.evaluate()["eval_loss"]])
    assert len(losses[0]) == 3 and losses[1] == pytest.approx(losses[0], rel=1e-4)
