"""An experiment: what its trials share, and the training of one trial."""

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
from jadeberta.finetune.comparison.trivial import trivial_scores
from jadeberta.finetune.dataset import Data, read_data
from jadeberta.finetune.encoder import Encoder
from jadeberta.finetune.features import collator
from jadeberta.finetune.grid import FOLD_RULE, FinetuneConfig, Result, Trial, split_fold
from jadeberta.finetune.jglue_files import read_rows
from jadeberta.finetune.pretrained import PADDED_POSITIONS, PretrainedEncoder, build, require_head
from jadeberta.finetune.scoring import predict, record, score
from jadeberta.finetune.tasks import Task
from jadeberta.finetune.trainer import Diverged, predict_logits, steps_of, train
from jadeberta.model.drop_in.fast_model import fast
from jadeberta.release.origin import write_origin
from jadeberta.shards.tokenizer_format import ALL_TOKENIZER_FILES
from jadeberta.utils.files import file_sha256
from preprocess.text import NORMALISER


@dataclass(frozen=True)
class Experiment:
    """A task, a model and the configuration of the training."""

    task: Task
    pretrained: PretrainedEncoder
    encoder: Encoder
    config: FinetuneConfig
    files: dict[str, Path]
    """Files by split."""

    def check(self) -> None:
        """Raises ConfigError if tokenizer, sequence length and model do not fit together, CheckpointError if the model has no such head."""
        vocabulary, longest = self.pretrained.config.vocab_size, self.pretrained.longest
        require_head(self.pretrained, self.task.kind)
        if self.encoder.vocab_size > vocabulary:
            raise ConfigError(
                f"{self.pretrained.tokenizer}: {self.encoder.vocab_size} pieces, but the model has a vocabulary of {vocabulary}. "
                "Put the tokenizer there that it was pre-trained with."
            )
        if self.pretrained.config.model_type in PADDED_POSITIONS and self.encoder.pad != self.pretrained.config.pad_token_id:
            raise ConfigError(
                f"{self.pretrained.directory}: the tokenizer pads with {self.encoder.pad}, and the model takes "
                f"{self.pretrained.config.pad_token_id} for padding. Put the tokenizer there that it was pre-trained with."
            )
        # A question takes half of a sequence, and its context needs a token beside the special ones.
        shortest = max(8, 2 * self.encoder.frame.length + 2)
        if not shortest <= self.config.max_length <= longest:
            raise ConfigError(
                f"--max-length {self.config.max_length}: must lie between {shortest} and {longest}, the longest sequence of the model."
            )

    def identity(self) -> dict[str, Any]:
        """Returns what trials must share to be comparable, as plain JSON; paths and versions are not part of it."""
        fold = {"fold": FOLD_RULE} if self.config.choose_on == "fold" else {}
        return fold | {
            "task": self.task.name,
            "model": {"sha256": self.pretrained.sha256, "tokenizer_sha256": self.pretrained.tokenizer_sha256},
            "data": {name: file_sha256(path) for name, path in self.files.items()},
            "segmenter": self.encoder.segmenter.description,
            "normaliser": self._normaliser(),
            "conduct": asdict(self.config),  # the key keeps its old spelling for readers
        }

    def trivial(self) -> dict[str, dict[str, dict[str, float]]]:
        """Scores of baselines without pre-training, by name and split, on the rows of this experiment."""
        rows = {name: read_rows(path, self.task, may_lack_labels=name == "test") for name, path in self.files.items()}
        if self.config.choose_on == "fold":
            rows["train"], rows["fold"] = split_fold(rows["train"])
        return trivial_scores(self.task, dict(rows))

    def _normaliser(self) -> str:
        """The normaliser of the texts; "none" for a model from elsewhere that reads them as they are."""
        return "none" if self.encoder.keeps_text and self.pretrained.origin is None else NORMALISER

    def read(self) -> Data:
        """Reads the data; see `read_data`."""
        return read_data(self.task, self.files, self.encoder, self.config)

    def train(
        self,
        data: Data,
        trial: Trial,
        micro_batch_size: int,
        device: torch.device,
        keep_model: Callable[[PreTrainedModel], None] | None = None,
    ) -> tuple[Result, dict[str, list[dict[str, Any]]]]:
        """Trains a trial and scores it on every split but train; returns its result, and its predictions by split.

        Args:
            data: of the experiment.
            trial: setting and seed.
            micro_batch_size: examples at once.
            device: to train on.
            keep_model: called with the trained model; None keeps no model.

        Raises:
            ConfigError: the device has too little memory.
        """
        began = time.monotonic()
        collate = collator(self.task.kind, self.encoder.pad)
        examples = data.to_train_on(self.task)
        model = build(self.pretrained, self.task, trial.seed)
        if self.config.attention != "eager":
            model = fast(model, self.config.attention)
        scores: dict[str, dict[str, float]] = {}
        predictions: dict[str, list[dict[str, Any]]] = {}
        loss = None
        try:
            loss = train(model, examples, collate, trial, self.config, micro_batch_size, device)
            for name, split in data.splits.items():
                if name != "train":
                    # Prediction keeps nothing for a backward pass, so an example takes less memory than in training.
                    answers = predict_logits(model, split.examples, collate, micro_batch_size * 2, self.config.precision, device)
                    found = predict(self.task, split.rows, split.examples, answers)
                    predictions[name] = record(self.task, split.rows, found)
                    if name not in data.unlabelled:
                        scores[name] = score(self.task, split.rows, found)
            # Before the result is written, which marks the trial as finished.
            if keep_model is not None:
                keep_model(model)
        # A result without scores and no error: the other trials go on, and a repeated command
        # does not train this one again.
        except Diverged:
            scores, predictions = {}, {}
        except torch.OutOfMemoryError as e:
            raise ConfigError(
                f"{trial.name}: {micro_batch_size} sequences at once do not fit into the memory of {device}. Give "
                f"--micro-batch-size {max(1, micro_batch_size // 2)}; the batch stays {self.config.batch_size}."
            ) from e
        notes = data.counts() | {
            "examples": len(examples),
            "steps": steps_of(len(examples), self.config.batch_size, trial.epochs),
            "loss": loss,
            "micro_batch_size": micro_batch_size,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "versions": {name: version(name) for name in ("jadeberta", "torch", "transformers", "sentencepiece")},
        }
        return Result(trial, scores, time.monotonic() - began, notes), predictions

    def save(self, model: PreTrainedModel, directory: Path) -> None:
        """Writes a fine-tuned model with its tokenizer and the origin of its text."""
        model.save_pretrained(directory)
        for name in ALL_TOKENIZER_FILES:
            if (self.pretrained.directory / name).is_file():
                shutil.copyfile(self.pretrained.directory / name, directory / name)
        # A model from elsewhere does not say how its text was made: how this one was read is what its user needs.
        read = {"segmenter": self.encoder.segmenter.description, "normaliser": self._normaliser()} | {
            "sentence_splitter": "not known"
        }
        write_origin(directory, self.pretrained.origin or read)
