"""The recipe as dataclasses: read from one YAML file and the command line, checked before anything is allocated.

A recipe is valid or refused here with one sentence; nothing downstream has to ask again whether two settings agree.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from jadeberta.config.batch_sizes import BatchSizes
from jadeberta.errors import ConfigError


@dataclass
class RunConfig:
    """Where the run lives."""

    dir: str = "runs/default"
    """Run directory: recipe, ledger, metrics, TensorBoard, checkpoints."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU where there is one."""
    max_hours: float = 0.0
    """Wall time of one life after which it saves and ends with status 11, hours; 0: no limit."""


@dataclass
class DataConfig:
    """What the training reads, and in which form."""

    shards: str = ""
    """Directory with index.json, as written by `python -m preprocess pack`."""
    repeats: dict[str, int] = field(default_factory=dict)
    """Per corpus how often an epoch sees it; overrides the repeats in index.json."""
    packing: Literal["concat", "documents"] = "concat"
    """concat: a row is one text, attention crosses documents (the published run); documents: attention stays inside each document."""
    workers: int = 1
    """Loader processes a rank; 0 loads in the training process. Changes speed only, never the data."""
    prefetch: int = 4
    """Steps that a loader process works ahead."""
    damaged: Literal["stop", "exclude", "set_aside"] = "stop"
    """stop: a shard that is not what index.json says ends the run; exclude: its rows become padding, logged and counted.

    set_aside is the old spelling of exclude."""


@dataclass
class ModelConfig:
    """Hugging Face's DebertaV2Config, name by name, plus the attention's implementation."""

    attention: Literal["eager", "sdpa", "fused"] = "sdpa"
    """eager: Hugging Face's own module; sdpa: the same function in plain PyTorch without gathers; fused: Triton kernels."""
    vocab_size: int = 32000
    """Must be the tokenizer's number of pieces."""
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    attention_head_size: int = 64
    intermediate_size: int = 4096
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    """Longest sequence, tokens."""
    type_vocab_size: int = 0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-7
    relative_attention: bool = True
    max_relative_positions: int = -1
    """-1 stands for max_position_embeddings."""
    position_buckets: int = 256
    pos_att_type: list[str] = field(default_factory=lambda: ["p2c", "c2p"])
    share_att_key: bool = True
    norm_rel_ebd: str = "layer_norm"
    position_biased_input: bool = False
    conv_kernel_size: int = 3
    """Width of the convolution beside the first layer; 0 leaves it out."""
    conv_act: str = "gelu"
    pooler_dropout: float = 0.0
    pooler_hidden_act: str = "gelu"
    pooler_hidden_size: int = 1024

    def hugging_face(self) -> dict[str, Any]:
        """Keyword arguments for transformers.DebertaV2Config."""
        fields = asdict(self)
        del fields["attention"]
        return {**fields, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@dataclass
class TrainingConfig:
    """The optimisation."""

    max_steps: int = 300_000
    """Optimizer steps of the whole run."""
    global_batch_size: int = 2304
    """Sequences in one optimizer step, over all ranks and accumulation."""
    batch_size_warmup: list[list[int]] = field(default_factory=list)
    """[[sequences, steps], ...]: the growing batches of the first steps, before global_batch_size; empty: none."""
    micro_batch_size: int = 18
    """Sequences that one rank takes through the model at once; accumulation follows from it."""
    lr: float = 1e-4
    """Peak learning rate."""
    warmup_steps: int = 10_000
    """Steps over which the learning rate rises from 0 to its peak."""
    schedule: Literal["linear", "constant", "cosine", "wsd"] = "linear"
    """After the warm-up. linear, cosine: falls to 0 at max_steps; constant: stays; wsd: stays, and falls in the last decay_steps."""
    decay_steps: int = 0
    """Last steps before max_steps in which wsd falls to 0; 0: it does not fall."""
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_eps: float = 1e-6
    weight_decay: float = 0.0
    """Decoupled (AdamW); biases and LayerNorm weights are left out."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global L2 norm; 0 switches clipping off."""
    z_loss: float = 0.0
    """Weight of the mean squared log-partition of the masked tokens beside the cross-entropy; 0: none."""
    ema_decay: float = 0.0
    """Share of itself that a running average of the weights keeps at each update; 0: no average."""
    seed: int = 42
    """Root of every random number: weights, sample order, masks, dropout."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """bf16 keeps fp32 master weights and accumulates gradients in fp32."""
    compile: Literal["auto", "always", "never"] = "auto"
    """torch.compile around forward and backward; auto: on GPUs, but not under ZeRO-3 and not the reference, model.attention eager."""
    recompute: Literal["none", "cheap", "layers"] = "none"
    """Activations that backward makes again instead of keeping them. cheap: what the compiler finds to cost little (dropout, GELU,
    LayerNorm); layers: all but the input of each layer, a third more work."""
    mask_probability: float = 0.15
    """Share of the tokens to predict; of these 80% become [MASK], 10% a random token, 10% stay."""
    whole_word_mask: bool = False
    """Choose whole words (a piece that starts a word and those that follow it) instead of single tokens."""

    @property
    def batch_sizes(self) -> BatchSizes:
        """The global batch size of every step."""
        return BatchSizes(self.global_batch_size, tuple((size, steps) for size, steps in self.batch_size_warmup))

    def accumulation(self, world_size: int) -> int:
        """Micro-steps of a rank in a step of global_batch_size. Raises ConfigError where a batch of the run does not divide."""
        warmup = [size for size, _ in self.batch_size_warmup]
        return accumulation_steps(self.global_batch_size, self.micro_batch_size, world_size, warmup)


@dataclass
class CheckpointConfig:
    """When checkpoints are written, and which stay."""

    every_steps: int = 1000
    """Steps between checkpoints; one is always written at the end."""
    keep_last: int = 3
    """Newest checkpoints kept; 0 keeps all."""
    keep_every: int = 0
    """Checkpoints at multiples of this step are kept for good; 0 keeps none for good."""
    staging: str = ""
    """Directory on a disk of the node; checkpoints are written there first and copied to run.dir beside the training. Empty: none."""


@dataclass
class GuardConfig:
    """What a run does about numbers that cannot be right."""

    window: int = 128
    """Good steps before, against which a step is judged."""
    deviations: float = 10.0
    """A loss or gradient norm further above the window's median than this many robust standard deviations is a spike; 0: none is."""
    max_skipped_in_row: int = 5
    """Steps in a row left out for a spike or a number not finite; one more takes the run back to its last good checkpoint."""
    max_rollbacks: int = 3
    """Ways back to a checkpoint in the whole run; one more ends it with status 13."""
    compare_weights_every: int = 1000
    """Steps between comparisons of the weights of all ranks, which must be equal; 0: never."""


@dataclass
class WatchdogConfig:
    """Seconds after which a rank that does not get on ends the job with status 12; 0: no limit."""

    start_s: float = 1800.0
    """Waiting for the other ranks; and from then to the first step: building the model, reading a checkpoint."""
    first_step_s: float = 1800.0
    """The first step, which compiles and allocates."""
    step_s: float = 600.0
    """Any other step, with its data."""
    save_s: float = 900.0
    """A save, where the training waits for it; one written beside the training is given up after half of this time."""
    eval_s: float = 900.0
    """One evaluation."""


@dataclass
class EvaluationConfig:
    """Masked accuracy on held-out rows while training."""

    every_steps: int = 0
    """Steps between evaluations; 0: none."""
    sequences: int = 1024
    """Rows of each corpus; 0 takes all."""
    weights: Literal["trained", "ema"] = "trained"
    """trained: the weights as they are; ema: their running average (training.ema_decay)."""


@dataclass
class ClusterConfig:
    """What a job of Slurm may decide by itself; read by the scripts in slurm/."""

    fruitless_lives: int = 3
    """Lives in a row that ended without a newer checkpoint, after which the job is not requeued."""
    drop_hosts: int = 0
    """Hosts which the preflight finds unfit and which the job may leave out and go on; the micro-batch shrinks to one that fits."""
    excluded_hosts: int = 2
    """Hosts that the next life may leave out because they hung, were lost or were unfit; never more than the partition can spare."""
    excluded_hours: float = 24.0
    """For so long they are left out."""


@dataclass
class LoggingConfig:
    """What the run says about itself."""

    every_steps: int = 10
    """Steps between lines on the terminal; metrics.jsonl has every step."""
    sinks: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Where the metrics of each step go beside metrics.jsonl: names of modules in jadeberta/training/sinks."""
    tensorboard: bool | None = None
    """Old spelling: true adds tensorboard to the sinks, false takes it out."""
    communication: bool = False
    """Also measure how long each step of rank 0 waits in collectives, for `jadeberta scaling`."""

    @property
    def metrics_sinks(self) -> list[str]:
        """The sinks, with the old spelling taken into account."""
        others = [name for name in self.sinks if name != "tensorboard"]
        has_tensorboard = "tensorboard" in self.sinks if self.tensorboard is None else self.tensorboard
        return ["tensorboard", *others] if has_tensorboard else others


@dataclass
class Recipe:
    """One run, whole."""

    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    deepspeed: str = "ds_configs/zero1.json"
    """DeepSpeed's own settings, a JSON file; relative to the current directory, else to the project."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    preprocess: dict[str, Any] = field(default_factory=dict)
    """Read and checked by `python -m preprocess`."""


def accumulation_steps(global_batch_size: int, micro_batch_size: int, world_size: int, warmup: Sequence[int] = ()) -> int:
    """Micro-steps of a rank in one optimizer step.

    Args:
        global_batch_size: sequences in it.
        micro_batch_size: of a rank.
        world_size: ranks.
        warmup: smaller batches that the same run takes before.

    Raises:
        ConfigError: one of the batches leaves a remainder; names the world sizes and micro-batches that fit all.
    """
    common = math.gcd(global_batch_size, *warmup)
    if common % (micro_batch_size * world_size) == 0:
        return global_batch_size // (micro_batch_size * world_size)
    worlds = [w for w in range(1, 4 * world_size + 1) if common % (micro_batch_size * w) == 0]
    micros = [m for m in range(1, 2 * micro_batch_size + 1) if common % (m * world_size) == 0]
    also = f" (and in training.batch_size_warmup {', '.join(map(str, warmup))})" if warmup else ""
    raise ConfigError(
        f"training.global_batch_size {global_batch_size}{also} does not divide over {world_size} ranks x training.micro_batch_size "
        f"{micro_batch_size}. World sizes that fit: {', '.join(map(str, worlds)) or 'none'}; "
        f"micro-batches that fit {world_size} ranks: {', '.join(map(str, micros)) or 'none'}."
    )
