"""Reads what `model.init_from` names: weights, architecture and tokenizer, checked before a device is touched."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from jadeberta.checkpoint.consolidate import consolidate_weights
from jadeberta.checkpoint.manifest import MANIFEST_NAME
from jadeberta.checkpoint.state_dict import read_state
from jadeberta.config import ModelConfig, Recipe
from jadeberta.config.init_from import DEFAULTS, UNUSED, read_architecture
from jadeberta.config.lineage import Entry, Lineage, lineage_in, read_lineage
from jadeberta.errors import ConfigError
from jadeberta.evaluation.mlm import resolve_checkpoint
from jadeberta.model.load import parameter_shapes
from jadeberta.model.published import EMBEDDINGS, POSITIONS, Weights, check_weights, read_published, weight_files, weights_sha256
from jadeberta.release.origin import ORIGIN_NAME
from jadeberta.shards import ShardReader
from jadeberta.shards.tokenizer_format import FAST_FILE, MODEL_FILES
from jadeberta.start.embeddings import carry_over, first_difference, match_vocabularies
from jadeberta.start.source_vocabulary import ROLES, Vocabulary, read_tokenizer_files, read_vocabulary
from jadeberta.utils.files import file_sha256

STEP_KEYS = ("step", "tokens", "fingerprints")
"""What the lineage keeps of a checkpoint's state."""


def read_source(recipe: Recipe, given: Path, shards: ShardReader, tokenizer: dict[str, bytes]) -> tuple[Weights, Lineage]:
    """Reads the weights that a run starts from, fitted to the recipe's model and the shards' tokenizer.

    Args:
        recipe: of the run.
        given: directory to read: that of `model.init_from`, or the checkpoint of it that an earlier attempt chose.
        shards: the training split.
        tokenizer: the files beside the shards, by name.

    Returns:
        Every parameter of the recipe's model, fp32, by name; the lineage of the run, its new entry last.

    Raises:
        ConfigError: the source is another architecture, or its tokenizer is not the shards'.
        CheckpointError: it is damaged, or lacks something.
    """
    directory = resolve_checkpoint(given)
    source = ModelConfig(**read_architecture(directory))
    is_checkpoint = (directory / MANIFEST_NAME).exists()
    if is_checkpoint:
        weights = consolidate_weights(directory)
        check_weights(directory, weights, source.hugging_face())
    else:
        weights = read_published(directory, source.hugging_face())
    entry: Entry = {
        "kind": "init",
        "source": str(directory.absolute()),
        "given": str(Path(recipe.model.init_from).absolute()),
        "form": "checkpoint" if is_checkpoint else "export" if (directory / ORIGIN_NAME).is_file() else "hugging face",
        "weights_sha256": weights_sha256(weights),
    }
    entry["files"] = _hashes(directory, is_checkpoint)
    lineage = read_lineage(directory)
    if is_checkpoint:
        state = read_state(directory)
        entry |= {key: state[key] for key in STEP_KEYS if key in state}
        lineage = lineage_in(state, directory)
    weights = _cut_positions(weights, recipe.model)
    weights, entry["tokenizer"] = _fit_tokenizer(recipe, directory, weights, shards, tokenizer)
    expected, found = parameter_shapes(recipe.model.hugging_face()), {name: tuple(t.shape) for name, t in weights.items()}
    if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        raise ConfigError(
            f"model.init_from {directory}: {wrong[0]} is {found.get(wrong[0], 'absent')} there and {expected.get(wrong[0], 'absent')} in "
            "the recipe's model. Leave the keys of the architecture out, which takes the source's."
        )
    entry["model"] = {key: value for key, value in asdict(recipe.model).items() if key in DEFAULTS or key in UNUSED}
    return weights, (*lineage, entry)


def _hashes(directory: Path, is_checkpoint: bool) -> dict[str, str]:
    """sha256 of the files that decide the start, by name; of a checkpoint that of its manifest, which has those of all others."""
    if is_checkpoint:
        return {MANIFEST_NAME: file_sha256(directory / MANIFEST_NAME)}
    paths = [directory / "config.json", *weight_files(directory)]
    paths += [directory / name for name in (FAST_FILE, *MODEL_FILES) if (directory / name).is_file()]
    return {path.name: file_sha256(path) for path in paths}


def _cut_positions(weights: Weights, model: ModelConfig) -> Weights:
    """The weights with as many absolute positions as the model has; `complete_model` has refused more than there are."""
    if POSITIONS not in weights:
        return weights
    return weights | {POSITIONS: weights[POSITIONS][: model.max_position_embeddings].clone()}


def _fit_tokenizer(
    recipe: Recipe, directory: Path, weights: Weights, shards: ShardReader, tokenizer: dict[str, bytes]
) -> tuple[Weights, Any]:
    """The weights for the shards' tokenizer, and what became of the pieces: "same", or their counts."""
    files = read_tokenizer_files(directory)
    if recipe.model.init_tokenizer == "same":
        if not _same_bytes(files, tokenizer):
            difference = first_difference(read_vocabulary(files, str(directory)), _shards_vocabulary(shards, tokenizer))
            if difference:
                raise ConfigError(
                    f"model.init_from {directory}: its tokenizer is not the one of {shards.index_path} ({difference}). Set "
                    "model.init_tokenizer: match to carry the embeddings over, or make the shards with the source's tokenizer."
                )
        return weights, "same"
    source = read_vocabulary(files, str(directory))
    rows = len(weights[EMBEDDINGS])
    new = _shards_vocabulary(shards, tokenizer)
    if len(new.keys) != recipe.model.vocab_size:
        raise ConfigError(
            f"model.vocab_size is {recipe.model.vocab_size}, but the tokenizer of {shards.index_path} has {len(new.keys)} pieces. "
            f"Set model.vocab_size to {len(new.keys)}."
        )
    match = match_vocabularies(source, new, rows)
    return carry_over(weights, match), match.counts()


def _shards_vocabulary(shards: ShardReader, tokenizer: dict[str, bytes]) -> Vocabulary:
    """The shards' tokenizer, with the roles of the special tokens that the index states, and the padding id that its files may lack."""
    special = shards.index.special_tokens.document()
    roles = {role: special[role] for role in ROLES if special[role] is not None}
    found = read_vocabulary(tokenizer, str(shards.directory / "tokenizer"))
    without_piece: list[bytes | None] = [None] * (shards.index.vocab_size - len(found.keys))
    return replace(found, keys=found.keys + without_piece, roles=roles)


def _same_bytes(files: dict[str, bytes], tokenizer: dict[str, bytes]) -> bool:
    """Whether both have the same files with the same bytes, which need not be read then."""
    return bool(files) and files == tokenizer
