"""`jadeberta evaluate text`: bits per character of raw texts, for any model with a head that fills masks."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jadeberta.cluster.device import choose_single_device, describe_device
from jadeberta.compare.text_encoders import WORDS
from jadeberta.compare.text_figures import figures_of, strata_of, sums_of
from jadeberta.compare.text_files import RawText, read_texts
from jadeberta.compare.text_models import TextModel, open_model
from jadeberta.compare.text_scores import TextScore, score_texts
from jadeberta.errors import ConfigError, OutputError
from jadeberta.evaluation.mlm_inputs import refuse_unwritable
from jadeberta.finetune.encoder import ENGINES
from jadeberta.utils.command_line import OneSentenceParser
from jadeberta.utils.files import file_sha256, write_atomically
from jadeberta.utils.paths import path_option

CHARACTERS = 512
"""Characters of a text that count, by default: each word costs a row."""


def add_text_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say which texts are measured and how."""
    parser.add_argument(
        "--texts",
        type=path_option,
        nargs="+",
        required=True,
        help=".txt or .jsonl files, compressed or not, or a directory of shards for its held-out documents",
    )
    parser.add_argument("--limit", type=int, default=0, help="documents of each file; 0 takes all")
    parser.add_argument(
        "--characters",
        type=int,
        default=CHARACTERS,
        help=f"first characters of each document that count (default {CHARACTERS}; 0: all)",
    )
    parser.add_argument(
        "--words", choices=WORDS, default="auto", help="what is masked together (default auto: the words of the model)"
    )
    parser.add_argument(
        "--segmenter-command", default="", help="the program of jumanpp or juman and its options, where it is not on PATH"
    )
    parser.add_argument("--batch-size", type=int, default=16, help="rows at once")
    parser.add_argument("--output", type=path_option, help="also write the JSON there")


def check_text_options(options: argparse.Namespace) -> None:
    """Raises ConfigError where an option is out of range, or the output cannot be written."""
    if options.batch_size < 1 or options.limit < 0 or options.characters < 0:
        raise ConfigError("--batch-size must be at least 1, --limit and --characters at least 0.")
    if options.output is not None:
        refuse_unwritable(options.output)


def describe_texts(options: argparse.Namespace, texts: Sequence[RawText]) -> dict[str, Any]:
    """What was measured: files with their hashes, and the limits."""
    return {
        "texts": {str(path): file_sha256(path) if path.is_file() else "held-out documents" for path in options.texts},
        "documents": len(texts),
        "limit": options.limit,
        "characters_of_a_document": options.characters,
    }


def score_with_progress(model: TextModel, texts: Sequence[RawText], batch_size: int) -> list[TextScore]:
    """Scores texts, and shows on standard error how far it is."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(
                f"\r\x1b[K{model.name}: {done:,} of {total:,} words",
                end="\n" if done == total else "",
                file=sys.stderr,
                flush=True,
            )

    scores = score_texts(model, texts, batch_size, show)
    if rejected := sum(score.is_rejected for score in scores):
        print(
            f"NOTE: {model.name}: its segmenter gave no words for {rejected:,} of {len(scores):,} texts; they were read uncut.",
            file=sys.stderr,
            flush=True,
        )
    return scores


def result_of(model: TextModel, texts: Sequence[RawText], scores: Sequence[TextScore]) -> dict[str, Any]:
    """The figures of a model over all texts and of each file, with the facts about it."""
    strata = strata_of(texts, sums_of(scores))
    names = list(strata)
    of_files = {
        name: figures_of([s for s, text in zip(scores, texts, strict=True) if text.file == name], [strata[name]])
        for name in names
    }
    return {**model.facts, **figures_of(scores, list(strata.values())), "files": of_files}


def write_result(document: dict[str, Any], output: Path | None) -> None:
    """Prints a result and writes its file; raises OutputError where that cannot be written."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    print(text)
    if output is not None:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(output, (text + "\n").encode())
        except OSError as e:
            raise OutputError(f"{output}: cannot be written ({e.strerror}). Make room, or name another --output.") from e


def main(arguments: list[str]) -> int:
    """Prints the figures as one JSON object."""
    parser = OneSentenceParser(
        prog="jadeberta evaluate text",
        description="Bits per character of raw texts, whole words masked together: comparable between models of any vocabulary. As JSON.",
    )
    parser.add_argument("what", choices=["text"], help="text: raw texts, any model")
    parser.add_argument(
        "--model", type=path_option, required=True, help="a run, a checkpoint, an exported or a Hugging Face directory"
    )
    parser.add_argument("--segmenter", choices=ENGINES, help="that of the model's pre-training, where its directory does not say")
    add_text_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="check the inputs, evaluate nothing")
    options = parser.parse_args(arguments)
    check_text_options(options)
    texts = read_texts(options.texts, options.limit, options.characters)
    device = choose_single_device()
    with quiet_tokenizers():
        model = open_model(options.model, options.segmenter, options.words, options.segmenter_command, device)
        if options.dry_run:
            print(f"would evaluate {model.facts['directory']} on {len(texts):,} texts; {model.facts['words']} masked together")
            return 0
        print(f"device {describe_device(device)}", file=sys.stderr, flush=True)  # standard output is one JSON document
        scores = score_with_progress(model, texts, options.batch_size)
    write_result(describe_texts(options, texts) | result_of(model, texts, scores), options.output)
    return 0


@contextlib.contextmanager
def quiet_tokenizers() -> Any:
    """Keeps the tokenizers library from a warning at every child process of a segmenter."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("TOKENIZERS_PARALLELISM", None)
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
