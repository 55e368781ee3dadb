"""The recipe as dataclasses: one for each section of the YAML file, one field for each key, with its meaning, unit and default.

`load_recipe` reads a recipe, and `validate` refuses one whose settings contradict each other. Nothing downstream checks settings again.
"""

import math
from collections.abc import Sequence
from dataclasses import InitVar, asdict, dataclass, field
from typing import Any, Literal

from jadeberta.config.alerts_config import AlertsConfig
from jadeberta.config.batch_sizes import BatchSizes
from jadeberta.config.phase_config import PhaseConfig
from jadeberta.config.rtd import RtdConfig
from jadeberta.errors import ConfigError
from jadeberta.shards.tokenizer_format import DEFAULT_SPECIAL_TOKENS, SpecialTokens

OWN_MODEL_KEYS = ("init_from", "init_tokenizer", "attention", "initializer_scale_by_depth")
"""Keys of the section model that are not DebertaV2Config's."""


@dataclass
class RunConfig:
    """Where a run keeps its files, on which device it runs, and for how long."""

    dir: str = "runs/default"
    """Run directory: recipe, ledger, metrics, TensorBoard files, checkpoints."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on. auto: the GPU where there is one, else the CPU; refused in a job that holds GPUs which torch cannot use."""
    max_hours: float = 0.0
    """Wall time of one attempt in hours, after which it saves and ends with status 11 (requeue); 0: no limit."""


@dataclass
class DataConfig:
    """Which shards the training reads, and how."""

    shards: str = ""
    """Directory with index.json, written by `python -m preprocess pack`."""
    repeats: dict[str, int] = field(default_factory=dict)
    """How often an epoch sees each corpus, by its name; overrides the repeats in index.json."""
    weights: dict[str, float] = field(default_factory=dict)
    """Share of the rows that come from each corpus, by its name, instead of repeats: {wikipedia: 0.3, web: 0.7}; together 1."""
    packing: Literal["concat", "documents"] = "concat"
    """concat: a row is one text and attention crosses documents (the published run); documents: attention stays inside each document."""
    workers: int = 1
    """Loader processes per rank; 0: load in the training process. Changes the speed, never the data."""
    prefetch: int = 4
    """Steps that a loader process works ahead."""
    damaged: Literal["stop", "exclude", "set_aside"] = "stop"
    """Reaction to a shard that differs from index.json. stop: end the run; exclude: replace its rows by padding, log and count
    them. set_aside is the old spelling of exclude, still accepted."""

    def __post_init__(self) -> None:
        # Downstream, and in the resolved recipe, only the new spelling exists.
        if self.damaged == "set_aside":
            self.damaged = "exclude"


@dataclass
class ModelConfig:
    """Hugging Face's DebertaV2Config, name by name, plus the implementation of the attention and the source of the first weights."""

    init_from: str = ""
    """Start from these weights: a Hugging Face directory of a DeBERTa V2, an export, a checkpoint, or a run (its newest checkpoint);
    keys of the model that the recipe leaves out are the source's. Empty: random weights."""
    init_tokenizer: Literal["same", "match"] = "same"
    """Tokenizer of the shards beside that of model.init_from. same: another one is refused; match: embeddings of shared pieces are kept,
    a new piece gets the mean of its parts under the source's tokenizer."""

    attention: Literal["eager", "sdpa", "fused"] = "sdpa"
    """Implementation of one function. eager: Hugging Face's module; sdpa: plain PyTorch without gathers; fused: Triton kernels."""
    vocab_size: int = 32000
    """Number of pieces of the tokenizer."""
    hidden_size: int = 1024
    """Width of the hidden states."""
    num_hidden_layers: int = 24
    """Transformer layers."""
    num_attention_heads: int = 16
    """Attention heads of a layer."""
    attention_head_size: int = 64
    """Width of one head; num_attention_heads times this must be hidden_size."""
    intermediate_size: int = 4096
    """Width of the feed-forward layers."""
    hidden_act: str = "gelu"
    """Activation of the feed-forward layers."""
    hidden_dropout_prob: float = 0.1
    """Dropout of embeddings, attention outputs and feed-forward outputs."""
    attention_probs_dropout_prob: float = 0.1
    """Dropout of the attention weights."""
    max_position_embeddings: int = 512
    """Longest sequence, tokens."""
    type_vocab_size: int = 0
    """Token types; 0: no token-type embeddings."""
    initializer_range: float = 0.02
    """Standard deviation of the initial weights."""
    initializer_scale_by_depth: bool = False
    """Multiply the initial output projections of attention and feed-forward by 1 / sqrt(2 num_hidden_layers), as GPT-2 does."""
    layer_norm_eps: float = 1e-7
    """Added to the variance in every LayerNorm."""
    relative_attention: bool = True
    """Disentangled attention over relative positions."""
    max_relative_positions: int = -1
    """Largest relative distance, tokens; -1: max_position_embeddings."""
    position_buckets: int = 256
    """Buckets of relative distances; those beyond half of this number share logarithmic buckets."""
    pos_att_type: list[str] = field(default_factory=lambda: ["p2c", "c2p"])
    """Terms of the attention scores beside content to content: c2p, p2c or both."""
    share_att_key: bool = True
    """Project position tables by the content's own projections."""
    norm_rel_ebd: str = "layer_norm"
    """Normalisation of the position table."""
    position_biased_input: bool = False
    """Add absolute positions to the input."""
    conv_kernel_size: int = 3
    """Width of the convolution beside the first layer, tokens; 0: no convolution."""
    conv_act: str = "gelu"
    """Activation of the convolution."""
    pooler_dropout: float = 0.0
    """Dropout of the pooler, which pre-training does not use; kept for fine-tuning's configuration."""
    pooler_hidden_act: str = "gelu"
    """Activation of the pooler."""
    pooler_hidden_size: int = 1024
    """Width of the pooler."""

    def hugging_face(self, special: SpecialTokens = DEFAULT_SPECIAL_TOKENS) -> dict[str, Any]:
        """Returns the keyword arguments of transformers.DebertaV2Config.

        Args:
            special: those of the tokenizer. The embedding of `pad` is never trained, so that of no other token may stand in its place.
        """
        fields = {key: value for key, value in asdict(self).items() if key not in OWN_MODEL_KEYS}
        return {**fields, "pad_token_id": special.pad, "bos_token_id": special.cls, "eos_token_id": special.sep}


@dataclass
class TrainingConfig:
    """Batch, optimizer, schedule, precision and masking."""

    objective: Literal["mlm", "rtd"] = "mlm"
    """What is trained. mlm: masked language modelling; rtd: replaced-token detection with a generator beside the model, as in DeBERTa V3;
    section rtd has its settings."""
    max_steps: int = 300_000
    """Optimizer steps of the whole run."""
    global_batch_size: int = 2304
    """Sequences of one optimizer step, over all ranks and micro-batches."""
    batch_size_warmup: list[list[int]] = field(default_factory=list)
    """Smaller batches of the first steps: [[sequences, steps], ...], growing up to global_batch_size; empty: none."""
    micro_batch_size: int = 18
    """Sequences that a rank processes at once; the number of accumulated micro-batches follows from it."""
    optimizer: Literal["adamw", "muon", "stable_adamw", "lion"] = "adamw"
    """Rule of the updates. muon: Muon for the hidden matrices, AdamW for the rest; stable_adamw: AdamW with its update clipped by
    parameter; lion: the sign of an average, whose lr is a third to a tenth of AdamW's."""
    lr: float = 1e-4
    """Peak learning rate."""
    warmup_steps: int = 10_000
    """Steps over which the learning rate rises from 0 to its peak."""
    schedule: Literal["linear", "constant", "cosine", "wsd"] = "linear"
    """Learning rate after the warm-up. linear, cosine: falls to 0 at max_steps; constant: stays at the peak; wsd: stays at the peak and
    falls to 0 in the last decay_steps."""
    decay_steps: int = 0
    """Last steps before max_steps in which the schedule wsd falls to 0; 0: it does not fall."""
    adam_beta1: float = 0.9
    """Decay of Adam's average of the gradients."""
    adam_beta2: float = 0.999
    """Decay of Adam's average of their squares."""
    adam_eps: float = 1e-6
    """Added to the denominator of Adam's update."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW); biases and LayerNorm weights have none."""
    muon_lr: float = 0.0
    """Peak learning rate of Muon's matrices, with the schedule of lr; 0: that of training.lr."""
    muon_momentum: float = 0.95
    """Decay of Muon's average of the gradients."""
    muon_scale: Literal["match_adamw", "original"] = "match_adamw"
    """Factor of Muon's rate for a matrix. match_adamw: 0.2 sqrt(larger side), with which a rate for AdamW carries over; original:
    sqrt(rows / columns), at least 1."""
    muon_weight_decay: float = -1.0
    """Decoupled weight decay of Muon's matrices; -1: training.weight_decay."""
    lion_beta1: float = 0.9
    """Share of Lion's average in the sum whose sign it takes."""
    lion_beta2: float = 0.99
    """Decay of Lion's average of the gradients."""
    max_grad_norm: float = 1.0
    """Largest global L2 norm of the gradients, which are scaled down to it; 0: no clipping."""
    z_loss: float = 0.0
    """Weight of the mean squared log-partition of the masked tokens, added to the cross-entropy; 0: none."""
    ema_decay: float = 0.0
    """Decay of the running average of the weights (EMA); 0: no average."""
    seed: int = 42
    """Root of every random number: weights, sample order, masks, dropout."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Working precision, in which the ranks' gradients are added up; master weights and accumulated gradients are fp32 either way."""
    compile: Literal["auto", "always", "never"] = "auto"
    """torch.compile of forward and backward pass. auto: on GPUs, except under ZeRO-3, for objective rtd and where the
    attention is eager."""
    deterministic: bool = False
    """Whether a GPU must give the same bits again in every start on the same machines: takes slower sums, pins NCCL's choices, and proves
    itself on the first micro-batch. CPUs give them without it."""
    recompute: Literal["none", "cheap", "layers"] = "none"
    """Activations that the backward pass computes again instead of keeping them. cheap: those that the compiler finds cheap (dropout,
    GELU, LayerNorm); layers: all but the input of each layer, a third more work."""
    mask_probability: float | list[float] = 0.15
    """Share of the tokens to predict; 80% of these become [MASK], 10% a random token, 10% stay. [from, to]: changes in a straight line
    over the run."""
    whole_word_mask: bool = False
    """Mask whole words instead of single tokens; a word is a piece that starts one and the pieces that follow it."""

    @property
    def batch_sizes(self) -> BatchSizes:
        """The global batch size of every step."""
        return BatchSizes(self.global_batch_size, tuple((size, steps) for size, steps in self.batch_size_warmup))

    def accumulation(self, world_size: int) -> int:
        """Micro-batches of a rank in a step of global_batch_size.

        Raises:
            ConfigError: a batch of the run does not divide over the ranks.
        """
        warmup = [size for size, _ in self.batch_size_warmup]
        return accumulation_steps(self.global_batch_size, self.micro_batch_size, world_size, warmup)


@dataclass
class CheckpointConfig:
    """When checkpoints are written, and which are kept."""

    every_steps: int = 1000
    """Steps between two checkpoints; one is always written at the end."""
    keep_last: int = 3
    """Number of newest checkpoints to keep; 0: all."""
    keep_every: int = 0
    """Checkpoints at multiples of this step are kept for good; 0: none."""
    staging: str = ""
    """Directory on a local disk of the node: checkpoints are written there first and copied to run.dir in the background; empty: none."""


@dataclass
class GuardConfig:
    """When a step is skipped or the run rolls back, because its numbers cannot be right."""

    window: int = 128
    """Number of good steps with which a step is compared."""
    deviations: float = 10.0
    """Robust standard deviations above the window's median at which a loss or gradient norm is a spike; 0: no step is a spike."""
    max_skipped_in_row: int = 5
    """Most consecutive steps to skip for a spike or a number that is not finite; one more rolls back to the last good checkpoint."""
    max_rollbacks: int = 3
    """Most roll-backs in the whole run; one more ends it with status 13."""
    compare_weights_every: int = 1000
    """Steps between two comparisons of all ranks' weights, which must be equal; 0: never."""


@dataclass
class WatchdogConfig:
    """Time limits in seconds, after which a rank that makes no progress ends the job with status 12; 0: no limit. And slow ranks."""

    start_s: float = 1800.0
    """Limit for joining the other ranks, and again for the time until the first step: building the model, reading a checkpoint."""
    first_step_s: float = 1800.0
    """Limit for the first step, which compiles and allocates."""
    step_s: float = 600.0
    """Limit for every other step, its data included."""
    save_s: float = 900.0
    """Limit for a save that the training waits for; a save in the background is given up after half of this time."""
    eval_s: float = 900.0
    """Limit for one evaluation."""
    slow_rank: Literal["report", "requeue"] = "report"
    """What follows where all ranks wait for one in every step. report: `status` and `report` name it; requeue: in a Slurm job the run
    also saves and asks for another attempt without that rank's host."""
    slow_rank_share: float = 0.2
    """Share of a step that the others must wait for a rank before `slow_rank: requeue` counts it."""
    slow_rank_s: float = 1800.0
    """Seconds for which ranks of one host must be that slow, without a break, before `slow_rank: requeue` acts."""

    @property
    def longest_s(self) -> float:
        """The longest of the time limits; 0 where one of them is none."""
        limits = (self.start_s, self.first_step_s, self.step_s, self.save_s, self.eval_s)
        return max(limits) if all(limits) else 0.0


@dataclass
class EvaluationConfig:
    """Masked-token accuracy on held-out rows during the training."""

    every_steps: int = 0
    """Steps between two evaluations; 0: none."""
    sequences: int = 1024
    """Rows of each corpus; 0: all."""
    weights: Literal["trained", "ema"] = "trained"
    """Weights to evaluate. trained: the current ones; ema: their running average (training.ema_decay)."""


@dataclass
class ClusterConfig:
    """Decisions that a Slurm job may take by itself; read by the scripts in slurm/."""

    max_attempts_without_progress: int = 3
    """Consecutive attempts without a newer checkpoint after which the job is not requeued again."""
    drop_hosts: int = 0
    """Most hosts that the job may leave out because the preflight found them unfit; the micro-batch shrinks to one that fits."""
    excluded_hosts: int = 2
    """Most hosts that the next attempt may exclude because they hung, were lost or unfit; never more than the partition can spare."""
    excluded_hours: float = 24.0
    """Hours for which a host stays excluded."""
    fruitless_lives: InitVar[int | None] = None
    """Old spelling of max_attempts_without_progress, still accepted."""

    def __post_init__(self, fruitless_lives: int | None) -> None:
        if fruitless_lives is None:
            return
        if not isinstance(fruitless_lives, int):  # jsonargparse checks no type of an InitVar
            raise ConfigError(f"cluster.fruitless_lives is {fruitless_lives}; it must be a whole number.")
        self.max_attempts_without_progress = fruitless_lives


@dataclass
class LoggingConfig:
    """Log lines and metrics of a run, and where they go."""

    every_steps: int = 10
    """Steps between two lines on the terminal; metrics.jsonl has every step."""
    sinks: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Where the metrics of each step go beside metrics.jsonl: names of modules in jadeberta/training/sinks."""
    communication: bool = False
    """Also measure how long rank 0 waits in collectives in each step; `jadeberta scaling` needs it."""
    tensorboard: InitVar[bool | None] = None
    """Old spelling: true adds tensorboard to `sinks`, false takes it out."""

    def __post_init__(self, tensorboard: bool | None) -> None:
        if tensorboard is None:
            return
        if not isinstance(tensorboard, bool):  # jsonargparse checks no type of an InitVar
            raise ConfigError(f"logging.tensorboard is {tensorboard}; it must be true or false.")
        self.sinks = [*["tensorboard"] * tensorboard, *(name for name in self.sinks if name != "tensorboard")]


@dataclass
class Recipe:
    """All settings of one run."""

    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    rtd: RtdConfig = field(default_factory=RtdConfig)
    phases: list[PhaseConfig] = field(default_factory=list)
    """Phases of the run in order, each with its steps and the keys that differ there; empty: the whole run is one."""
    deepspeed: str = "ds_configs/zero1.json"
    """DeepSpeed's settings, a JSON file; looked up from the current directory, then from the project."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    alerts: AlertsConfig = field(default_factory=AlertsConfig)
    preprocess: dict[str, Any] = field(default_factory=dict)
    """Settings of `python -m preprocess`, which checks them."""


MOST_TRIED = 100_000
"""Largest number of ranks, or size of a micro-batch, that an error offers instead of one that does not fit."""


def accumulation_steps(global_batch_size: int, micro_batch_size: int, world_size: int, warmup: Sequence[int] = ()) -> int:
    """Micro-batches that a rank accumulates in one optimizer step.

    Args:
        global_batch_size: sequences of one optimizer step.
        micro_batch_size: sequences that a rank processes at once.
        world_size: number of ranks.
        warmup: smaller global batches at the start of the same run, sequences.

    Raises:
        ConfigError: one of the batches leaves a remainder; names the world sizes and micro-batches that fit all.
    """
    common = math.gcd(global_batch_size, *warmup)
    if common % (micro_batch_size * world_size) == 0:
        return global_batch_size // (micro_batch_size * world_size)
    # No number above the batch divides it; a mistyped size must not be counted up to.
    most_worlds = min(4 * world_size, common // micro_batch_size, MOST_TRIED)
    most_micros = min(2 * micro_batch_size, common // world_size, MOST_TRIED)
    worlds = [w for w in range(1, most_worlds + 1) if common % (micro_batch_size * w) == 0]
    micros = [m for m in range(1, most_micros + 1) if common % (m * world_size) == 0]
    also = f" (and in training.batch_size_warmup {', '.join(map(str, warmup))})" if warmup else ""
    raise ConfigError(
        f"training.global_batch_size {global_batch_size}{also} does not divide over {world_size} ranks x training.micro_batch_size "
        f"{micro_batch_size}. World sizes that fit: {', '.join(map(str, worlds)) or 'none'}; "
        f"micro-batches that fit {world_size} ranks: {', '.join(map(str, micros)) or 'none'}."
    )
