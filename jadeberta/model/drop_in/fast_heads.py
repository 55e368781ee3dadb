"""The heads of transformers' DeBERTa V2 with the argument `documents`. They have its names, because a saved config names the class.

transformers' own forward passes run, so that losses and outputs are theirs.
"""

import inspect
from typing import Any

import torch
from transformers.models.deberta_v2 import modeling_deberta_v2 as theirs

from jadeberta.errors import ConfigError
from jadeberta.model.drop_in.fast_modules import make_fast, refuse_unknown

ACCEPTED = frozenset({"num_items_in_batch"})
"""What transformers' Trainer passes to every head that takes other arguments, and these heads do not read."""


class FastHead:
    """What the heads share; `__init_subclass__` gives each the signature of transformers' class with `documents` added."""

    deberta: Any
    one_answer = ""
    """What the head returns once for a row, so that it would see the first document alone; empty for answers to each token."""
    row_labels: tuple[str, ...] = ()
    """Labels whose loss compares the tokens of a whole row."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        make_fast(self.deberta)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if FastHead not in cls.__bases__:
            return  # a subclass of one of the heads below
        their_forward = cls.__mro__[2].forward  # type: ignore[attr-defined]
        signature = inspect.signature(their_forward)
        given = list(signature.parameters.values())
        known = (ACCEPTED if given[-1].kind is inspect.Parameter.VAR_KEYWORD else set()) | signature.parameters.keys()
        documents = inspect.Parameter("documents", inspect.Parameter.KEYWORD_ONLY, default=None)
        at = len(given) - (given[-1].kind is inspect.Parameter.VAR_KEYWORD)

        def forward(self: Any, *args: Any, documents: torch.Tensor | None = None, **given: Any) -> Any:
            refuse_unknown({name: value for name, value in given.items() if name not in known})
            given = {name: value for name, value in given.items() if name in known}
            if documents is None:
                return their_forward(self, *args, **given)
            self._refuse_documents(signature.bind(self, *args, **given).arguments)
            return their_forward(_WithDocuments(self, documents), *args, **given)

        forward.__doc__ = "transformers' forward; `documents` as of `DebertaV2Model.forward`, with its errors."
        # transformers' Trainer reads from it which columns of a data set the model takes.
        forward.__signature__ = signature.replace(parameters=[*given[:at], documents, *given[at:]])  # type: ignore[attr-defined]
        cls.forward = forward  # type: ignore[attr-defined]

    def _refuse_documents(self, arguments: dict[str, Any]) -> None:
        if self.one_answer:
            raise ConfigError(
                f"{type(self).__name__} gives one {self.one_answer} for a row, from its first document; documents would have no "
                "answer each. Give it one document a row, or use DebertaV2Model."
            )
        if labels := [name for name in self.row_labels if arguments.get(name) is not None]:
            raise ConfigError(
                f"the loss of {type(self).__name__} compares all tokens of a row, so {labels[0]} cannot be given with documents. "
                "Compute the loss from the logits of each document."
            )


class _WithDocuments:
    """Stands in for a head in one call of transformers' forward: its encoder gets the documents. Nothing of the call stays in the model."""

    def __init__(self, module: Any, documents: torch.Tensor) -> None:
        self._module, self._documents = module, documents

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        return _WithDocuments(found, self._documents) if name == "deberta" else found

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._module(*args, documents=self._documents, **kwargs)


class DebertaV2ForMaskedLM(FastHead, theirs.DebertaV2ForMaskedLM):
    """DebertaV2ForMaskedLM with our attention; made by `jadeberta.fast`."""


class DebertaV2ForSequenceClassification(FastHead, theirs.DebertaV2ForSequenceClassification):
    """DebertaV2ForSequenceClassification with our attention; made by `jadeberta.fast`."""

    one_answer = "class"


class DebertaV2ForTokenClassification(FastHead, theirs.DebertaV2ForTokenClassification):
    """DebertaV2ForTokenClassification with our attention; made by `jadeberta.fast`."""


class DebertaV2ForQuestionAnswering(FastHead, theirs.DebertaV2ForQuestionAnswering):
    """DebertaV2ForQuestionAnswering with our attention; made by `jadeberta.fast`."""

    row_labels = ("start_positions", "end_positions")


class DebertaV2ForMultipleChoice(FastHead, theirs.DebertaV2ForMultipleChoice):
    """DebertaV2ForMultipleChoice with our attention; made by `jadeberta.fast`."""

    one_answer = "score"


HEADS: dict[type, type] = {
    head.__mro__[2]: head
    for head in (
        DebertaV2ForMaskedLM,
        DebertaV2ForSequenceClassification,
        DebertaV2ForTokenClassification,
        DebertaV2ForQuestionAnswering,
        DebertaV2ForMultipleChoice,
    )
}
"""Ours for each class of transformers'."""
