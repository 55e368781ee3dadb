"""What a step measured: `metrics.jsonl`, TensorBoard, and the floating-point work behind MFU."""

import contextlib
import errno
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from jadeberta.config import ModelConfig

if TYPE_CHECKING:  # what reads metrics must start at once
    import torch

TENSORBOARD_TAGS = {
    "loss": "train/loss",
    "masked_accuracy": "train/masked_accuracy",
    "lr": "train/lr",
    "grad_norm": "train/grad_norm",
    "tokens_per_second": "speed/tokens_per_second",
    "positions_per_second": "speed/positions_per_second",
    "mfu": "speed/mfu",
    "mfu_with_padding": "speed/mfu_with_padding",
    "data_wait_s": "speed/data_wait_s",
    "save_wait_s": "speed/save_wait_s",
    "step_s": "speed/step_s",
    "communication_s": "speed/communication_s",
}


class MetricsWriter:
    """Writes one object a step; a resumed run appends."""

    def __init__(self, run_dir: Path, tensorboard: bool, first_step: int) -> None:
        self._file = open(run_dir / "metrics.jsonl", "ab", buffering=0)  # noqa: SIM115 - lives as long as the run
        if self._file.tell():
            with open(run_dir / "metrics.jsonl", "rb") as f:
                f.seek(-1, 2)
                if f.read(1) != b"\n":
                    self._file.write(b"\n")
        self._board, self._unended, self._said = None, b"", False
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            # Steps that will be trained again are taken back from the curves.
            self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step + 1, flush_secs=10)

    def write(self, row: dict[str, Any]) -> None:
        """A full disk must not end a run that computes: what cannot be written is lost, and said once."""
        try:
            line = self._unended + orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._unended = b""
        except OSError as e:
            self._unended = b"\n"  # whatever part of the line was written ends here
            self._say_once(e)
        if self._board is not None:
            try:
                for key, tag in TENSORBOARD_TAGS.items():
                    if row.get(key) is not None:
                        self._board.add_scalar(tag, row[key], row["step"])
            except OSError as e:
                self._board = None  # its writer thread has died of the error
                self._say_once(e)

    def _say_once(self, error: OSError) -> None:
        if not self._said:
            self._said = True
            print(f"metrics cannot be written ({error.strerror}); training goes on without them", file=sys.stderr, flush=True)

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            with contextlib.suppress(OSError):
                self._board.close()


def training_flops_per_token(model: ModelConfig, sequence_length: int, micro_batch_size: int, head_share: float) -> float:
    """Matrix-product FLOPs of forward and backward for one token; 2 per multiply-add, backward counted as twice forward.

    Args:
        model: the sizes.
        sequence_length: tokens in a row.
        micro_batch_size: rows that share one projection of the position table.
        head_share: share of the positions that go through the output head.
    """
    hidden, inner, layers = model.hidden_size, model.intermediate_size, model.num_hidden_layers
    heads = model.num_attention_heads * model.attention_head_size
    span = model.position_buckets if model.position_buckets > 0 else model.max_position_embeddings
    position_terms = len(set(model.pos_att_type)) if model.relative_attention else 0
    linear = 2 * (3 * hidden * heads + heads * hidden + 2 * hidden * inner)
    content = 2 * 2 * sequence_length * heads
    position_scores = position_terms * 2 * 2 * span * heads
    position_tables = position_terms * 2 * 2 * span * hidden * heads / (micro_batch_size * sequence_length)
    convolution = 2 * model.conv_kernel_size * hidden * hidden
    head = head_share * 2 * (hidden * hidden + hidden * model.vocab_size)
    return 3 * (layers * (linear + content + position_scores + position_tables) + convolution + head)


def peak_memory_bytes(device: "torch.device") -> int:
    """The most that this process has held so far: of a GPU what torch allocated there, of a CPU the resident set."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB
