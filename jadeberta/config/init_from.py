"""The architecture that `model.init_from` brings: keys of the model that a recipe leaves out are those of the source.

Reads the source's config.json and no weights. Once a run has started, its lineage.json has the values, and the source may be gone.
"""

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import orjson

from jadeberta.config.lineage import LINEAGE_NAME, read_lineage
from jadeberta.config.schema import ModelConfig
from jadeberta.errors import ConfigError

DEFAULTS: dict[str, Any] = {
    "vocab_size": 128100, "hidden_size": 1536, "num_hidden_layers": 24, "num_attention_heads": 24, "attention_head_size": None,
    "intermediate_size": 6144, "hidden_act": "gelu", "max_position_embeddings": 512, "type_vocab_size": 0, "layer_norm_eps": 1e-7,
    "relative_attention": False, "max_relative_positions": -1, "position_buckets": -1, "pos_att_type": [], "share_att_key": False,
    "norm_rel_ebd": "none", "position_biased_input": True, "conv_kernel_size": 0, "conv_act": "tanh",
}  # fmt: skip
"""Keys that decide which function the weights are, with what transformers takes where config.json lacks one."""
UNUSED: dict[str, Any] = {"initializer_range": 0.02, "pooler_hidden_act": "gelu", "pooler_hidden_size": None}
"""Keys that change nothing about the weights: the source's where the recipe leaves them out, and free."""
MOST_LAYERS, LARGEST_SIZE = 1000, 1 << 24
"""Of a model that is looked at: a number beyond them is damage, and a model of that many layers takes for ever to lay out."""
MASKED_LM = "DebertaV2ForMaskedLM"


def complete_model(model: ModelConfig, written: Collection[str], run_dir: Path, branch_from: Path | None = None) -> ModelConfig:
    """Returns the section model with the source's value for every architecture key that the recipe leaves out.

    Args:
        model: of the recipe; with `init_from`.
        written: keys of the section that the recipe or an option gives.
        run_dir: directory of the run, which has the values once the run has started.
        branch_from: what the run is a branch of, which has them too.

    Raises:
        ConfigError: the source is no DeBERTa V2 for masked language modelling, or a key that is written contradicts it.
        CheckpointError: lineage.json of the run is damaged.
    """
    lineage = read_lineage(run_dir)
    if lineage and lineage[-1].get("model"):
        path = run_dir / LINEAGE_NAME
        own = {key: value for key, value in lineage[-1]["model"].items() if key in DEFAULTS or key in UNUSED}
        source = _checked({**vars(ModelConfig()), **own}, own, path, "Put it back from the lineage in a checkpoint's state.json")
    else:
        directory = _with_config(run_dir / "checkpoints", branch_from) or config_directory(Path(model.init_from))
        path, source = directory / "config.json", read_architecture(directory)
    values = {key: getattr(model, key) if key in written else source[key] for key in (*DEFAULTS, *UNUSED) if key in source}
    if model.init_tokenizer == "match":
        values["vocab_size"] = model.vocab_size
    _fit_positions(values, source, written, path)
    for key, value in values.items():
        if key in UNUSED or (key == "vocab_size" and model.init_tokenizer == "match") or key.startswith("max_"):
            continue
        if _comparable(value) != _comparable(source[key]):
            raise ConfigError(
                f"model.{key} is {value} in the recipe and {source[key]} in {path}. Leave the key out, which takes the source's, "
                "or name another model.init_from."
            )
    return ModelConfig(**{**vars(model), **values})


def _fit_positions(values: dict[str, Any], source: dict[str, Any], written: Collection[str], path: Path) -> None:
    """Chooses the largest relative distance, which stays the source's where the recipe asks for other lengths of rows.

    The distance scales the logarithmic buckets: with another one the same weights would be another function.
    """
    length, had = values["max_position_embeddings"], source["max_position_embeddings"]
    if length > had and source["position_biased_input"]:
        raise ConfigError(
            f"model.max_position_embeddings is {length} in the recipe and {had} in {path}, whose weights hold absolute positions for "
            f"{had} tokens and no more. Set it to {had} or less."
        )
    distance = _distance(source)
    if "max_relative_positions" not in written:
        values["max_relative_positions"] = source["max_relative_positions"] if length == had else distance
    if source["relative_attention"] and (asked := _distance(values)) != distance:
        raise ConfigError(
            f"model.max_relative_positions is {values['max_relative_positions']} in the recipe, which makes {asked} tokens, and {distance} "
            f"in {path}. Set it to {distance}, or leave the key out, which takes the source's."
        )


def _distance(values: dict[str, Any]) -> int:
    """Largest relative distance in tokens that has a bucket of its own."""
    own = values["max_relative_positions"]
    return own if own >= 1 else values["max_position_embeddings"]


def _comparable(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value


def _with_config(*places: Path | None) -> Path | None:
    """The first checkpoint with a config.json in some places, which has what the source had: the source may be gone."""
    for place in places:
        with contextlib.suppress(ConfigError):
            if place is not None:
                return config_directory(place)
    return None


def config_directory(source: Path) -> Path:
    """Finds the directory with config.json: the source itself, or the newest checkpoint of a run.

    Raises:
        ConfigError: there is none.
    """
    if (source / "config.json").is_file():
        return source
    for root in (source / "checkpoints", source):
        if found := sorted(path.parent for path in root.glob("step-????????/config.json")):
            return found[-1]
    raise ConfigError(
        f"model.init_from {source}: no config.json there. Name a Hugging Face directory, an export, a checkpoint or a run directory."
    )


def read_architecture(directory: Path) -> dict[str, Any]:
    """Reads which DeBERTa V2 a directory holds: values of the section model, by key.

    Raises:
        ConfigError: it is another architecture, has another head, or config.json is damaged; names the key.
    """
    path = directory / "config.json"
    try:
        config = orjson.loads(path.read_bytes())
        if not isinstance(config, dict):
            raise ValueError("no object")
    except (OSError, ValueError) as e:
        raise ConfigError(f"{path}: cannot be read as a model's configuration ({e}). Export or download it again.") from e
    _refuse_other_models(path, config)
    values = {key: config.get(key, default) for key, default in (DEFAULTS | UNUSED).items()}
    if isinstance(values["pos_att_type"], str):
        values["pos_att_type"] = [part.strip() for part in values["pos_att_type"].lower().split("|") if part.strip()]
    values["pos_att_type"] = values["pos_att_type"] or []
    if values["pooler_hidden_size"] is None:
        values["pooler_hidden_size"] = values["hidden_size"]
    if values["attention_head_size"] is None and _is_count(values["hidden_size"]) and _is_count(values["num_attention_heads"]):
        values["attention_head_size"] = values["hidden_size"] // values["num_attention_heads"]
    _checked(values, values, path, "Download it again")
    # A count below 1 stands for "none" here; transformers takes any such value.
    for key in ("position_buckets", "max_relative_positions"):
        values[key] = values[key] if values[key] >= 1 else -1
    return values


def _checked(values: dict[str, Any], keys: Collection[str], path: Path, remedy: str) -> dict[str, Any]:
    """Returns values of a model, a whole number as a float where one belongs; raises ConfigError where one is of another type."""
    kinds = {key: type(getattr(ModelConfig(), key)) for key in keys}
    for key in keys:
        value = values[key]
        is_right = isinstance(value, kinds[key]) and (kinds[key] is bool or not isinstance(value, bool))
        if isinstance(value, list):
            is_right = is_right and all(isinstance(part, str) for part in value)
        if kinds[key] is float and isinstance(value, int) and not isinstance(value, bool):
            is_right, values[key] = True, float(value)
        if not is_right:
            raise ConfigError(f"{path}: its {key} is {value!r}, where a DeBERTa V2 has {kinds[key].__name__}. {remedy}.")
        limit = MOST_LAYERS if key == "num_hidden_layers" else LARGEST_SIZE
        if isinstance(value, int) and value > limit:
            raise ConfigError(f"{path}: its {key} is {value:,}, more than {limit:,}, which no model has. {remedy}.")
    return values


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _refuse_other_models(path: Path, config: dict[str, Any]) -> None:
    kind, heads = config.get("model_type"), config.get("architectures")
    if kind != "deberta-v2":
        what = f"a {kind}" if kind else "of no known kind (it has no model_type)"
        raise ConfigError(f"{path}: the model is {what}; model.init_from takes a deberta-v2 for masked language modelling.")
    heads = heads if isinstance(heads, list) else [heads] if heads else []
    if heads and MASKED_LM not in heads:
        raise ConfigError(
            f"{path}: the model is a {heads[0]}; model.init_from takes a {MASKED_LM}, whose head predicts masked tokens."
        )
    if config.get("auto_map"):
        raise ConfigError(f"{path}: the model asks for Python code of its own, which is never run. Name another model.init_from.")
    if config.get("quantization_config"):
        raise ConfigError(f"{path}: the weights are quantised, which cannot be trained. Name the model in bf16, fp16 or fp32.")
    if config.get("embedding_size", config.get("hidden_size")) != config.get("hidden_size"):
        raise ConfigError(
            f"{path}: its embedding_size {config['embedding_size']} is not its hidden_size {config.get('hidden_size')}, which this "
            "program's model cannot have. Name another model.init_from."
        )
    if config.get("conv_groups", 1) != 1:
        raise ConfigError(
            f"{path}: its conv_groups is {config['conv_groups']}, where this program's model has 1. Name another one."
        )
