"""What a snapshot holds is a safetensors file: the library reads from it the tensors that went in."""

import mmap
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from jadeberta.checkpoint.snapshot import Snapshot, find_not_finite, lay_out
from jadeberta.errors import CheckpointError

GENERATOR = torch.Generator().manual_seed(0)


def tensors(scale: float = 1.0) -> dict[str, torch.Tensor]:
    shapes = {"a": (3, 5), "long name 長い": (7,), "empty": (0,), "scalar": (), "c": (1, 1, 2)}
    made = {name: torch.randn(shape, generator=GENERATOR) * scale for name, shape in shapes.items()}
    return made | {"half": torch.randn(9, generator=GENERATOR).bfloat16(), "count": torch.arange(4)}


def file_of(snapshot: Snapshot, number: int) -> bytes:
    file = snapshot.files[number]
    with mmap.mmap(snapshot.descriptor, snapshot.size, prot=mmap.PROT_READ) as memory:
        return memory[file.offset : file.offset + file.size]


def test_the_library_reads_back_every_tensor_and_the_metadata_of_every_file(tmp_path) -> None:
    first, second = tensors(), {"w": torch.randn(1000, generator=GENERATOR)}
    snapshot = Snapshot({"one": (first, {"fragments": '{"a": 1}'}), "two": (second, {})}, pin=False)
    for round_ in range(2):  # the memory is used again
        first, second = {n: t + round_ for n, t in first.items()}, {n: t * 2 for n, t in second.items()}
        snapshot.fill({"one": first, "two": second})
        for number, expected in enumerate((first, second)):
            path = tmp_path / str(number)
            path.write_bytes(file_of(snapshot, number))
            found = load_file(path)
            assert found.keys() == expected.keys()
            assert all(found[n].dtype == t.dtype and found[n].shape == t.shape and found[n].equal(t) for n, t in expected.items())
    with safe_open(tmp_path / "0", "pt") as file:
        assert file.metadata() == {"fragments": '{"a": 1}'}


def test_fixed_files_lie_beside_the_tensors_and_stay_through_every_save() -> None:
    content = {"spm.model": bytes(range(256)) * 20, "empty": b""}
    snapshot = Snapshot({"one": ({"w": torch.zeros(3)}, {})}, pin=False, fixed=content)
    for value in (1.0, 2.0):
        snapshot.fill({"one": {"w": torch.full((3,), value)}})
        assert {file.name: file_of(snapshot, n) for n, file in enumerate(snapshot.files) if n} == content


def test_a_tensor_that_is_not_contiguous_is_written_in_its_own_order(tmp_path) -> None:
    turned = torch.arange(12.0).view(3, 4).t()
    snapshot = Snapshot({"one": ({"w": turned}, {})}, pin=False)
    snapshot.fill({"one": {"w": turned}})
    (tmp_path / "0").write_bytes(file_of(snapshot, 0))
    assert load_file(tmp_path / "0")["w"].equal(turned)


def test_other_tensors_than_the_memory_was_made_for_are_refused() -> None:
    snapshot = Snapshot({"one": ({"w": torch.zeros(3)}, {})}, pin=False)
    with pytest.raises(CheckpointError, match="other tensors"):
        snapshot.fill({"one": {"v": torch.zeros(3)}})


def test_memory_that_is_not_there_is_one_sentence_and_leaves_nothing_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(CheckpointError, match="MiB of host memory"):
        Snapshot({"one": ({"w": torch.zeros(1, device="meta").expand(1 << 46)}, {})}, pin=False)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_tensor_that_is_not_finite_is_named(value) -> None:
    files: dict = {"one": ({"a": torch.ones(3), "count": torch.arange(4), "none": torch.zeros(0)}, {}), "two": (tensors(), {})}
    snapshot = Snapshot(files, pin=False)
    snapshot.fill({name: content for name, (content, _) in files.items()})
    assert find_not_finite(snapshot) is None
    files["two"][0]["half"][4] = value
    snapshot.fill({name: content for name, (content, _) in files.items()})
    assert find_not_finite(snapshot) == "half holds NaN or infinity; such a state is no checkpoint"


def test_every_tensor_lies_at_a_multiple_of_its_elements_size() -> None:
    made = {"a": torch.zeros(3, dtype=torch.bfloat16), "b": torch.zeros(2), "c": torch.zeros(1, dtype=torch.int64)}
    _, places, size = lay_out(made, {"some": "thing"})
    assert all(start % made[name].element_size() == 0 for name, (start, _) in places.items())
    assert size == max(stop for _, stop in places.values())
