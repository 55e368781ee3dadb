"""Two other packages' attention, where they are installed, gives the loss and the gradients that ours give."""

import copy
import importlib.util
from contextlib import nullcontext
from unittest import mock

import pytest
import torch

from bench.steps.other_packages import ANCHORS
from jadeberta.model import build
from tests.model.test_parity import assert_same_training, make_batch
from tests.model.triton.cases import Case, settled
from tests.model.triton.test_model import fused_pair


def same_training(name: str, form: str) -> None:
    _, ours = fused_pair()
    theirs = build(copy.deepcopy(ours.config), attention="eager")
    theirs.load_state_dict(ours.state_dict())
    ANCHORS[name].put_in(importlib.import_module(ANCHORS[name].package.replace("-", "_")), theirs)
    # flashdeberta asks for the GPU of its tensors, which in the interpreter have none.
    with settled(Case((form, form))), mock.patch.object(torch.cuda, "device", lambda _: nullcontext()):
        assert_same_training(theirs, ours, make_batch(32), 1e-5)


@pytest.mark.parametrize("form", ["fused", "tables"])
@pytest.mark.parametrize("name", ["disentangled-flash, PyTorch backend", "flashdeberta, no attention dropout"])
def test_training_is_that_of_another_package(name, form, interpreted) -> None:
    package = ANCHORS[name].package
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        pytest.skip(f"{package} is not installed (pip install -e '.[bench]')")
    interpreted(same_training, name, form)
