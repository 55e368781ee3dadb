"""`jadeberta fill`: the likeliest tokens for each [MASK] of a raw text, which is normalised and segmented as the model's own text was.

Several masks of a text are filled independently of each other, from one pass through the model.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from jadeberta.checkpoint.consolidate import consolidate_weights
from jadeberta.checkpoint.manifest import MANIFEST_NAME
from jadeberta.errors import CheckpointError, InputError
from jadeberta.evaluation.mlm import resolve_checkpoint
from jadeberta.evaluation.mlm_inputs import load_model
from jadeberta.finetune.encoder import ENGINES
from jadeberta.model.load import load_pair, pair_settings
from jadeberta.release.pair import GENERATOR
from jadeberta.segmenting_tokenizer import Encoding, Tokenizer, refuse_hub_name
from jadeberta.utils.command_line import OneSentenceParser
from jadeberta.utils.paths import path_option

MOST = 1000
"""Most tokens that are listed for a mask."""


def fill(model: Any, tokenizer: Tokenizer, encoding: Encoding, top: int) -> list[list[tuple[int, float]]]:
    """Returns for each mask of a text the likeliest tokens with their probabilities, the likeliest first.

    Args:
        model: masked-language model in eval mode; called with ids int64 [1, S], gives logits [1, S, V].
        tokenizer: of the model.
        encoding: the text.
        top: number of tokens.
    """
    ids = torch.tensor([encoding.ids])
    places = [place for place, number in enumerate(encoding.ids) if number == tokenizer.mask_token_id]
    with torch.inference_mode():
        probabilities = model(ids).logits[0, places].float().softmax(-1)  # [masks, V]
        # Embeddings that are no token's have no word.
        nameless = [n for n, name in enumerate(tokenizer.convert_ids_to_tokens(range(probabilities.shape[-1]))) if not name]
        probabilities[:, nameless] = 0
    best = probabilities.topk(min(top, probabilities.shape[-1] - len(nameless)))
    return [list(zip(i.tolist(), p.tolist(), strict=True)) for i, p in zip(best.indices, best.values, strict=True)]


def encode(tokenizer: Tokenizer, texts: list[str], longest: int) -> list[Encoding]:
    """Encodes raw texts; each must hold a mask and fit into the model.

    Raises:
        InputError: it does not.
    """
    name = "[MASK]"
    for text in texts:
        if name not in text and tokenizer.mask_token not in text:
            raise InputError(f"'{text[:60]}' holds no {name}. Write {name} where a token is to be filled in.")
    encodings = tokenizer.encode(texts)
    for text, encoding in zip(texts, encodings, strict=True):
        if len(encoding.ids) > longest:
            raise InputError(f"'{text[:40]}…': {len(encoding.ids):,} tokens, and the model takes {longest:,}. Shorten the text.")
    return encodings


def longest_row(directory: Path) -> int:
    """Returns the number of tokens that a model takes; raises CheckpointError where its config.json does not say it."""
    path = directory / "config.json"
    try:
        longest = json.loads(path.read_bytes()).get("max_position_embeddings", 512)
    except (OSError, ValueError, AttributeError) as e:
        raise CheckpointError(f"{path}: cannot be read ({e}). Export or download it again.") from e
    if not isinstance(longest, int) or longest < 1:
        raise CheckpointError(f"{path}: max_position_embeddings is {str(longest)[:40]}. Export or download it again.")
    return longest


def load_filling(directory: Path, weights: str) -> Any:
    """Loads the model that fills masks: of a checkpoint the fp32 master weights, of a pair the generator.

    Args:
        directory: a checkpoint, a release, or a model from elsewhere.
        weights: trained or ema.

    Raises:
        CheckpointError: there is none, or its files do not fit each other.
    """
    if (directory / MANIFEST_NAME).exists():
        found = consolidate_weights(directory, "ema" if weights == "ema" else "trained")
        if pair_settings(directory) is not None:
            return load_pair(directory, found).generator.float().eval()
        return load_model(directory, found, "sdpa").eval()
    if weights != "trained":
        raise CheckpointError(f"{directory}: an export has one set of weights. Name a checkpoint, or leave --weights out.")
    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(str(directory), trust_remote_code=False)
        # Else the missing head would get random weights, and a warning.
        if not any(name.endswith("ForMaskedLM") for name in config.architectures or ["ForMaskedLM"]):
            raise CheckpointError(
                f"{directory}: a {config.architectures[0]}, which has no head that fills masks. Name a masked language model."
            )
        theirs, report = transformers.AutoModelForMaskedLM.from_pretrained(
            str(directory), trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as e:
        reason = " ".join(str(e).split())[:200]
        raise CheckpointError(f"{directory}: cannot be loaded ({reason}). Export or download it again.") from e
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(f"{directory}: its weights lack {missing[0]}. Export or download it again.")
    return theirs.eval()


def main(arguments: list[str]) -> int:
    """Runs the command."""
    parser = OneSentenceParser(prog="jadeberta fill", description=__doc__)
    parser.add_argument(
        "--model", type=path_option, required=True, help="an exported directory, a checkpoint, or a run (its newest one)"
    )
    parser.add_argument(
        "texts", nargs="+", metavar="TEXT", help="raw text with [MASK] in it; - reads one a line from standard input"
    )
    parser.add_argument("--top", type=_top, default=5, help="number of tokens for each mask (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--weights", choices=["trained", "ema"], default="trained", help="ema: a checkpoint's running average")
    parser.add_argument("--segmenter", choices=ENGINES, help="for a model that does not say which one made its pre-training text")
    parser.add_argument("--segmenter-command", default="", metavar="COMMAND", help="program and options of jumanpp or juman")
    options = parser.parse_args(arguments)
    refuse_hub_name(options.model)
    directory = resolve_checkpoint(options.model)
    if (directory / GENERATOR).is_dir():
        directory = directory / GENERATOR
    texts = [line for text in options.texts for line in (_lines() if text == "-" else [text])]
    if not texts:
        raise InputError("standard input holds no text. Write a text with [MASK] a line.")
    with Tokenizer(directory, options.segmenter, options.segmenter_command) as tokenizer:
        encodings = encode(tokenizer, texts, longest_row(directory))  # before the model, which takes long to load
        model = load_filling(directory, options.weights)
        found = [fill(model, tokenizer, encoding, options.top) for encoding in encodings]
    results = [_result(tokenizer, *one) for one in zip(texts, encodings, found, strict=True)]
    if options.json:
        print(json.dumps({"model": str(directory), "texts": results}, ensure_ascii=False, indent=2))
    else:
        _print(results)
    return 0


def _lines() -> list[str]:
    """The lines of standard input that are not blank."""
    try:
        return [line for line in sys.stdin.read().splitlines() if line.strip()]
    except UnicodeDecodeError as e:
        raise InputError(f"standard input is not UTF-8 ({e.reason} at byte {e.start:,}). Convert it.") from e


def _top(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of tokens from 1 to {MOST}")
    return int(text)


def _result(tokenizer: Tokenizer, text: str, encoding: Encoding, found: list[list[tuple[int, float]]]) -> dict[str, Any]:
    """A text with its masks as plain values: their characters in the text, and the tokens."""
    spans = [span for number, span in zip(encoding.ids, encoding.offsets, strict=True) if number == tokenizer.mask_token_id]
    masks = [
        {
            "start": start,
            "end": end,
            "predictions": [{"word": tokenizer.word(n), "id": n, "probability": round(p, 6)} for n, p in predictions],
        }
        for (start, end), predictions in zip(spans, found, strict=True)
    ]
    return {"text": text, "masks": masks}


def _print(results: list[dict[str, Any]]) -> None:
    for result in results:
        print(result["text"])
        for number, mask in enumerate(result["masks"], 1):
            if len(result["masks"]) > 1:
                print(f" mask {number}")
            for prediction in mask["predictions"]:
                print(f"  {prediction['word']}  {prediction['probability']:.4f}")
