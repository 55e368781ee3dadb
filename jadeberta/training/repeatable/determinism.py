"""The same bits again on the same machines: what `training.deterministic` sets, how it proves itself, and what the bits depend on.

It promises nothing for other machines: `record_bits` says where a run's bits end. It knows no checkpoint.
"""

import hashlib
import logging
import os
import platform
import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import orjson
import torch
import torch.distributed as dist

from jadeberta.cluster.device import cpu_name
from jadeberta.cluster.environment import Process, host_name
from jadeberta.config import Recipe
from jadeberta.config.deepspeed_file import read_deepspeed_file
from jadeberta.data.batches import MicroBatch, StepBatch
from jadeberta.data.sample_order import derive_key
from jadeberta.errors import ConfigError
from jadeberta.model.attention import triton as kernels
from jadeberta.training.objective import loss_of
from jadeberta.training.replica_check import weights_hash
from jadeberta.training.run_context import RunContext
from jadeberta.utils.json_lines import JsonRow, read_jsonl

logger = logging.getLogger(__name__)

PINNED = {
    "CUBLAS_WORKSPACE_CONFIG": (":4096:8", r":4096:8|:16:8"),
    "TORCHINDUCTOR_DETERMINISTIC": ("1", "1"),
    "NCCL_ALGO": ("Ring", r"(?i:ring)"),  # the one that NCCL has for every collective
    "NCCL_PROTO": ("Simple", r"(?i:simple|ll|ll128)"),
    "NCCL_MIN_NCHANNELS": ("16", r"[1-9]\d*"),
    "NCCL_MAX_NCHANNELS": ("16", r"[1-9]\d*"),
}
"""Variables that decide how sums are made: the value that is set where there is none, and the values that may stay."""
CHANNELS = ("NCCL_MIN_NCHANNELS", "NCCL_MAX_NCHANNELS")
DRIVER = Path("/proc/driver/nvidia/version")


class Engine(Protocol):
    """As much of a training engine as repeats a pass."""

    recipe: Recipe
    process: Process
    device: torch.device
    model: Any
    stage: int
    compiled: bool

    def inputs(self, micro_batch: MicroBatch) -> dict[str, Any]:
        """The model's arguments of a micro-batch, on the device."""
        ...


def pinned_variables(env: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables with which every start makes its sums in the same way, those that are set already with their values.

    Args:
        env: the environment, before a GPU is touched.

    Raises:
        ConfigError: one that is set leaves the choice open.
    """
    found = {}
    for name, (value, allowed) in PINNED.items():
        found[name] = env.get(name, value)
        if not re.fullmatch(allowed, found[name]):
            raise ConfigError(
                f"training.deterministic is true but {name} is {found[name]!r}, with which sums may be made in another way in each start; "
                f"unset it, or set it to {value}."
            )
    given = [env[name] for name in CHANNELS if name in env]
    if len(given) == 1:
        found |= dict.fromkeys(CHANNELS, given[0])
    if found[CHANNELS[0]] != found[CHANNELS[1]]:
        raise ConfigError(
            f"training.deterministic is true but NCCL may take {given[0]} to {given[1]} channels; set NCCL_MIN_NCHANNELS and "
            "NCCL_MAX_NCHANNELS to one number, or unset both."
        )
    return found


def make_deterministic() -> None:
    """Sets what must be set in this process before a GPU is touched; every rank calls it.

    Raises:
        ConfigError: see `pinned_variables`.
    """
    os.environ |= pinned_variables(os.environ)
    # Not warn_only: the memory-efficient attention then still takes its faster backward pass, which adds in order of arrival.
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    import torch._inductor.config as inductor

    inductor.deterministic = True  # the variable alone is read at import, which may have been before


def require_provable_stage(stage: int) -> None:
    """Raises ConfigError for ZeRO 3, under which no rank can repeat a pass by itself."""
    if stage == 3:
        raise ConfigError(
            "training.deterministic is true but under ZeRO 3 weights come together while their layers run, where no rank can repeat a pass "
            "to prove it; set deepspeed to ds_configs/zero1.json or zero2.json, or training.deterministic to false."
        )


def prove(engine: Engine, batch: StepBatch) -> None:
    """Takes the first micro-batch forward and backward twice, all-reduce included, and compares all bits; every rank calls it.

    Weights, accumulated gradients and the random numbers of the steps stay as they are.

    Args:
        engine: before its first step, or the first of a phase with another attention or row length.
        batch: of that step.

    Raises:
        ConfigError: the passes differ on some rank, or an operation has no deterministic form there.
    """
    names, parameters = zip(*((n, p) for n, p in engine.model.named_parameters() if p.requires_grad), strict=True)
    try:
        passes = [_pass(engine, batch, parameters) for _ in range(2)]
    except RuntimeError as e:
        if "deterministic" not in str(e):
            raise
        raise ConfigError(
            f"training.deterministic is true but an operation cannot be so here ({str(e).split('. ')[0]}); set model.attention to sdpa "
            "or fused, or training.deterministic to false."
        ) from e
    differing = [what for what, a, b in zip(("the loss", *names, "the sum over the ranks"), *passes, strict=True) if a != b]
    found: list[Any] = [None] * engine.process.world_size
    # Every rank must raise the same error.
    dist.all_gather_object(found, differing)
    for rank, of_rank in enumerate(found):
        if of_rank:
            raise ConfigError(
                f"training.deterministic is true but two passes over one micro-batch differ on rank {rank}, in {of_rank[0]}"
                f"{f' and {len(of_rank) - 1} more' if len(of_rank) > 1 else ''}; set it to false, or model.attention to another one."
            )
    logger.info("training.deterministic: two passes over the first micro-batch gave the same bits on every rank")


def _pass(engine: Engine, batch: StepBatch, parameters: tuple[torch.nn.Parameter, ...]) -> list[tuple[int, ...]]:
    """Hashes of the loss, of the gradient of each parameter, and of the ranks' sum of all gradients."""
    recipe, ranks = engine.recipe, engine.process.world_size
    torch.manual_seed(int(derive_key(recipe.training.seed, 3, batch.step, 0, engine.process.rank) >> 1))
    sums: Any = engine.model.forward(**engine.inputs(batch.micro_batches[0]), z_loss=recipe.training.z_loss)
    loss = loss_of(recipe, sums.to_tuple(), ranks, max(1, batch.masked_tokens), max(1, batch.tokens))
    # Not backward: neither the parameters nor DeepSpeed's hooks see these gradients.
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    hashes = [weights_hash([each.contiguous()]) for each in (loss.detach().reshape(1), *gradients)]
    summed = torch.cat([each.reshape(-1) for each in gradients])
    dist.all_reduce(summed)
    # In parts: a hash widens its tensor to int64 several times.
    return [tuple(each.tolist()) for each in (*hashes, weights_hash(list(summed.split(1 << 24))))]


def bits_depend_on(engine: Engine) -> dict[str, Any]:
    """Returns what the bits of a run depend on beside its recipe, for the ledger; every rank calls it."""
    on_gpu = engine.device.type == "cuda"
    device = torch.cuda.get_device_name(engine.device) if on_gpu else f"{cpu_name()}, {torch.get_num_threads()} threads"
    driver = DRIVER.read_text(encoding="utf-8", errors="replace").splitlines()[:1] if on_gpu and DRIVER.exists() else []
    ranks: list[Any] = [None] * engine.process.world_size
    dist.all_gather_object(ranks, (device, host_name(os.environ), "".join(driver)))
    _, settings = read_deepspeed_file(engine.recipe.deepspeed)
    found: dict[str, Any] = {
        "deterministic": engine.recipe.training.deterministic, "ranks": engine.process.world_size, "zero": engine.stage,
        "compiled": engine.compiled, "devices": [device for device, _, _ in ranks],
        # By host, its driver; on CPUs there is none.
        "hosts": {host: driver for _, host, driver in ranks},
        "torch": str(torch.__version__), "deepspeed": metadata.version("deepspeed"), "python": platform.python_version(),
        "transformers": metadata.version("transformers"),
        "deepspeed_sha256": hashlib.sha256(orjson.dumps(settings, option=orjson.OPT_SORT_KEYS)).hexdigest(),
    }  # fmt: skip
    if on_gpu:
        tiles = Path(str(kernels.__file__)).with_name("tiles.json")
        found |= {
            "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
            "nccl": ".".join(map(str, torch.cuda.nccl.version())), "triton": _version_of("triton"),
            "variables": {k: v for k, v in sorted(os.environ.items()) if k in PINNED or k.startswith("NCCL_")},
            "tiles_sha256": hashlib.sha256(tiles.read_bytes()).hexdigest(),
        }  # fmt: skip
    return found


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def record_bits(context: RunContext, engine: Engine, step: int) -> None:
    """Records in the ledger what the bits depend on, and says where they end; every rank calls it.

    Args:
        context: of the run.
        engine: before its first step in this attempt.
        step: that the run goes on from.
    """
    now = bits_depend_on(engine)
    if context.process.is_root:
        changed = changed_since(read_jsonl(context.ledger.path), now)
        if changed and now["deterministic"]:
            told = "; ".join(f"{key} was {before}, is {after}" for key, (before, after) in changed.items())
            logger.warning("the bits of an uninterrupted run end at step %s (%s); its data goes on", step, told)
        context.record("bits", step=step, **now, **({"changed": changed} if changed else {}))


def changed_since(rows: Iterable[JsonRow], now: JsonRow) -> dict[str, list[Any]]:
    """Returns what the bits depend on and differs from the attempt before, [before, now] by name.

    Args:
        rows: the ledger before this attempt's event `bits`.
        now: as `bits_depend_on` returns it; what an older version of this program did not record counts as unchanged.
    """
    before = next((row for row in reversed([*rows]) if row.get("event") == "bits"), None)
    return (
        {} if before is None else {key: [before.get(key), value] for key, value in now.items() if before.get(key, value) != value}
    )
