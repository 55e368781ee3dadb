"""`jadeberta export`: writes a checkpoint as a directory that AutoTokenizer and AutoModelForMaskedLM load, with a model card.

Promises that a directory under the final name has been loaded by transformers and gives the checkpoint's own logits.
"""

import argparse
import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file

from jadeberta.checkpoint.consolidate import Weights, consolidate_weights
from jadeberta.checkpoint.held_tokenizer import refuse_mixed_tokenizer, refuse_other_tokenizer
from jadeberta.checkpoint.manifest import STATE_NAME, verify
from jadeberta.checkpoint.state_dict import read_state, save_tensors
from jadeberta.config.lineage import lineage_in, write_lineage
from jadeberta.errors import CheckpointError, OutputError
from jadeberta.evaluation.identity import refuse_foreign_evaluation, refuse_other_weights
from jadeberta.evaluation.mlm import resolve_checkpoint
from jadeberta.model import load
from jadeberta.model.load import pair_settings
from jadeberta.model.published import weights_sha256
from jadeberta.provenance.record import write_statement
from jadeberta.release.card import Further, card_sentence, write_card
from jadeberta.release.card_tables import read_jglue, refuse_foreign_scores
from jadeberta.release.origin import ORIGIN_NAME, origin_of, write_origin
from jadeberta.release.pair import GENERATOR, write_pair
from jadeberta.release.typed_text import is_normalised_here, refuse_other_forms, take_typed_text
from jadeberta.shards.tokenizer_format import ALL_TOKENIZER_FILES, SPECIAL_TOKENS, TOKENIZER_FILES
from jadeberta.utils.command_line import OneSentenceParser
from jadeberta.utils.json_lines import read_jsonl
from jadeberta.utils.paths import path_option

FIGURES = {"accuracy", "loss", "unigram_accuracy", "masked_tokens"}
LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,39}")
ATTEMPT = re.compile(rb'"attempt":\s*(\d{1,9})[,}]')
LOGIT_TOLERANCE = 2e-4
"""Relative difference of fp32 logits from another order of additions; a lost or swapped weight gives orders of magnitude more."""


def export(
    checkpoint: Path,
    out: Path,
    dtype: torch.dtype = torch.float32,
    evaluation: dict[str, Any] | None = None,
    kind: Weights = "trained",
    licence: str = "",
    jglue: list[dict[str, Any]] | None = None,
) -> list[tuple[str, float]]:
    """Writes the release of a checkpoint; returns the five likeliest words for the card's sentence with their probabilities.

    Args:
        checkpoint: a committed checkpoint.
        out: directory to make; it must not exist, and appears by rename when everything in it has been checked.
        dtype: type of the weights; fp32 writes the master weights.
        evaluation: result of `evaluate mlm`, for the card.
        kind: trained; or ema, the running average.
        licence: the Hub's key of a licence, for the card.
        jglue: results of `read_jglue`, for the card.

    Raises:
        CheckpointError: the checkpoint cannot be trusted, has no tokenizer or no average, the evaluation is of other weights,
            another run or other shards, scores are of other weights, `out` exists, the tokenizer is not the one of the training, or
            its files disagree, or the export gives other logits.
        OutputError: `out` cannot be written.
    """
    if faults := verify(checkpoint):
        raise CheckpointError(f"{faults[0]} Export another checkpoint; 'jadeberta checkpoint verify' shows which can be trusted.")
    refuse_existing(out)
    state = read_state(checkpoint)
    is_other = "tokenizer_input" in state["data"]
    needed = ("tokenizer.json", "tokenizer_config.json") if is_other else TOKENIZER_FILES
    if missing := [name for name in needed if not (checkpoint / name).is_file()]:
        raise CheckpointError(
            f"{checkpoint / missing[0]}: missing; a release needs its tokenizer. Copy it there from the shards' tokenizer/."
        )
    if evaluation is not None:
        refuse_foreign_evaluation(evaluation, state, checkpoint, kind)
    # Beside `out`, because a rename works within one file system only.
    temporary = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        consolidated = consolidate_weights(checkpoint, kind)
        if evaluation is not None:
            refuse_other_weights(evaluation, [weights_sha256(consolidated)], checkpoint, kind)
        is_pair = pair_settings(checkpoint) is not None
        # The directory whose model fills masks: of two models the generator's.
        filling = temporary / GENERATOR if is_pair else temporary
        weights = {name: tensor.to(dtype).contiguous() for name, tensor in consolidated.items()}
        if is_pair:
            write_pair(checkpoint, temporary, consolidated, dtype)
        else:
            save_tensors(temporary / "model.safetensors", weights, {"format": "pt"})
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        config |= {"dtype": str(dtype).removeprefix("torch.")}
        if not is_pair:
            (temporary / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for name in ALL_TOKENIZER_FILES:
            if (checkpoint / name).is_file():
                shutil.copyfile(checkpoint / name, temporary / name)
        if not is_other:  # a given tokenizer stays as it is
            set_longest(temporary / "tokenizer_config.json", config["max_position_embeddings"])
        write_origin(temporary, origin_of(state))
        if lineage := lineage_in(state, checkpoint):
            write_lineage(temporary, lineage)
        mask = "[MASK]"
        if is_other:
            mask = refuse_other_tokenizer(temporary, state["fingerprints"]["tokenizer"])
        else:
            if is_normalised := is_normalised_here(state["data"]):
                take_typed_text(temporary)
            refuse_mixed_tokenizer(temporary, state["fingerprints"]["tokenizer"])
            if is_normalised:
                refuse_other_forms(temporary)
        # Before the rename: a wrong export must never appear under the final name.
        if is_pair:
            for file in [path for path in temporary.iterdir() if path.name in {*ALL_TOKENIZER_FILES, ORIGIN_NAME}]:
                shutil.copyfile(file, filling / file.name)
        else:
            _compare_logits(temporary, weights)
        predictions = fill_mask(filling, card_sentence(state["data"], mask))
        ledger = read_jsonl(checkpoint.parent.parent / "ledger.jsonl")
        if jglue:
            refuse_foreign_scores(jglue, _encoders(consolidated, load_file(temporary / "model.safetensors")))
        further = Further(licence, jglue, attempts_with_steps(checkpoint.parent.parent / "metrics.jsonl"))
        write_card(temporary / "README.md", config, state, ledger, evaluation, predictions, kind, mask, further)
        made = {"weights": kind, "dtype": str(dtype).removeprefix("torch.")}
        write_statement(temporary, checkpoint, state, ledger, made)  # last: it names every other file
        temporary.rename(out)
    except (OSError, SafetensorError) as e:
        raise OutputError(f"{out}: cannot be written ({e}). Make room, or name another --out.") from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return predictions


def _encoders(*models: dict[str, torch.Tensor]) -> set[str]:
    """Hashes by which `jadeberta finetune` names the encoder of models: of the fp32 values of its weights."""
    return {
        weights_sha256(
            {name: tensor.float().contiguous() for name, tensor in sorted(model.items()) if name.startswith("deberta.")}
        )
        for model in models
    }


def attempts_with_steps(metrics: Path) -> frozenset[int]:
    """Returns the numbers of the attempts that made a step, from a run's metrics.jsonl; none where it cannot be read."""
    try:
        with open(metrics, "rb") as rows:
            return frozenset(int(found[1]) for row in rows if (found := ATTEMPT.search(row)))
    except OSError:
        return frozenset()


def refuse_existing(out: Path) -> None:
    """Raises CheckpointError where there is something under the name of the directory to make, be it a link to nothing."""
    if os.path.lexists(out):
        raise CheckpointError(f"{out}: exists already. Remove it or name another --out.")


def set_longest(path: Path, length: int) -> None:
    """Writes the model's longest row into the tokenizer's configuration: transformers truncates there. A file that has it stays as it is.

    A tokenizer does not depend on the row length, and may have been made for other rows.
    """
    settings = json.loads(path.read_text(encoding="utf-8"))
    if settings.get("model_max_length") != length:
        settings["model_max_length"] = length
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def fill_mask(directory: Path, sentence: str, top: int = 5) -> list[tuple[str, float]]:
    """Returns the likeliest words for the one [MASK] in a sentence, with their probabilities.

    Uses transformers alone, as a user of the release does.

    Args:
        directory: an exported directory.
        sentence: words with spaces between them, or plain text, as the model takes it.
        top: number of words.
    """
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    model = transformers.AutoModelForMaskedLM.from_pretrained(directory, trust_remote_code=False).eval()
    encoded = tokenizer(sentence, return_tensors="pt")
    place = int((encoded["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0])
    with torch.inference_mode():
        probabilities = model(**encoded).logits[0, place].float().softmax(-1)
        # Embeddings that are no token's have no word.
        probabilities[sorted(set(range(len(probabilities))) - set(tokenizer.get_vocab().values()))] = 0
        best = probabilities.topk(top)
    return [(_word(tokenizer, int(i)), share) for i, share in zip(best.indices, best.values.tolist(), strict=True)]


def _word(tokenizer: Any, number: int) -> str:
    """Text of a token; of byte-level BPE that of its bytes, which it writes as other letters."""
    token = str(tokenizer.convert_ids_to_tokens(number))
    if type(getattr(tokenizer, "backend_tokenizer", None) and tokenizer.backend_tokenizer.decoder).__name__ == "ByteLevel":
        text = tokenizer.decode([number])
        return token if "\ufffd" in text else text.strip() or token
    return token.removeprefix("▁") or token  # the space in front of a word, alone


def _compare_logits(directory: Path, weights: dict[str, torch.Tensor]) -> None:
    """Raises CheckpointError where transformers' model of the directory differs from ours with the same weights."""
    ours = load(directory).float().eval()
    # Both models have the weights as they are released, so rounding to that dtype is no difference.
    ours.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=False)
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(directory, trust_remote_code=False, dtype=torch.float32).eval()
    ids = torch.randint(len(SPECIAL_TOKENS), ours.config.vocab_size, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = ours(ids).logits, theirs(input_ids=ids).logits
    difference = (expected - found).abs().max().item() / max(1.0, expected.abs().max().item())
    if difference > LOGIT_TOLERANCE:
        raise CheckpointError(
            f"{directory}: transformers gives other logits than the checkpoint (by {difference:.1e}); nothing was exported."
        )


def read_evaluation(path: Path) -> dict[str, Any]:
    """Reads the file of `evaluate mlm --output`; raises CheckpointError where it is something else."""
    anew = "make it anew with 'jadeberta evaluate mlm --output'"
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path}: a folder, a pipe or a device; name the file of 'jadeberta evaluate mlm --output'.")
    try:
        evaluation = json.loads(path.read_text(encoding="utf-8"))
        figures = [*evaluation["corpora"].values(), evaluation["all"]]
        complete = all(f.keys() >= FIGURES for f in figures) and "mask_probability" in evaluation
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be read ({e.strerror}); {anew}.") from e
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise CheckpointError(f"{path}: not the JSON of 'jadeberta evaluate mlm --output'; {anew}.") from e
    if not complete:
        raise CheckpointError(f"{path}: figures are missing in it; {anew}.")
    counts = {"limit": evaluation.get("limit", 0), "sequences_available": evaluation.get("sequences_available", 0)}
    counts |= {"sequences": evaluation["all"].get("sequences", 0)}
    numbers = counts | {"mask_probability": evaluation["mask_probability"]}
    for corpus, of_corpus in {**evaluation["corpora"], "all": evaluation["all"]}.items():
        numbers |= {f"{corpus}: {name}": of_corpus[name] for name in FIGURES}
        for figure, ends in _intervals_in(of_corpus, path, anew):
            numbers |= {f"{corpus}: end {place} of the interval of {figure}": end for place, end in enumerate(ends, 1)}
    for name, value in numbers.items():
        is_number = not isinstance(value, bool) and isinstance(value, int if name in counts else int | float)
        if not is_number or not 0 <= value < math.inf:
            raise CheckpointError(f"{path}: {name} is {str(value)[:40]}, which is no such figure; {anew}.")
    return evaluation


def _intervals_in(figures: dict[str, Any], path: Path, anew: str) -> list[tuple[str, list[Any]]]:
    """The intervals of an evaluation's figures, none in those of older versions; raises CheckpointError where they are something else."""
    found = figures.get("interval", {})
    if not isinstance(found, dict) or any(
        ends is not None and (not isinstance(ends, list) or len(ends) != 2) for ends in found.values()
    ):
        raise CheckpointError(f"{path}: interval is {str(found)[:40]}, which is no such figure; {anew}.")
    return [(figure, ends) for figure, ends in found.items() if ends]


def _licence(text: str) -> str:
    if not LICENCE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"'{text[:40]}' is no key of a licence, such as cc-by-sa-4.0 or apache-2.0")
    return text


def main(arguments: list[str]) -> int:
    """Runs the command; prints the likeliest words for the card's sentence."""
    parser = OneSentenceParser(prog="jadeberta export", description=__doc__.split("\n\n")[0])
    parser.add_argument("--checkpoint", type=path_option, required=True, help="a checkpoint, or a run (its newest valid one)")
    parser.add_argument("--out", type=path_option, required=True, help="directory to make")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="of the released weights")
    parser.add_argument("--weights", choices=["trained", "ema"], default="trained", help="ema: the average of training.ema_decay")
    parser.add_argument("--evaluation", type=path_option, help="JSON of 'jadeberta evaluate mlm --output', for the card")
    parser.add_argument("--jglue", type=path_option, nargs="+", metavar="DIR", help="--out of 'jadeberta finetune', for the card")
    parser.add_argument("--licence", type=_licence, metavar="KEY", help="the Hub's key of a licence, for the card")
    parser.add_argument("--dry-run", action="store_true", help="say which checkpoint would be exported, write nothing")
    options = parser.parse_args(arguments)
    checkpoint = resolve_checkpoint(options.checkpoint)
    evaluation = None if options.evaluation is None else read_evaluation(options.evaluation)
    if evaluation is not None and (checkpoint / STATE_NAME).is_file():
        refuse_foreign_evaluation(evaluation, read_state(checkpoint), checkpoint, options.weights)
    jglue = read_jglue(options.jglue) if options.jglue else None
    if options.dry_run:
        refuse_existing(options.out)
        which = ", the average of the weights" if options.weights == "ema" else ""
        print(f"would export {checkpoint} to {options.out} as {options.dtype}{which}")
        return 0
    predictions = export(
        checkpoint, options.out, getattr(torch, options.dtype), evaluation, options.weights, options.licence or "", jglue
    )
    print(f"exported {checkpoint} to {options.out}")
    filling = options.out / GENERATOR if (options.out / GENERATOR).is_dir() else options.out
    tokenizer = transformers.AutoTokenizer.from_pretrained(filling, trust_remote_code=False)
    print(card_sentence(read_state(checkpoint)["data"], tokenizer.mask_token))
    for word, probability in predictions:
        print(f"  {word}  {probability:.4f}")
    return 0
