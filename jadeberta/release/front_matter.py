"""The card's front matter, YAML that the Hub reads: language, licence, corpora, metrics and results. Names of others are quoted."""

from typing import Any

from jadeberta.release.markdown import in_yaml

TAGS = ("deberta", "deberta-v2", "fill-mask")


def front_matter(
    state: dict[str, Any],
    sentence: str,
    mask: str,
    is_pair: bool,
    licence: str,
    evaluation: dict[str, Any] | None,
    jglue: list[dict[str, Any]] | None,
) -> str:
    """Returns the front matter with its borders.

    Args:
        state: content of the checkpoint's state.json.
        sentence: the card's example as the model takes it.
        mask: text of the mask token.
        is_pair: whether the directory holds an encoder without a head that fills masks.
        licence: the Hub's key of a licence; empty: none is written.
        evaluation: result of `evaluate mlm`.
        jglue: results of `read_jglue`.
    """
    tags = TAGS[:2] if is_pair else TAGS
    lines = ["language: ja", "library_name: transformers"]
    lines += [f"license: {in_yaml(licence)}"] if licence else []
    lines += ["pipeline_tag: " + ("feature-extraction" if is_pair else "fill-mask"), "tags:", *(f"- {tag}" for tag in tags)]
    lines += ["datasets:", *(f"- {in_yaml(name)}" for name in state["data"]["corpora"])]
    if not is_pair:
        # In quotes, because YAML reads a bare [MASK] as a list.
        lines += [f"mask_token: {in_yaml(mask)}", "widget:", f"- text: {in_yaml(sentence)}"]
    results = _results(evaluation, jglue)
    if results:
        lines += ["metrics:", *(f"- {name}" for name in sorted({name for _, _, name, _ in results}))]
        lines += ["model-index:", "- name: " + in_yaml("Japanese DeBERTa V2"), "  results:"]
        for kind, dataset, metric, value in results:
            lines += [
                f"  - task: {{type: {kind}}}",
                f"    dataset: {{type: {in_yaml(dataset)}, name: {in_yaml(dataset)}}}",
                f"    metrics: [{{type: {metric}, value: {value:.6g}}}]",
            ]
    return "---\n" + "\n".join(lines) + "\n---\n"


def _results(evaluation: dict[str, Any] | None, jglue: list[dict[str, Any]] | None) -> list[tuple[str, str, str, float]]:
    """Kind of task, data, metric and value. Masked accuracy of a part of the rows, or of training rows, is no result."""
    found: list[tuple[str, str, str, float]] = []
    if evaluation is not None and not evaluation.get("is_partial") and evaluation.get("split", "valid") == "valid":
        found += [("fill-mask", f"held-out {name}", "accuracy", e["accuracy"]) for name, e in evaluation["corpora"].items()]
    for one in jglue or []:
        for metric, score in one["chosen"]["mean"]["valid"].items():
            name = "".join(c if c.isascii() and c.isalnum() else "_" for c in metric)
            found.append(
                ("text-classification" if one["task"] != "jsquad" else "question-answering", f"JGLUE {one['task']}", name, score)
            )
    return found
