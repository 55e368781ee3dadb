"""`jadeberta compare`: models of any kind on the same texts, with paired intervals, as JSON and as one HTML page."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jadeberta.cluster.device import choose_single_device, describe_device
from jadeberta.compare.compare_page import page
from jadeberta.compare.compared import course_of, kept_checkpoints, most_different, pairs_of
from jadeberta.compare.evaluate_text import (
    add_text_arguments,
    check_text_options,
    describe_texts,
    quiet_tokenizers,
    result_of,
    score_with_progress,
    write_result,
)  # fmt: skip
from jadeberta.compare.jglue_results import read_jglue
from jadeberta.compare.text_files import RawText, read_texts
from jadeberta.compare.text_models import open_model, records_segmenter
from jadeberta.compare.text_scores import TextScore
from jadeberta.errors import CheckpointError, ConfigError, OutputError
from jadeberta.evaluation.mlm_inputs import refuse_unwritable
from jadeberta.finetune.encoder import ENGINES
from jadeberta.utils.command_line import OneSentenceParser
from jadeberta.utils.files import write_atomically
from jadeberta.utils.paths import names_of, path_option

CHECKPOINTS = 6
RECORDED = "recorded"
"""In place of a segmenter: the model's directory says it."""


def main(arguments: list[str]) -> int:
    """Prints the figures as JSON, and writes the page."""
    parser = OneSentenceParser(
        prog="jadeberta compare",
        description="Models of any kind and vocabulary on the same raw texts: bits per character with paired intervals, the course of the "
        "runs among them, and the sentences on which they differ most.",
    )
    parser.add_argument(
        "models", type=path_option, nargs="+", help="runs, checkpoints, exported or Hugging Face directories; at least two"
    )
    add_text_arguments(parser)
    parser.add_argument(
        "--segmenter",
        nargs="+",
        choices=(*ENGINES, RECORDED),
        metavar="NAME",
        default=[],
        help=f"{', '.join(ENGINES)}: one for all models whose directory does not say it, or one for each in their order "
        "(recorded: the directory says it)",
    )
    parser.add_argument(
        "--checkpoints",
        type=int,
        default=CHECKPOINTS,
        help=f"kept checkpoints of each run to measure (default {CHECKPOINTS}, at least 2; 0: none)",
    )
    parser.add_argument("--jglue", type=path_option, help="directory with results of 'jadeberta finetune', to show beside")
    parser.add_argument("--page", type=path_option, help="write the page there, an HTML file")
    options = parser.parse_args(arguments)
    segmenters = _check(options)
    texts, device = read_texts(options.texts, options.limit, options.characters), choose_single_device()
    print(f"device {describe_device(device)}", file=sys.stderr, flush=True)  # standard output is one JSON document
    names = names_of(options.models)
    models: list[dict[str, Any]] = []
    scores: list[list[TextScore]] = []
    jglue = read_jglue(options.jglue) if options.jglue is not None else {}
    with quiet_tokenizers():

        def measure(path: Path, segmenter: str | None) -> tuple[dict[str, Any], list[TextScore]]:
            model = open_model(path, segmenter, options.words, options.segmenter_command, device)
            found = score_with_progress(model, texts, options.batch_size)
            return result_of(model, texts, found), found

        def course_point(path: Path, segmenter: str | None, newest: dict[str, Any]) -> dict[str, Any] | None:
            try:
                # The newest checkpoint of a run has been measured as the run.
                return newest if str(path) == newest["directory"] else measure(path, segmenter)[0]
            except CheckpointError as e:  # a run that goes on removes checkpoints
                print(f"NOTE: {path} is left out of the course. {e}", file=sys.stderr, flush=True)
                return None

        # All are opened before the first is measured for hours.
        courses: list[list[Path]] = []
        for path, segmenter in zip(options.models, segmenters, strict=True):
            courses.append(kept_checkpoints(path, options.checkpoints))
            for each in (path, *courses[-1]):
                open_model(each, segmenter, options.words, options.segmenter_command, device)
        for path, name, segmenter, kept in zip(options.models, names, segmenters, courses, strict=True):
            result, found = measure(path, segmenter)
            course = course_of(kept, partial(course_point, segmenter=segmenter, newest=result))
            models.append({"name": name, **result, "course": course})
            scores.append(found)
    figures = _figures(options, texts, models, scores) | {"jglue": jglue}
    write_result(figures, options.output)
    if options.page is not None:
        try:
            options.page.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(options.page, page(figures).encode(errors="replace"))
        except OSError as e:
            raise OutputError(f"{options.page}: cannot be written ({e.strerror}). Make room, or name another --page.") from e
        print(f"written to {options.page}", file=sys.stderr)
    return 0


def _check(options: argparse.Namespace) -> list[str | None]:
    """The segmenter of each model; raises ConfigError where the options do not go together."""
    check_text_options(options)
    if options.page is not None:
        refuse_unwritable(options.page, "--page")
        if options.output is not None and options.page.resolve() == options.output.resolve():
            raise ConfigError(f"--page and --output are both {options.page}. Name two files.")
    if len(options.models) < 2:
        raise ConfigError("one model alone cannot be compared. Name two, or use 'jadeberta evaluate text'.")
    if len({path.resolve() for path in options.models}) < len(options.models):
        raise ConfigError("a model is named twice. Name each once.")
    if options.checkpoints < 0 or options.checkpoints == 1:
        raise ConfigError(f"--checkpoints is {options.checkpoints}; it must be 0, or at least 2 for a course.")
    if len(options.segmenter) not in (0, 1, len(options.models)):
        raise ConfigError(
            f"--segmenter names {len(options.segmenter)} for {len(options.models)} models. Name one, or one for each."
        )
    if len(options.segmenter) == len(options.models):
        return [None if name == RECORDED else name for name in options.segmenter]
    return [_unless_recorded(path, options.segmenter) for path in options.models]


def _unless_recorded(path: Path, named: Sequence[str]) -> str | None:
    """The one segmenter that is named, for a model whose directory does not record its own."""
    return None if not named or named[0] == RECORDED or records_segmenter(path) else named[0]


def _figures(
    options: argparse.Namespace, texts: Sequence[RawText], models: list[dict[str, Any]], scores: Sequence[Sequence[TextScore]]
) -> dict[str, Any]:
    names = [model["name"] for model in models]
    return describe_texts(options, texts) | {
        "format": "jadeberta-compare",
        "version": 1,
        "models": models,
        "differences": pairs_of(names, texts, scores),
        "sentences": most_different(texts, scores),
    }
