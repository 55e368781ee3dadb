"""Packed rows: each document gets what it gets alone."""

import pytest
import torch

from jadeberta.errors import ConfigError
from tests.model.drop_in.conftest import make_batch, make_pair

DOCUMENTS = torch.tensor([[1] * 7 + [2] * 9 + [3] * 4, [1] * 12 + [2] * 5 + [0] * 3, [0] * 2 + [9] * 18])
PER_TOKEN = ("Model", "ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering")


@pytest.mark.parametrize("head", PER_TOKEN)
@pytest.mark.parametrize(
    "changes", [{}, {"position_biased_input": True, "conv_kernel_size": 5}, {"conv_kernel_size": 0}], ids=str
)
def test_a_packed_row_gives_each_document_what_it_gets_alone(head, changes) -> None:
    slow, quick = make_pair(head, **changes)
    ids = make_batch("Model", 20)["input_ids"]
    with torch.no_grad():
        packed = quick(ids, documents=DOCUMENTS)[0]
        for row, numbers in enumerate(DOCUMENTS):
            for number in numbers.unique():
                if number:
                    places = numbers == number
                    alone = slow(ids[row, places][None])[0][0]
                    assert float((packed[row, places] - alone).abs().max()) < 1e-7


def test_padding_of_the_mask_is_no_part_of_a_document() -> None:
    _, quick = make_pair("ForMaskedLM")
    ids = make_batch("Model", 20)["input_ids"]
    mask = (DOCUMENTS != 2).long()
    one, two = quick(ids, mask, documents=DOCUMENTS), quick(ids, documents=DOCUMENTS * mask)
    assert torch.equal(one.logits, two.logits)
    labels = torch.where((mask == 1) & (DOCUMENTS != 0), ids, -100)
    assert quick(ids, documents=DOCUMENTS, labels=labels).loss.isfinite()


def test_documents_of_one_call_do_not_stay_in_the_model() -> None:
    _, quick = make_pair("ForMaskedLM")
    ids = make_batch("Model", 20)["input_ids"]
    before = quick(ids).logits
    assert not torch.equal(quick(ids, documents=DOCUMENTS).logits, before)
    assert torch.equal(quick(ids).logits, before)


OTHERS = {
    "short": DOCUMENTS[:, :9],
    "1-D": DOCUMENTS[0],
    "float": DOCUMENTS.float(),
    "bool": DOCUMENTS.bool(),
    "list": DOCUMENTS.tolist(),
}


@pytest.mark.parametrize("documents", OTHERS.values(), ids=OTHERS.keys())
def test_documents_of_another_kind_are_refused(documents) -> None:
    _, quick = make_pair("Model")
    with pytest.raises(ConfigError, match="documents"):
        quick(make_batch("Model", 20)["input_ids"], documents=documents)


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForMultipleChoice"])
def test_a_head_with_one_answer_a_row_refuses_documents(head) -> None:
    _, quick = make_pair(head)
    batch = make_batch(head, 20)
    with pytest.raises(ConfigError, match="from its first document"):
        quick(**batch, documents=DOCUMENTS)


def test_a_loss_over_the_row_refuses_documents() -> None:
    _, quick = make_pair("ForQuestionAnswering")
    with pytest.raises(ConfigError, match="start_positions cannot be given with documents"):
        quick(**make_batch("ForQuestionAnswering", 20), documents=DOCUMENTS)


def test_an_adapter_in_the_convolution_cannot_keep_documents_apart_and_says_so() -> None:
    slow, quick = make_pair("Model")
    for model in (slow, quick):
        model.encoder.conv.conv.register_forward_hook(lambda module, args, output: output * 2)
    batch = make_batch("Model", 20, 3, 4)
    with torch.no_grad():
        expected, found = (model(**batch).last_hidden_state for model in (slow, quick))
        assert float((found - expected).abs().max()) < 1e-7
        with pytest.raises(ConfigError, match="cannot keep documents apart"):
            quick(batch["input_ids"], documents=DOCUMENTS)
