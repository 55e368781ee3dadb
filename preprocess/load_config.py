"""Reads and checks the `preprocess` section of a recipe.

The recipe file is that of `jadeberta pretrain`; the other sections are accepted and not looked at.
"""

from dataclasses import fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from jadeberta.shards import LONGEST_ROW, SHORTEST_ROW, WORD_START, ConfigError
from jadeberta.utils.paths import find_recipe
from jadeberta.utils.recipe_errors import explain_recipe_error
from preprocess.config import (
    CorpusConfig,
    DecontaminationConfig,
    DuplicatesConfig,
    EvaluationSetConfig,
    PreprocessConfig,
    SegmenterConfig,
    wanted_languages,
)
from preprocess.readers import check_corpus
from preprocess.readers.discover import discover
from preprocess.readers.input_split import ReaderSettings

RECORD_KEYS = tuple(f.name for f in fields(ReaderSettings))
"""Keys of a corpus that say what its documents are."""
OTHER_SECTIONS = (
    "run",
    "data",
    "model",
    "training",
    "rtd",
    "phases",
    "deepspeed",
    "checkpoint",
    "evaluation",
    "guard",
    "watchdog",
    "alerts",
    "cluster",
    "logging",
)
"""Sections of a recipe that other packages read."""
PARSER_ERRORS = (jsonargparse.ArgumentError, yaml.YAMLError, ValueError, OverflowError, OSError)
"""What the parser raises for a wrong value: its own error, and those of the values that it converts and of the files that it opens."""
VOCABULARY_LIMIT = 2**20
"""Largest vocabulary; with more, most of the model would be its embedding."""


def load_config(recipe: Path | None, overrides: tuple[str, ...] = (), corpora: Path | None = None) -> PreprocessConfig:
    """Loads the `preprocess` section of a recipe with overrides like ("--preprocess.vocab_size", "8000").

    Args:
        recipe: YAML file; None: the defaults.
        overrides: options of the command line.
        corpora: a folder whose corpora, found by their usual names, replace the recipe's; repeats and keys of records stay the recipe's.

    Raises:
        ConfigError: the recipe is missing, has an unknown key or a value out of range, or names no corpus.
    """
    parser = jsonargparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--preprocess", type=PreprocessConfig)
    # Accepted as they are: their keys are checked by the programs that read them.
    for section in OTHER_SECTIONS:
        parser.add_argument(f"--{section}", type=Any)
    if recipe is not None:
        recipe = find_recipe(str(recipe))
    try:
        arguments = parser.parse_args([*(["--config", str(recipe)] if recipe else []), *overrides])
        config = parser.instantiate(arguments).preprocess or PreprocessConfig()
    except PARSER_ERRORS as e:
        raise ConfigError(_entry_fault(recipe) or explain_recipe_error(str(e), recipe, _known_keys(), overrides)) from e
    except TypeError as e:
        where = recipe or "command line"
        raise ConfigError(f"{where}: a section under preprocess has no keys; give it some or leave it out.") from e
    config.corpora = {str(name): corpus for name, corpus in (config.corpora or {}).items()}
    config.decontamination.sets = {str(name): entry for name, entry in (config.decontamination.sets or {}).items()}
    if corpora is not None:
        config.corpora = _found_corpora(corpora, config.corpora)
    _validate(config)
    return config


def _found_corpora(folder: Path, named: dict[str, CorpusConfig]) -> dict[str, CorpusConfig]:
    """Finds the corpora of a folder; repeats and keys of records are those that the recipe gives their name; repeats also by format."""
    by_format = {c.format: c.repeats for c in named.values()}
    found = discover(folder)
    for name, corpus in found.items():
        corpus.repeats = named[name].repeats if name in named else by_format.get(corpus.format, 1)
        if name in named and named[name].format == corpus.format:
            found[name] = replace(named[name], path=corpus.path)
    # A filter that is not applied would train on what the recipe leaves out.
    for name, corpus in named.items():
        given = ", ".join(key for key in RECORD_KEYS if getattr(corpus, key))
        if given and (name not in found or found[name].format != corpus.format):
            raise ConfigError(
                f"preprocess.corpora.{name} sets {given}, but {folder} holds no {corpus.format} corpus of that name; name it like one of "
                f"{', '.join(found)}, or leave CORPORA out."
            )
    return found


def _entry_fault(recipe: Path | None) -> str:
    """Returns what is wrong with a corpus or evaluation set: in a dictionary the parser names neither the entry nor its key."""
    for section, class_ in (("corpora", CorpusConfig), ("decontamination.sets", EvaluationSetConfig)):
        try:
            found = yaml.safe_load(recipe.read_text(encoding="utf-8"))["preprocess"] if recipe else {}
            for key in section.split("."):
                found = found[key]
            entries = found.items()
        except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError):
            continue
        for name, entry in entries:
            key = f"preprocess.{section}.{name}"
            parser = jsonargparse.ArgumentParser(exit_on_error=False)
            # Not under its own name: the parser would turn a hyphen in it into an underscore.
            parser.add_class_arguments(class_, "entry")
            try:
                parser.parse_object({"entry": entry})
            except PARSER_ERRORS as e:
                known = [f"{key}.{f.name}" for f in fields(class_)]
                return explain_recipe_error(str(e).replace("entry", key), recipe, known)
    return ""


def _validate(config: PreprocessConfig) -> None:
    sections: dict[str, Any] = {"": config, "segmenter.": config.segmenter, "duplicates.": config.duplicates}
    sections |= {"decontamination.": config.decontamination}
    sections |= {f"decontamination.sets.{name}.": of_set for name, of_set in config.decontamination.sets.items()}
    for section, values in (sections | {f"corpora.{name}.": corpus for name, corpus in config.corpora.items()}).items():
        if empty := [f.name for f in fields(values) if getattr(values, f.name) is None]:
            raise ConfigError(f"preprocess.{section}{empty[0]} has no value; give it one or leave the line out.")
        # Of an empty path the pattern of all in it would be that of the whole disk.
        if not getattr(values, "path", "a path").strip():
            raise ConfigError(f"preprocess.{section}path is empty; it must name files.")
    if not config.corpora:
        raise ConfigError(
            "preprocess.corpora names no corpus; name them in the recipe or give --corpora FOLDER (make: CORPORA=folder)."
        )
    for name, corpus in config.corpora.items():
        if not name.replace("-", "").replace("_", "").isalnum() or name.startswith("valid-"):
            raise ConfigError(
                f"preprocess.corpora.{name}: a corpus's name may hold letters, digits, - and _, and not start with valid-."
            )
        if corpus.repeats < 1:
            raise ConfigError(f"preprocess.corpora.{name}.repeats is {corpus.repeats}; it must be at least 1.")
        check_corpus(name, corpus)
    # 2**40: a bound against typing errors.
    for key, low, high in (
        ("vocab_size", 10, VOCABULARY_LIMIT),
        ("part_bytes", 1, 2**40),
        ("shard_bytes", 1, 2**40),
        ("heldout_documents", 0, 2**40),
        ("segmenter.batch_sentences", 1, 2**24),
        ("segmenter.timeout_seconds", 0.1, 2**24),
        ("segmenter.memory_mib", 1, 2**24),
    ):
        if not low <= (value := attrgetter(key)(config)) <= high:
            raise ConfigError(f"preprocess.{key} is {value}; it must lie between {low} and {high}.")
    if config.pieces == "characters" and config.vocab_size > WORD_START:
        raise ConfigError(
            f"preprocess.vocab_size is {config.vocab_size}; with preprocess.pieces: characters it may be {WORD_START}."
        )
    _check_tokenizer(config)
    _check_lengths(config.sequence_length)
    if not 0.3 <= config.duplicates.similarity <= 0.99:
        raise ConfigError(
            f"preprocess.duplicates.similarity is {config.duplicates.similarity}; it must lie between 0.3 and 0.99."
        )
    _validate_filters(config)
    if config.bad_input_limit != "auto" and not 0 <= config.bad_input_limit <= 1:
        raise ConfigError(f"preprocess.bad_input_limit is {config.bad_input_limit}; it must be auto, or lie between 0 and 1.")
    if not 0.9 <= config.character_coverage <= 1:
        raise ConfigError(f"preprocess.character_coverage is {config.character_coverage}; it must lie between 0.9 and 1.")


def _check_tokenizer(config: PreprocessConfig) -> None:
    """Raises ConfigError for keys of tokenizer and text that do not belong together."""
    key = "preprocess.tokenizer"
    if not config.tokenizer:
        raise ConfigError(f"{key} is empty; it must be train, or the path of a tokenizer.")
    training = {
        "model_type": "unigram", "byte_fallback": False, "split_digits": False, "normalization_rule_name": "identity",
        "pieces": "subwords",
    }  # fmt: skip
    other = next((name for name, default in training.items() if getattr(config, name) != default), None)
    if not config.trains and other:
        raise ConfigError(f"preprocess.{other} only counts with {key}: train, and {key} is {config.tokenizer}; leave it out.")
    if config.pieces == "characters" and other != "pieces":
        raise ConfigError(f"preprocess.{other} does not count with preprocess.pieces: characters; leave it out.")
    if not config.segments:
        if config.pieces == "characters":
            raise ConfigError(
                "preprocess.pieces: characters needs the words of a segmenter, and segmenter.engine is none; name one."
            )
        if config.tokenizer_input == "words":
            raise ConfigError("preprocess.tokenizer_input is words, and segmenter.engine none makes none; leave it out.")
        if config.word_starts == "segmenter":
            raise ConfigError(
                "preprocess.word_starts is segmenter, and segmenter.engine is none; name a segmenter or another source."
            )
    elif config.normaliser == "none":
        raise ConfigError(
            "preprocess.normaliser is none, and a word segmenter needs normalised sentences; leave it out, or set segmenter.engine: none."
        )
    if config.pieces == "characters" and (config.tokenizer_input == "words" or config.word_starts not in ("auto", "segmenter")):
        raise ConfigError(
            "preprocess.pieces: characters takes its words from the segmenter; leave tokenizer_input and word_starts out."
        )
    if config.trains and config.word_starts == "tokenizer":
        raise ConfigError("preprocess.word_starts: tokenizer needs a Hugging Face tokenizer in preprocess.tokenizer; say pieces.")


def _validate_filters(config: PreprocessConfig) -> None:
    if not 0 <= config.language_probability <= 1:
        raise ConfigError(f"preprocess.language_probability is {config.language_probability}; it must lie between 0 and 1.")
    wanted = wanted_languages(config)
    if config.language_among and (outside := [name for name in wanted if name not in config.language_among]):
        raise ConfigError(
            f"preprocess.language_among does not hold {outside[0]}, which preprocess.language names, so that no document could be kept; "
            "add it."
        )
    if config.language_among and not wanted:
        raise ConfigError("preprocess.language_among is set and preprocess.language is not; name the language to keep.")
    sets = config.decontamination
    for name in sets.sets:
        if not name.replace("-", "").replace("_", "").isalnum():
            raise ConfigError(f"preprocess.decontamination.sets.{name}: a set's name may hold letters, digits, - and _.")
    # Strings of fewer letters are in texts that have nothing to do with a set: 10 are in a tenth of all documents of the sample.
    for key, low, high in (("characters", 12, 512), ("shortest", 8, sets.characters)):
        if not low <= getattr(sets, key) <= high:
            raise ConfigError(
                f"preprocess.decontamination.{key} is {getattr(sets, key)}; it must lie between {low} and {high}: "
                "shorter strings are in texts of any kind."
            )


def _check_lengths(setting: int | list[int]) -> None:
    key, lengths = "preprocess.sequence_length", [setting] if isinstance(setting, int) else setting
    if not lengths:
        raise ConfigError(f"{key} is an empty list; it must name a length, for example 512.")
    for length in lengths:
        if isinstance(length, bool) or not SHORTEST_ROW <= length <= LONGEST_ROW:
            raise ConfigError(f"{key} is {setting}; each length must lie between {SHORTEST_ROW} and {LONGEST_ROW}.")
    if twice := next((length for length in lengths if lengths.count(length) > 1), None):
        raise ConfigError(f"{key} is {setting}; {twice} is there twice.")


def _known_keys() -> list[str]:
    keys = [f"preprocess.{f.name}" for f in fields(PreprocessConfig)]
    sections = (
        ("segmenter", SegmenterConfig),
        ("duplicates", DuplicatesConfig),
        ("decontamination", DecontaminationConfig),
    )
    for section, class_ in sections:
        keys += [f"preprocess.{section}.{f.name}" for f in fields(class_)]
    return keys + list(OTHER_SECTIONS)
