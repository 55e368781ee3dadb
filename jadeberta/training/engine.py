"""The DeepSpeed engine: built from a recipe, stepped once, and opened up for the checkpoint.

The only file that calls DeepSpeed, with `zero_state.py` beside it, which knows where ZeRO keeps its tensors.
"""

import json
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from jadeberta.cluster.environment import Process
from jadeberta.config import Recipe, resolve_file
from jadeberta.data.batches import MicroBatch, StepBatch
from jadeberta.data.sample_order import derive_key
from jadeberta.errors import ConfigError
from jadeberta.model import DebertaForMaskedLM, build
from jadeberta.model.recompute import recomputing_cheaply
from jadeberta.training.comm_meter import Communication, CommunicationMeter
from jadeberta.training.control import Asks
from jadeberta.training.ema import WeightAverage
from jadeberta.training.guard import UpdateGuard
from jadeberta.training.zero_state import create_optimizer_state


def deepspeed_settings(recipe: Recipe, world_size: int) -> dict[str, Any]:
    """The recipe's DeepSpeed file with every "auto" filled in from the recipe.

    Raises:
        ConfigError: the file is not JSON, contradicts the recipe, or the batch does not divide.
    """
    path = resolve_file(recipe.deepspeed)
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as e:
        raise ConfigError(f"{path}, line {e.lineno}: not JSON ({e.msg}).") from e
    training = recipe.training
    decided = {
        "train_batch_size": training.global_batch_size,
        "train_micro_batch_size_per_gpu": training.micro_batch_size,
        "gradient_accumulation_steps": training.accumulation(world_size),
        "gradient_clipping": training.max_grad_norm,
    }
    for key, value in decided.items():
        if settings.setdefault(key, "auto") not in ("auto", value):
            raise ConfigError(f'{path}: {key} is {settings[key]} but the recipe makes it {value}; write "auto" there.')
        settings[key] = value
    bf16 = settings.setdefault("bf16", {})
    if bf16.setdefault("enabled", "auto") not in ("auto", training.precision == "bf16"):
        raise ConfigError(
            f'{path}: bf16.enabled is {bf16["enabled"]} but training.precision is {training.precision}; write "auto".'
        )
    bf16["enabled"] = training.precision == "bf16"
    return settings


@dataclass
class StepResult:
    """What all ranks together saw in one step."""

    loss: float
    masked_accuracy: float
    masked_tokens: int
    tokens: int
    positions: int
    """Tokens and padding."""
    set_aside: int
    """Rows that are damaged and were left out."""
    grad_norm: float
    """Before clipping; not finite where a gradient was not."""
    fault: str | None
    """Why the update was left out; None where it was made."""
    asks: Asks
    communication: Communication | None = None
    """Of this rank; None where it is not measured."""


class TrainingEngine:
    """A model under DeepSpeed, one optimizer step at a time."""

    beat: Callable[[str], None] | None = None
    """Told where in a step this rank is, for the watchdog."""

    def __init__(self, recipe: Recipe, process: Process, device: torch.device) -> None:
        import deepspeed

        self.recipe, self.process, self.device = recipe, process, device
        settings = deepspeed_settings(recipe, process.world_size)
        self.stage: int = settings["zero_optimization"]["stage"]
        _keep_deepspeed_from_compiling()
        self.model: DebertaForMaskedLM = build(recipe.model.hugging_face(), recipe.model.attention, seed=recipe.training.seed)
        self.model.train()
        training = recipe.training
        optimizer = torch.optim.AdamW(
            decay_groups(self.model, training.weight_decay),
            lr=training.lr,
            betas=(training.adam_beta1, training.adam_beta2),
            eps=training.adam_eps,
            fused=True,
        )
        self.meter = CommunicationMeter(device) if recipe.logging.communication else None
        deepspeed.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False, verbose=False)
        self.engine, *_ = deepspeed.initialize(model=self.model, optimizer=optimizer, config=settings)
        create_optimizer_state(self.engine, averaged=training.ema_decay > 0)
        self.average = WeightAverage(self.engine, training.ema_decay) if training.ema_decay else None
        self.guard = UpdateGuard(self.engine, recipe.guard)
        self.model.recompute = training.recompute == "layers"
        self.compiled = decide_compilation(recipe, self.stage, device)
        self._uncompiled: Any = self.model.forward
        if self.compiled:
            # The forward alone: DeepSpeed hangs timers and hooks on the module, which no graph can hold.
            compiled = torch.compile(self.model.forward, fullgraph=True, dynamic=False)
            self.model.forward = recomputing_cheaply(compiled) if training.recompute == "cheap" else compiled  # type: ignore[method-assign]

    def step(self, batch: StepBatch, lr: float, asks: Asks) -> StepResult:
        """One optimizer step, with what its collectives took where the recipe asks for that."""
        if self.meter is None:
            return self._step(batch, lr, asks)
        with self.meter.step():
            result = self._step(batch, lr, asks)
        result.communication = self.meter.take()
        return result

    def close(self) -> None:
        """Takes the meter away, where there is one."""
        if self.meter is not None:
            self.meter.close()

    def _step(self, batch: StepBatch, lr: float, asks: Asks) -> StepResult:
        """Every micro-batch forward and backward, then one update.

        The loss is the mean over the masked tokens of the whole global batch, so that it does not depend on how the batch is cut
        into ranks and micro-batches; DeepSpeed averages gradients over ranks, hence the factor of the world size.
        """
        self._tell("forward 0")
        counts = [batch.masked_tokens, batch.tokens, len(batch.excluded)]
        totals = torch.tensor(counts, dtype=torch.int64, device=self.device)
        dist.all_reduce(totals)
        masked_tokens, tokens, set_aside = (int(n) for n in totals.tolist())
        scale = self.process.world_size / max(1, masked_tokens)
        told = list(astuple(asks))
        sums = torch.tensor([0, 0, *told], dtype=torch.float64, device=self.device)  # loss, correct, asks
        for number, micro_batch in enumerate(batch.micro_batches):
            # No generator state to save or lose: dropout follows from where in the run we are.
            torch.manual_seed(int(derive_key(self.recipe.training.seed, 3, batch.step, number, self.process.rank) >> 1))
            self._tell(f"forward {number}")
            # DeepSpeed counts micro-batches since its start, which goes wrong where the batch grows.
            self.engine.set_gradient_accumulation_boundary(number == len(batch.micro_batches) - 1)
            loss_sum, correct = self.forward(micro_batch)
            self._tell(f"backward {number}")
            self.engine.backward(loss_sum * scale, scale_wrt_gas=False)
            sums[:2] += torch.stack([loss_sum.detach().double(), correct.double()])
            if number == len(batch.micro_batches) - 1:
                self._tell("all-reduce")
                dist.all_reduce(sums)
                # Of the mean, so that the window does not hang on how many tokens a batch happens to mask.
                self.guard.expect(sums[0].item() / masked_tokens if masked_tokens else float("nan"))
                self._tell("update")
            for group in self.engine.optimizer.param_groups:
                group["lr"] = lr
            self.engine.step()
        loss_sum_all, correct_all, *agreed = sums.tolist()
        loss, correct_share = loss_sum_all / max(1, masked_tokens), correct_all / max(1, masked_tokens)
        grad_norm = self.engine.get_global_grad_norm()
        norm = float(grad_norm) if grad_norm is not None else float("nan")
        asked = Asks(*map(int, agreed))
        fault = self.guard.conclude(norm)
        if fault is None and self.average is not None:
            self.average.update()
        positions = self.process.world_size * sum(m.input_ids.numel() for m in batch.micro_batches)
        return StepResult(loss, correct_share, masked_tokens, tokens, positions, set_aside, norm, fault, asked)

    @property
    def working_dtype(self) -> torch.dtype:
        """Of the weights that the forward pass uses."""
        return next(self.model.parameters()).dtype

    def _tell(self, place: str) -> None:
        if self.beat is not None:
            self.beat(place)

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor there; a GPU fetches it while this process goes on, which it can from pinned memory alone."""
        pinned = tensor.pin_memory() if self.device.type == "cuda" else tensor
        return pinned.to(self.device, non_blocking=True)

    def forward(self, micro_batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of the cross-entropy over the masked tokens, and how many of them were predicted."""
        inputs: dict[str, Any] = {k: v if v is None else self._to_device(v) for k, v in vars(micro_batch).items()}
        # An evaluation's batches have many shapes, and each would be compiled.
        run = self.engine if self.model.training or not self.compiled else self._uncompiled
        sums: Any = run(**inputs, z_loss=self.recipe.training.z_loss)
        return sums.loss, sums.correct


def decide_compilation(recipe: Recipe, stage: int, device: torch.device) -> bool:
    """Whether forward and backward go through torch.compile.

    Raises:
        ConfigError: the recipe asks for it where it cannot be.
    """
    wish = recipe.training.compile
    if wish == "always" and stage == 3:
        raise ConfigError(
            "training.compile is 'always' but ZeRO-3 brings weights together while their layers run, which no graph can hold; "
            "set it to 'auto', or deepspeed to ds_configs/zero1.json."
        )
    return wish == "always" or (wish == "auto" and device.type == "cuda" and stage < 3 and recipe.model.attention != "eager")


def decay_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with and without weight decay; biases and LayerNorm weights have none, as in transformers' Trainer."""
    norms = {id(p) for m in model.modules() if isinstance(m, torch.nn.LayerNorm) for p in m.parameters()}
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    plain = [p for n, p in named if id(p) in norms or n.endswith("bias")]
    decayed = [p for n, p in named if not (id(p) in norms or n.endswith("bias"))]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def _keep_deepspeed_from_compiling() -> None:
    """Leaves out DeepSpeed's shared-memory all-reduce for CPUs, which it would compile at the start of the job.

    Compilation on the job's path hangs on shared home directories (DeepSpeed issues 885, 5677, 6540).
    """
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
    if builder is not None:
        deepspeed.ops.__compatible_ops__[builder.NAME] = False


def quiet_libraries(run_dir: Path, rank: int) -> None:
    """Sends the libraries' chatter of each rank to logs/rank-N.log and leaves the terminal to the run."""
    import logging
    import warnings

    (run_dir / "logs").mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(run_dir / "logs" / f"rank-{rank:05d}.log", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    for name in ("DeepSpeed", "transformers", "torch"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
    warnings.filterwarnings("ignore")
