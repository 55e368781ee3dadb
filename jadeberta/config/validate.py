"""Which settings of a recipe are allowed, alone and together; each violation is refused with one sentence."""

import math
from dataclasses import asdict, fields
from typing import get_args, get_type_hints

from jadeberta.config.alerts_config import check_alerts
from jadeberta.config.init_from import LARGEST_SIZE, MOST_LAYERS
from jadeberta.config.phases import check_phases, mask_range, phases_of, recipe_in
from jadeberta.config.row_lengths import check_rows
from jadeberta.config.schema import ModelConfig, Recipe, TrainingConfig
from jadeberta.errors import ConfigError

AT_LEAST = {
    "run.max_hours": 0, "data.workers": 0, "data.prefetch": 1, "model.num_hidden_layers": 1, "model.hidden_size": 1,
    "model.num_attention_heads": 1, "model.attention_head_size": 1, "model.intermediate_size": 1, "model.max_position_embeddings": 1,
    "model.conv_kernel_size": 0, "model.layer_norm_eps": 0, "model.initializer_range": 0, "training.max_steps": 1,
    "training.global_batch_size": 1, "training.micro_batch_size": 1, "training.adam_eps": 0, "training.weight_decay": 0,
    "training.max_grad_norm": 0, "training.seed": 0, "training.z_loss": 0, "training.decay_steps": 0,
    "training.muon_lr": 0,
    "rtd.generator_layers": 0, "checkpoint.every_steps": 1, "checkpoint.keep_last": 0,
    "checkpoint.keep_every": 0, "evaluation.every_steps": 0, "evaluation.sequences": 0, "guard.window": 8, "guard.deviations": 0,
    "guard.max_skipped_in_row": 0, "guard.max_rollbacks": 0, "guard.compare_weights_every": 0, "watchdog.start_s": 0,
    "watchdog.first_step_s": 0, "watchdog.step_s": 0, "watchdog.save_s": 0, "watchdog.eval_s": 0, "logging.every_steps": 1,
    "cluster.max_attempts_without_progress": 1, "cluster.drop_hosts": 0, "cluster.excluded_hosts": 0, "cluster.excluded_hours": 0,
}  # fmt: skip
"""Smallest value of each key."""
SIZES = (
    "vocab_size", "hidden_size", "num_attention_heads", "attention_head_size", "intermediate_size", "max_position_embeddings",
    "type_vocab_size", "max_relative_positions", "position_buckets", "conv_kernel_size", "pooler_hidden_size",
)  # fmt: skip
AT_MOST = {
    "model.num_hidden_layers": MOST_LAYERS, **{f"model.{key}": LARGEST_SIZE for key in SIZES},
    "training.max_steps": 99_999_999,  # a checkpoint's name has eight digits
    "training.global_batch_size": 1 << 24, "training.seed": 2**64 - 1,  # torch takes no larger one
}  # fmt: skip
"""Largest value of each key that counts something: a larger one is a slip of the keyboard, and would end in a library's overflow."""
MOST_REPEATS = 1_000_000
BELOW_ONE = (
    "training.adam_beta1",
    "training.adam_beta2",
    "training.ema_decay",
    "training.muon_momentum",
    "training.lion_beta1",
    "training.lion_beta2",
    "model.hidden_dropout_prob",
    "model.attention_probs_dropout_prob",
    "model.pooler_dropout",
)
"""Keys whose value is at least 0 and below 1."""
ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu", "tanh")
"""Activations that the model implements."""
OPTIMIZERS: tuple[str, ...] = get_args(get_type_hints(TrainingConfig)["optimizer"])
"""Values of training.optimizer."""


def validate(recipe: Recipe) -> None:
    """Checks a recipe.

    Raises:
        ConfigError: two settings contradict each other, or a number is out of its range; names the keys and what fits.
    """
    _refuse_not_finite("", asdict(recipe))
    _validate_run(recipe)
    check_phases(recipe)
    if not recipe.phases:  # each phase has been checked with its own rows
        model, rows = recipe.model, recipe.training.micro_batch_size
        check_rows(model, model.max_position_embeddings, rows, model.attention, "model.max_position_embeddings")
    for phase in phases_of(recipe) if recipe.phases else ():
        try:
            _validate_run(recipe_in(recipe, phase))
        except ConfigError as e:
            raise ConfigError(f"phases, entry {phase.number}, makes this of the recipe: {e}") from e


def _validate_run(recipe: Recipe) -> None:
    """Checks a recipe as far as its phases do not matter."""
    for key, low in AT_LEAST.items():
        section, name = key.split(".")
        if (value := getattr(getattr(recipe, section), name)) < low:
            raise ConfigError(f"{key} is {value}; it must be at least {low}.")
    for key, high in AT_MOST.items():
        section, name = key.split(".")
        if (value := getattr(getattr(recipe, section), name)) > high:
            raise ConfigError(f"{key} is {value}; it may be at most {high}.")
    for key in BELOW_ONE:
        section, name = key.split(".")
        if not 0 <= (value := getattr(getattr(recipe, section), name)) < 1:
            raise ConfigError(f"{key} is {value}; it must be at least 0 and below 1.")
    if not recipe.run.dir:
        raise ConfigError("run.dir is empty; name the directory in which the run shall live.")
    _check_training(recipe.training)
    _check_batch(recipe.training)
    _check_model(recipe)
    _check_objective(recipe)
    check_alerts(recipe.alerts)
    _check_slow_rank(recipe)
    if any(n < 0 for n in recipe.data.repeats.values()):
        raise ConfigError(f"data.repeats holds a negative number: {recipe.data.repeats}.")
    if any(n > MOST_REPEATS for n in recipe.data.repeats.values()):
        raise ConfigError(f"data.repeats holds a number above {MOST_REPEATS:,}: {recipe.data.repeats}.")
    if recipe.evaluation.weights == "ema" and not recipe.training.ema_decay:
        raise ConfigError("evaluation.weights is ema, but training.ema_decay 0 keeps no average; set it, say to 0.9999.")


def _check_slow_rank(recipe: Recipe) -> None:
    watchdog = recipe.watchdog
    if not 0 < watchdog.slow_rank_share < 1:
        raise ConfigError(f"watchdog.slow_rank_share is {watchdog.slow_rank_share}; it is a share, above 0 and below 1.")
    if watchdog.slow_rank_s <= 0:
        raise ConfigError(f"watchdog.slow_rank_s is {watchdog.slow_rank_s}; it must be above 0.")
    if watchdog.slow_rank == "requeue" and not recipe.cluster.excluded_hosts:
        raise ConfigError(
            "watchdog.slow_rank requeue leaves out the host of a slow rank, but cluster.excluded_hosts 0 lets no host be left out; raise "
            "it, or set slow_rank to report."
        )


def _refuse_not_finite(key: str, value: object) -> None:
    """Raises ConfigError for a NaN or an infinity anywhere in a recipe: each comparison with NaN is false, so no rule would see it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _refuse_not_finite(f"{key}.{name}".lstrip("."), inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _refuse_not_finite(key, inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key} is {value}; it must be a finite number.")


def _check_training(training: TrainingConfig) -> None:
    mask = training.mask_probability
    if isinstance(mask, list) and len(mask) != 2:
        raise ConfigError(f"training.mask_probability is {mask}; it may be one number or [from, to].")
    if not all(0 < probability < 1 for probability in mask_range(mask)):
        raise ConfigError(f"training.mask_probability is {mask}; it must lie between 0 and 1.")
    if training.lr <= 0:
        raise ConfigError(f"training.lr is {training.lr}; it must be above 0.")
    _check_optimizer(training)
    if not 0 <= training.warmup_steps <= training.max_steps:
        raise ConfigError(
            f"training.warmup_steps {training.warmup_steps} must lie within training.max_steps {training.max_steps}."
        )
    if training.decay_steps and training.schedule != "wsd":
        raise ConfigError(
            f"training.decay_steps {training.decay_steps} belongs to training.schedule wsd, which is {training.schedule}; set it to 0."
        )
    if training.warmup_steps + training.decay_steps > training.max_steps:
        raise ConfigError(
            f"training.warmup_steps {training.warmup_steps} and training.decay_steps {training.decay_steps} together "
            f"are more than training.max_steps {training.max_steps}."
        )


def _check_optimizer(training: TrainingConfig) -> None:
    if training.muon_weight_decay < 0 and training.muon_weight_decay != -1:
        raise ConfigError(
            f"training.muon_weight_decay is {training.muon_weight_decay}; it must be at least 0, or -1 for training.weight_decay."
        )
    if not math.isfinite(training.muon_lr / training.lr):
        raise ConfigError(f"training.muon_lr {training.muon_lr} is too many times training.lr {training.lr}; lower it.")
    for field in fields(training):
        value = getattr(training, field.name)
        for optimizer in OPTIMIZERS:
            # Keys that begin with an optimizer's name are its own.
            if field.name.startswith(f"{optimizer}_") and value != field.default and optimizer != training.optimizer:
                raise ConfigError(
                    f"training.{field.name} {value} belongs to training.optimizer {optimizer}, which is {training.optimizer}; set it to "
                    f"{field.default}."
                )


def _check_batch(training: TrainingConfig) -> None:
    last = 0
    for stage in training.batch_size_warmup:
        if len(stage) != 2 or min(stage) < 1:
            raise ConfigError(
                f"training.batch_size_warmup holds {stage}; each of its entries is [sequences, steps], both at least 1."
            )
        if not last < stage[0] < training.global_batch_size:
            raise ConfigError(
                f"training.batch_size_warmup {training.batch_size_warmup} must grow from entry to entry and stay below "
                f"training.global_batch_size {training.global_batch_size}; its entries are [sequences, steps]."
            )
        last = stage[0]
    for size in [*(size for size, _ in training.batch_size_warmup), training.global_batch_size]:
        if size % training.micro_batch_size:
            common = training.batch_sizes.common
            fits = [n for n in range(1, common + 1) if common % n == 0]
            near = sorted(fits, key=lambda n: abs(n - training.micro_batch_size))[:4]
            key = "global_batch_size" if size == training.global_batch_size else "batch_size_warmup:"
            raise ConfigError(
                f"training.{key} {size} is not divisible by training.micro_batch_size {training.micro_batch_size}; "
                f"sizes near it that fit: {', '.join(map(str, sorted(near)))}."
            )


def _check_model(recipe: Recipe) -> None:
    model = recipe.model
    if model.initializer_scale_by_depth and model.init_from:
        raise ConfigError(
            "model.initializer_scale_by_depth scales random weights, but model.init_from brings weights of its own; set it to false."
        )
    for key in ("hidden_act", "conv_act"):
        if getattr(model, key) not in ACTIVATIONS:
            raise ConfigError(f"model.{key} is {getattr(model, key)}; it may be {', '.join(ACTIVATIONS)}.")
    if model.hidden_size % model.num_attention_heads:
        raise ConfigError(
            f"model.hidden_size {model.hidden_size} is not divisible by model.num_attention_heads {model.num_attention_heads}."
        )
    if model.num_attention_heads * model.attention_head_size != model.hidden_size:
        raise ConfigError(
            f"model.num_attention_heads {model.num_attention_heads} x model.attention_head_size {model.attention_head_size} "
            f"is not model.hidden_size {model.hidden_size}; set attention_head_size to {model.hidden_size // model.num_attention_heads}."
        )
    if not set(model.pos_att_type) <= {"c2p", "p2c"}:
        raise ConfigError(f"model.pos_att_type is {model.pos_att_type}; it may hold c2p and p2c.")
    _check_positions(model)
    has_eager = _is_eager(recipe)
    if has_eager and recipe.training.recompute != "none":
        raise ConfigError(
            "training.recompute needs model.attention 'sdpa' or 'fused'; Hugging Face's own module keeps its activations."
        )
    if recipe.training.recompute == "cheap" and recipe.training.compile == "never":
        raise ConfigError("training.recompute 'cheap' is the compiler's choice; set training.compile to 'auto' or 'always'.")
    if has_eager and recipe.data.packing == "documents":
        raise ConfigError(
            "data.packing 'documents' needs model.attention 'sdpa' or 'fused': Hugging Face's own module cannot keep documents apart."
        )


def _is_eager(recipe: Recipe) -> bool:
    """Whether a run without phases has Hugging Face's own attention; with phases each is checked as a run of its own."""
    return not recipe.phases and recipe.model.attention == "eager"


def _check_objective(recipe: Recipe) -> None:
    """Raises ConfigError where replaced-token detection cannot be trained as the recipe says."""
    rtd = recipe.rtd
    if recipe.training.objective == "mlm":
        for field in fields(rtd):
            if (value := getattr(rtd, field.name)) != field.default:
                raise ConfigError(
                    f"rtd.{field.name} {value} belongs to training.objective rtd, which is mlm; set it to {field.default}, or leave it out."
                )
        return
    for key in ("loss_weight", "temperature"):
        if (value := getattr(rtd, key)) <= 0:
            raise ConfigError(f"rtd.{key} is {value}; it must be above 0.")
    if rtd.generator_layers > MOST_LAYERS:
        raise ConfigError(f"rtd.generator_layers is {rtd.generator_layers}; it must be at most {MOST_LAYERS}.")
    if _is_eager(recipe):
        raise ConfigError("training.objective rtd needs model.attention 'sdpa' or 'fused', and 'eager' is asked for; change it.")
    if recipe.training.recompute == "cheap" and recipe.training.compile != "always":
        raise ConfigError(
            "training.recompute 'cheap' is the compiler's choice, and compile 'auto' leaves training.objective rtd out; set compile to "
            "'always', or recompute to 'none' or 'layers'."
        )
    if recipe.model.init_from:
        raise ConfigError(
            f"training.objective rtd starts from random weights, and model.init_from is {recipe.model.init_from}, which has no generator; "
            "leave it out, or set the objective to mlm."
        )
    if recipe.training.whole_word_mask:
        raise ConfigError(
            "training.whole_word_mask does not go together with training.objective rtd, whose generator draws each token by itself; set it "
            "to false."
        )


def _check_positions(model: ModelConfig) -> None:
    """Raises ConfigError where distances have no bucket: logarithms would be taken of numbers that do not grow with the distance."""
    if model.relative_attention and model.position_buckets == 1:
        raise ConfigError("model.position_buckets is 1, which divides no distances; set it to 2 or more, or to -1 for none.")
    farthest = model.max_relative_positions if model.max_relative_positions > 0 else model.max_position_embeddings
    exact = model.position_buckets // 2
    if model.relative_attention and 0 < exact < model.max_position_embeddings - 1 and farthest <= exact + 1:
        raise ConfigError(
            f"model.max_relative_positions is {farthest}, but distances up to {exact} have a bucket each (half of model.position_buckets "
            f"{model.position_buckets}) and rows of {model.max_position_embeddings} tokens reach further; set max_relative_positions to "
            f"{exact + 2} or more, or to -1, which stands for model.max_position_embeddings."
        )
