"""What all points of a fine-tuning test have in common, and the training of one of them."""

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from jadeberta.errors import ConfigError
from jadeberta.finetune.dataset import Data, read_data
from jadeberta.finetune.encoder import Encoder
from jadeberta.finetune.features import collator
from jadeberta.finetune.grid import Conduct, Point, Result
from jadeberta.finetune.pretrained import Source, build
from jadeberta.finetune.scoring import predict, record, score
from jadeberta.finetune.tasks import Task
from jadeberta.finetune.trainer import Diverged, ask, steps_of, train
from jadeberta.release.origin import write_origin
from jadeberta.shards.tokenizer_format import TOKENIZER_FILES
from jadeberta.utils.files import file_sha256
from preprocess.text import NORMALISER


@dataclass(frozen=True)
class Trial:
    """A task, a model and a conduct."""

    task: Task
    source: Source
    encoder: Encoder
    conduct: Conduct
    files: dict[str, Path]
    """Of each split."""

    def check(self) -> None:
        """Raises ConfigError where tokenizer, length and model do not go together."""
        vocabulary, longest = self.source.config.vocab_size, self.source.config.max_position_embeddings
        if self.encoder.vocab_size > vocabulary:
            raise ConfigError(
                f"{self.source.tokenizer}: {self.encoder.vocab_size} pieces, but the model has a vocabulary of {vocabulary}. "
                "Put the tokenizer there that it was pre-trained with."
            )
        if not 8 <= self.conduct.max_length <= longest:
            raise ConfigError(
                f"--max-length {self.conduct.max_length}: must lie between 8 and {longest}, the longest sequence of the model."
            )

    def identity(self) -> dict[str, Any]:
        """All that points must share to be compared, plain JSON; paths and versions are not part of it."""
        return {
            "task": self.task.name,
            "model": {"sha256": self.source.sha256, "tokenizer_sha256": self.source.tokenizer_sha256},
            "data": {name: file_sha256(path) for name, path in self.files.items()},
            "segmenter": self.encoder.segmenter.description,
            "normaliser": NORMALISER,
            "conduct": asdict(self.conduct),
        }

    def read(self) -> Data:
        """The data; see `read_data`."""
        return read_data(self.task, self.files, self.encoder, self.conduct)

    def train(
        self,
        data: Data,
        point: Point,
        micro_batch_size: int,
        device: torch.device,
        keep_model: Callable[[PreTrainedModel], None] | None = None,
    ) -> tuple[Result, dict[str, list[dict[str, Any]]]]:
        """Trains a point and scores it on every split but train; returns what came of it, and its predictions by split.

        Raises ConfigError where the device has too little memory.
        """
        began = time.monotonic()
        collate = collator(self.task.kind, self.encoder.pad)
        examples = data.to_train_on(self.task)
        model = build(self.source, self.task, point.seed)
        scores: dict[str, dict[str, float]] = {}
        predictions: dict[str, list[dict[str, Any]]] = {}
        loss = None
        try:
            loss = train(model, examples, collate, point, self.conduct, micro_batch_size, device)
            for name, split in data.splits.items():
                if name != "train":
                    answers = ask(model, split.examples, collate, micro_batch_size * 2, self.conduct.precision, device)
                    found = predict(self.task, split.rows, split.examples, answers)
                    scores[name], predictions[name] = score(self.task, split.rows, found), record(self.task, split.rows, found)
            if keep_model is not None:
                keep_model(model)
        except Diverged:
            scores, predictions = {}, {}
        except torch.OutOfMemoryError as e:
            raise ConfigError(
                f"{point.name}: {micro_batch_size} sequences at once do not fit into the memory of {device}. Give "
                f"--micro-batch-size {max(1, micro_batch_size // 2)}; the batch stays {self.conduct.batch_size}."
            ) from e
        notes = data.counts() | {
            "examples": len(examples),
            "steps": steps_of(len(examples), self.conduct.batch_size, point.epochs),
            "loss": loss,
            "micro_batch_size": micro_batch_size,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "versions": {name: version(name) for name in ("jadeberta", "torch", "transformers", "sentencepiece")},
        }
        return Result(point, scores, time.monotonic() - began, notes), predictions

    def save(self, model: PreTrainedModel, directory: Path) -> None:
        """A fine-tuned model with its tokenizer and what is known of its text."""
        model.save_pretrained(directory)
        for name in TOKENIZER_FILES:
            if (self.source.directory / name).is_file():
                shutil.copyfile(self.source.directory / name, directory / name)
        if self.source.origin is not None:
            write_origin(directory, self.source.origin)
