"""A hash of the weights changes with every bit, and the rank whose hash differs is named."""

import pytest
import torch

from jadeberta.training.replica_check import odd_ranks, weights_hash


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_flipped_bit_changes_the_hash(dtype) -> None:
    made = [torch.randn(5, 7, generator=torch.Generator().manual_seed(n)).to(dtype) for n in range(3)]
    before = weights_hash(made).tolist()
    assert weights_hash([t.clone() for t in made]).tolist() == before
    for tensor in made:
        words = tensor.view(-1).view(torch.int16)
        for place in range(0, words.numel(), 3):
            for bit in (0, 7, 14, 15):
                words[place] ^= 1 << bit if bit < 15 else -(1 << 15)
                assert weights_hash(made).tolist() != before
                words[place] ^= 1 << bit if bit < 15 else -(1 << 15)
    assert weights_hash(made).tolist() == before


def test_values_that_change_places_change_the_hash() -> None:
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    hashes = [weights_hash(t).tolist() for t in ([a, b], [b, a], [a.flip(0), b], [torch.cat([a, b])])]
    assert all(one != other for i, one in enumerate(hashes) for other in hashes[:i])


@pytest.mark.parametrize(
    "hashes,odd", [("a", []), ("aa", []), ("ab", [0, 1]), ("aab", [2]), ("baa", [0]), ("abcaa", [1, 2]), ("aabb", [0, 1, 2, 3])]
)
def test_the_minority_is_odd_and_without_a_majority_all_are(hashes, odd) -> None:
    assert odd_ranks([(ord(letter),) for letter in hashes]) == odd
