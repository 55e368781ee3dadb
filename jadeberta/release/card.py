"""The model card. Every number in it is read from the run, the shards and the evaluation; what is not known is left out."""

from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from jadeberta.config.lineage import describe_entry
from jadeberta.config.phases import mask_range
from jadeberta.release.card_tables import jglue_section, preprocessing_section
from jadeberta.release.front_matter import front_matter
from jadeberta.release.markdown import in_table, in_text
from jadeberta.release.origin import is_of_characters, reads_text
from jadeberta.training.watchdog.energy_sums import energy_of, total

WORK = ("save", "evaluation", "done")
"""Events of the ledger that only an attempt with steps has."""
_CARD_SENTENCE = "京都 大学 で 自然 言語 処理 を [MASK] する 。"


LIMITS = """## Limits and citation

The model has learnt from the texts above, with their errors and prejudices. It has not been examined for bias or for personal
data, and what it fills in need not be true. Text that is prepared in another way than the training text lowers its accuracy. To
cite it, name this repository with its revision, and the hashes in `provenance.json`.
"""


@dataclass(frozen=True)
class Further:
    """What the card says beside the checkpoint and its evaluation."""

    licence: str = ""
    """The Hub's key of a licence; empty: not stated."""
    jglue: list[dict[str, Any]] | None = None
    """Results of `read_jglue`."""
    attempts: frozenset[int] = frozenset()
    """Numbers of the attempts that made a step."""


REPLACED = """The discriminator of replaced-token detection as in DeBERTa V3, trained with jadeberta: an encoder to fine-tune.

- Here: the encoder, as `transformers.AutoModel` and the models for fine-tuning load it.
- `replaced_token_head.safetensors`: the discriminator's head, by the names `mask_predictions.*`. For a state h of the last layer and that
  of the row's first token f, a token counts as replaced where `classifier(act(dense(LayerNorm(h + f))))` is above 0.
- `generator/`: the generator, as `transformers.AutoModelForMaskedLM` loads it.
"""


def write_card(
    path: Path,
    config: dict[str, Any],
    state: dict[str, Any],
    ledger: list[dict[str, Any]],
    evaluation: dict[str, Any] | None,
    predictions: list[tuple[str, float]],
    weights: str = "trained",
    mask: str = "[MASK]",
    further: Further | None = None,
) -> None:
    """Writes README.md of a release.

    Args:
        path: the file.
        config: content of the model's config.json.
        state: content of the checkpoint's state.json.
        ledger: rows of the run's ledger, empty where there is none.
        evaluation: result of `evaluate mlm`; None leaves the section out.
        predictions: words and probabilities for the mask of `card_sentence`.
        weights: trained; or ema, their running average.
        mask: text of the mask token.
        further: licence, scores, and attempts with steps; None knows none of them.
    """
    further = further or Further()
    is_pair = state["settings"].get("training.objective") == "rtd"
    sections = [
        front_matter(state, card_sentence(state["data"], mask), mask, is_pair, further.licence, evaluation, further.jglue),
        f"# Japanese DeBERTa V2, {config['num_hidden_layers']} layers, hidden size {config['hidden_size']}\n",
        REPLACED if is_pair else "A Japanese DeBERTa V2 trained by masked language modelling with jadeberta.\n",
        write_usage(predictions, state["data"], mask, "PATH/generator" if is_pair else "PATH"),
        _data(state),
        preprocessing_section(state),
        _training(state, ledger, weights, further.attempts),
        start_section(state.get("lineage", [])),
        _evaluation(evaluation) or "## Evaluation\n\nMasked accuracy: not measured.\n",
        jglue_section(further.jglue),
        LIMITS,
        _licence(further.licence),
    ]
    path.write_text("\n".join(section for section in sections if section), encoding="utf-8")


def card_sentence(data: dict[str, Any], mask: str = "[MASK]") -> str:
    """Returns the sentence of the card's example as the model takes it: words with spaces between them, or plain text."""
    return (_CARD_SENTENCE.replace(" ", "") if reads_text(data) else _CARD_SENTENCE).replace("[MASK]", mask)


def _licence(licence: str) -> str:
    return f"## Licence\n\n{in_text(licence) if licence else 'Not stated.'}\n"


def write_usage(predictions: list[tuple[str, float]], data: dict[str, Any], mask: str, path: str = "PATH") -> str:
    """Returns the section on how to use the model, whose snippets run.

    Args:
        predictions: words and probabilities for the mask of the card's sentence.
        data: segmenter and normaliser of the training.
        mask: text of the mask token.
        path: of the model whose masks are filled.
    """
    words = "\n".join(f"| {in_table(word)} | {probability:.4f} |" for word, probability in predictions)
    raw = card_sentence(data, mask).replace(" ", "")
    load = f"""model = AutoModelForMaskedLM.from_pretrained("{path}").eval()"""
    if reads_text(data):
        how = "The text is" if data["normaliser"] == "none" else "The text is normalised (NFKC) by the tokenizer; it is"
        taken = "taken as it is, character by character" if is_of_characters(data) else "taken as it is"
        return f"""## How to use

```python
from transformers import AutoModelForMaskedLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{path}")
{load}
encoding = tokenizer("{raw}", return_tensors="pt")
logits = model(**encoding).logits
```

{how} {taken}. {_filled(words)}"""
    segmenter = in_text(describe_segmenter(data["segmenter"]))
    return f"""## How to use

Raw text, with jadeberta and the segmenter installed:

```python
from jadeberta import Tokenizer
from transformers import AutoModelForMaskedLM

tokenizer = Tokenizer("{path}")
{load}
encoding = tokenizer("{raw}", return_tensors="pt")
logits = model(**encoding).logits
```

`jadeberta fill --model {path} "{raw}"` prints the likeliest words.

Without jadeberta, the text must be cut into words by {segmenter}, with one half-width space between words:

```python
from transformers import AutoModelForMaskedLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{path}")
{load}
encoding = tokenizer("{card_sentence(data, mask)}", return_tensors="pt")
logits = model(**encoding).logits
```

{"" if data["normaliser"] == "none" else "The tokenizer normalises the text (NFKC). "}{_filled(words)}"""


def _filled(words: str) -> str:
    return f"This sentence's mask is filled with:\n\n| word | probability |\n|---|---|\n{words}\n"


def describe_segmenter(segmenter: dict[str, Any]) -> str:
    """Returns the engine with its version and dictionary, as far as they are recorded."""
    known = [str(segmenter[key]) for key in ("version", "dictionary") if segmenter.get(key)]
    return f"{segmenter.get('engine', 'an unknown engine')}" + (f" ({', '.join(known)})" if known else "")


def _data(state: dict[str, Any]) -> str:
    data, fingerprints = state["data"], state["fingerprints"]
    tables = "\n\n".join(_corpora(length, corpora, _is_repeated(state["settings"])) for length, corpora in _read_corpora(state))
    kind = f"tokenizer {data['tokenizer_file']}" if "tokenizer_file" in data else "sentencepiece unigram"
    pieces = f"{'sentencepiece characters' if is_of_characters(data) else kind}, {data['vocab_size']:,} pieces"
    return f"""## Training data

{tables}

Words by {in_text(describe_segmenter(data["segmenter"]))}; normaliser {in_text(data["normaliser"])}, sentence splitter
{in_text(data["sentence_splitter"])}; {in_text(pieces)} (sha256 {fingerprints["tokenizer"][:16]}…); shards {fingerprints["shards"][:16]}….
"""


def _corpora(length: int, corpora: dict[str, dict[str, int]], is_repeated: bool) -> str:
    """A table of the rows of a length; corpora that are mixed by weight alone have no number of times."""
    rows = "\n".join(
        f"| {in_table(name)} | {c['documents']:,} | {c['sequences']:,} | {c['tokens']:,} |" + f" {c['repeats']} |" * is_repeated
        for name, c in corpora.items()
    )
    head = f"| corpus | documents | sequences of {length} | tokens |" + " times in an epoch |" * is_repeated
    return f"{head}\n|---|---|---|---|{'---|' * is_repeated}\n{rows}"


def _read_corpora(state: dict[str, Any]) -> list[tuple[int, dict[str, dict[str, int]]]]:
    """The corpora by row length, those lengths alone that the run has read until now."""
    data = state["data"]
    first = data["sequence_length"]
    lengths = {entry["sequence_length"] or first for entry, _, done in _phases(state) if done} or {first}
    found = {first: data["corpora"]} | {int(n): corpora for n, corpora in data.get("corpora_of_length", {}).items()}
    # An older checkpoint has counted those of the first length alone.
    return [(length, corpora) for length, corpora in found.items() if length in lengths] or [(first, data["corpora"])]


def _phases(state: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any], int]]:
    """Of each phase its entry in the recipe, its settings, and how many of its steps are done."""
    settings = state["settings"].get("phases", [])
    firsts = [0, *accumulate(phase["steps"] for phase in settings)]
    return [
        (entry, phase, min(phase["steps"], max(0, state["step"] - first)))
        for entry, phase, first in zip(state["recipe"]["phases"] if settings else [], settings, firsts, strict=False)
    ]


def _is_repeated(settings: dict[str, Any]) -> bool:
    """Whether the run, or a phase of it, draws its corpora by repeats."""
    if phases := settings.get("phases"):
        return any("repeats" in phase["mixed"] for phase in phases)
    return not settings.get("data.weights")


def _training(state: dict[str, Any], ledger: list[dict[str, Any]], weights: str, steps_of: frozenset[int] = frozenset()) -> str:
    settings = state["settings"]
    lines = [
        ("steps", f"{state['step']:,}"),
        ("tokens seen", f"{state['tokens']:,}"),
        ("learning rate, peak", settings["training.lr"]),
        ("schedule", _schedule(state["recipe"]["training"])),
        ("global batch size", _batch(settings)),
        ("micro-batch size", f"{state['recipe']['training']['micro_batch_size']} sequences a rank"),
        ("optimizer", _optimizer(settings)),
        ("weight decay", settings["training.weight_decay"]),
        ("gradient clipping", settings["training.max_grad_norm"]),
        (
            "dropout",
            f"{settings['model.hidden_dropout_prob']} hidden, {settings['model.attention_probs_dropout_prob']} attention",
        ),
        ("masking", _masking(settings)),
        ("packing", settings["data.packing"]),
        ("precision", state["precision"]),
        ("ranks at the end", f"{state['world_size']}, ZeRO {state['zero_stage']}"),
        ("seed", state["seed"]),
        ("software", ", ".join(f"{name} {version}" for name, version in state["versions"].items())),
    ]
    for number, (entry, phase, done) in enumerate(_phases(state), 1):
        if done:
            lines.append((f"phase {number}", _phase(phase, entry, done, state["recipe"]["training"])))
    if settings.get("data.weights"):
        lines.append(("mixed by weight", _mixed({"weights": settings["data.weights"]})))
    if settings.get("training.objective") == "rtd":
        loss = f"weight of the discriminator's loss {settings['rtd.loss_weight']:g}, temperature {settings['rtd.temperature']:g}"
        generator = f"{settings['rtd.generator_layers']} layers, embeddings {settings['rtd.embedding_sharing']}, {loss}"
        lines.append(("generator", generator))
    if settings.get("training.z_loss"):
        lines.append(("z-loss", settings["training.z_loss"]))
    if weights == "ema":
        lines.append(("weights", f"running average of those that were trained, decay {settings['training.ema_decay']}"))
    if ledger:
        lines.append(("attempts", _attempts(ledger, steps_of)))
    table = "\n".join(f"| {name} | {in_table(value)} |" for name, value in lines)
    sources = "`state.json` of the checkpoint and `ledger.jsonl` of its run" if ledger else "`state.json` of the checkpoint"
    return f"## Training\n\n| | |\n|---|---|\n{table}\n{energy_row(ledger)}\nFrom {sources}.\n"


def _attempts(ledger: list[dict[str, Any]], steps_of: frozenset[int]) -> str:
    """How often the run was trained on: a start that was refused before its first step is none."""
    worked = steps_of | {
        int(row["attempt"]) for row in ledger if row.get("event") in WORK and isinstance(row.get("attempt"), int)
    }
    resumed = {row.get("attempt") for row in ledger if row.get("event") == "resume"} & worked
    return f"{len(worked):,}, of which {len(resumed):,} resumed from a checkpoint" if worked else "not known"


def energy_row(ledger: list[dict[str, Any]]) -> str:
    """Returns the energy of all attempts, or that it was not measured, as a row of a table; empty where there is no ledger."""
    return f"| energy | {total(energy_of(ledger).values()).in_words()} |\n" if ledger else ""


def start_section(lineage: list[dict[str, Any]]) -> str:
    """Returns what the run has started from, a section of the card; empty for random weights."""
    lines = "\n".join(f"{number}. {describe_entry(entry, with_path=False)}" for number, entry in enumerate(lineage, 1))
    return (
        f"## Start\n\nThe training did not start from random weights. What it started from, first to last:\n\n{lines}\n"
        if lines
        else ""
    )


def _schedule(training: dict[str, Any]) -> str:
    decay = f", {training['decay_steps']:,} steps of decay" if training.get("decay_steps") else ""
    return f"{training['schedule']}, {training['warmup_steps']:,} steps of warm-up{decay}"


def _batch(settings: dict[str, Any]) -> str:
    warmup = [f"{size:,} for {steps:,} steps" for size, steps in settings.get("training.batch_size_warmup", [])]
    return ", then ".join([*warmup, f"{settings['training.global_batch_size']:,} sequences"])


def _phase(phase: dict[str, Any], entry: dict[str, Any], done: int, training: dict[str, Any]) -> str:
    """One phase in words.

    Args:
        phase: its settings.
        entry: in the recipe.
        done: steps of it.
        training: that section of the recipe.
    """
    steps = f"{phase['steps']:,}" if done == phase["steps"] else f"{done:,} of {phase['steps']:,}"
    length = f", rows of {entry['sequence_length']:,}" if entry["sequence_length"] else ""
    mask = phase["mask_probability"]
    masked = f", masks {mask[0]:.0%}" + (f" to {mask[1]:.0%}" if mask[0] != mask[1] else "") if mask else ""
    own = {key: phase[key] for key in ("lr", "schedule", "warmup_steps", "decay_steps")}
    rate = ""
    if any(value is not None for value in own.values()):
        peak, kind = training["lr"] if own["lr"] is None else own["lr"], own["schedule"] or training["schedule"]
        schedule = {"schedule": kind, "warmup_steps": own["warmup_steps"] or 0, "decay_steps": own["decay_steps"]}
        rate = f", learning rate {peak:g} {_schedule(schedule)}"
    return f"{steps} steps of {phase['global_batch_size']:,} sequences{length}{masked}{rate}; {_mixed(phase['mixed'])}"


def _mixed(mixed: dict[str, dict[str, float]]) -> str:
    if "weights" in mixed:
        return ", ".join(f"{name} {weight:.4g}" for name, weight in mixed["weights"].items())
    return ", ".join(f"{name} x{times}" for name, times in mixed["repeats"].items())


def _optimizer(settings: dict[str, Any]) -> str:
    name = settings.get("training.optimizer", "adamw")
    if name == "lion":
        return f"Lion, betas ({settings['training.lion_beta1']}, {settings['training.lion_beta2']})"
    betas = (
        f"betas ({settings['training.adam_beta1']}, {settings['training.adam_beta2']}), epsilon {settings['training.adam_eps']}"
    )
    if name != "muon":
        return f"{'StableAdamW' if name == 'stable_adamw' else 'AdamW'}, {betas}"
    rate = f"learning rate {settings['training.muon_lr']:g}, " if settings["training.muon_lr"] else ""
    decay = settings["training.muon_weight_decay"]
    return (
        f"Muon for the hidden matrices ({rate}momentum {settings['training.muon_momentum']}, scale {settings['training.muon_scale']}"
        + (f", weight decay {decay:g}" if decay != -1 else "")
        + f"), AdamW for the rest, {betas}"
    )


def _masking(settings: dict[str, Any]) -> str:
    unit = "whole words" if settings["training.whole_word_mask"] else "tokens"
    first, last = mask_range(settings["training.mask_probability"])
    share = f"{first:.0%}" + (f" falling to {last:.0%}" if last < first else f" rising to {last:.0%}" if last > first else "")
    if settings.get("training.objective") == "rtd":
        return f"{share} of the {unit}, all [MASK] for the generator, which replaces them for the discriminator"
    return f"{share} of the {unit}; 80% [MASK], 10% random, 10% kept"


def _evaluation(evaluation: dict[str, Any] | None) -> str:
    if evaluation is None:
        return ""
    rows = [*evaluation["corpora"].items(), ("all", evaluation["all"])]
    table = "\n".join(
        f"| {in_table(name)} | {e['accuracy']:.4f} | {_interval(e)} | {e['loss']:.4f} | {e['unigram_accuracy']:.4f} | "
        f"{e['masked_tokens']:,} |"
        for name, e in rows
    )
    return f"""## Evaluation

Masked tokens of {_evaluated_rows(evaluation)} ({evaluation["mask_probability"]:.0%} masked).

| corpus | accuracy | 95% interval, by document | loss (nats) | always the most frequent token | masked tokens |
|---|---|---|---|---|---|
{table}
"""


def _interval(figures: dict[str, Any]) -> str:
    """The interval of an accuracy in words; that of too few documents is none."""
    ends = figures.get("interval", {}).get("accuracy")
    return f"{ends[0]:.4f} to {ends[1]:.4f}" if ends else "not measured"


def _evaluated_rows(evaluation: dict[str, Any]) -> str:
    """Which rows the figures are of; a part of them is said to be one."""
    rows = "training documents, not held-out ones" if evaluation.get("split", "valid") == "train" else "held-out documents"
    if not evaluation.get("is_partial"):
        return rows
    of = f" of {evaluation['sequences_available']:,}" if "sequences_available" in evaluation else ""
    limit = f", at most {evaluation['limit']:,} of each corpus" if evaluation.get("limit") else ""
    return f"**a part of the {rows}**, {int(evaluation['all']['sequences']):,}{of} sequences{limit}"
