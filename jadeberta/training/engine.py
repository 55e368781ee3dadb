"""The DeepSpeed engine: built from a recipe, stepped once, and opened up for the checkpoint.

The only file that calls DeepSpeed, with `zero_state.py` beside it, which knows where ZeRO keeps its tensors.
"""

from collections.abc import Callable
from dataclasses import astuple, dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from jadeberta.cluster.environment import Process
from jadeberta.config import Recipe, accumulation_steps
from jadeberta.config.deepspeed_file import read_deepspeed_file
from jadeberta.config.phases import Phase, phases_of, require_divisible
from jadeberta.data.batches import MicroBatch, OverlongMicroBatch, StepBatch
from jadeberta.data.sample_order import derive_key
from jadeberta.errors import ConfigError
from jadeberta.model import DebertaForMaskedLM
from jadeberta.model.attention.triton import require as require_triton
from jadeberta.model.recompute import recomputing_cheaply
from jadeberta.model.replaced_tokens import ReplacedTokenModel
from jadeberta.shards.tokenizer_format import DEFAULT_SPECIAL_TOKENS, SpecialTokens
from jadeberta.training.comm_meter import Communication, CommunicationMeter, Stopwatch
from jadeberta.training.control import RankFlags
from jadeberta.training.ema import WeightAverage
from jadeberta.training.guard import UpdateGuard
from jadeberta.training.objective import SUMS, ReplacedFigures, build_model, loss_of, replaced_figures, require_stage_of
from jadeberta.training.optimizers import build_optimizer, require_stage
from jadeberta.training.repeatable.determinism import prove, require_provable_stage
from jadeberta.training.replica_check import differing_ranks
from jadeberta.training.zero_state import create_optimizer_state, fragments, load_working_weight


def deepspeed_settings(recipe: Recipe, world_size: int) -> dict[str, Any]:
    """The recipe's DeepSpeed file with every "auto" filled in from the recipe.

    Raises:
        ConfigError: the file cannot be used, contradicts the recipe, or the batch does not divide.
    """
    path, settings = read_deepspeed_file(recipe.deepspeed)
    training, first = recipe.training, phases_of(recipe)[0]
    accumulation = require_divisible(recipe, world_size)
    decided = {
        "train_batch_size": first.global_batch_size,
        "train_micro_batch_size_per_gpu": first.micro_batch_size,
        "gradient_accumulation_steps": accumulation,
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
    # It waits for the device twice in every micro-step, so that the host never runs ahead; metrics.jsonl has the throughput without it.
    settings.setdefault("timers", {}).setdefault("throughput", {}).setdefault("enabled", False)
    require_stage(training.optimizer, settings)
    if training.deterministic:
        require_provable_stage(settings["zero_optimization"]["stage"])
    require_stage_of(recipe, settings.get("zero_optimization", {}).get("stage", 0))
    if training.optimizer != "adamw":
        settings["zero_allow_untested_optimizer"] = True  # DeepSpeed's list has its own and torch's
    return settings


MOST_SHAPES = 64
"""Most shapes of a micro-batch that a run compiles; torch's own limit is 8."""
NOTHING_MASKED = "no token of the global batch is masked"
"""Why a step without a loss changes nothing."""


@dataclass
class StepResult:
    """What all ranks together saw in one step."""

    loss: float
    """Mean cross-entropy of a masked token, nats; NaN where no token was masked."""
    masked_accuracy: float
    """Share of the masked tokens that were predicted."""
    masked_tokens: int
    tokens: int
    """Tokens without padding."""
    positions: int
    """Tokens and padding."""
    excluded_rows: int
    """Damaged rows of the global batch that were replaced by padding."""
    grad_norm: float
    """Global L2 norm before clipping; not finite where a gradient was not."""
    fault: str | None
    """Why the update was skipped; None where it was made."""
    flags: RankFlags
    """Sum over the ranks."""
    communication: Communication | None = None
    """What this rank alone spent in collectives; None where it is not measured."""
    compute_s: float = 0.0
    """What this rank alone took for its forward passes, and its backward passes but the last: no other rank has a part in it."""
    last_forward_s: float = 0.0
    """What it took for the last of the forward passes."""
    replaced: ReplacedFigures | None = None
    """What the discriminator did; None under another objective than rtd."""


class TrainingEngine:
    """A model under DeepSpeed, one optimizer step at a time."""

    def __init__(
        self,
        recipe: Recipe,
        process: Process,
        device: torch.device,
        enter_section: Callable[[str], None] = lambda section: None,
        special: SpecialTokens = DEFAULT_SPECIAL_TOKENS,
    ) -> None:
        """Builds the model, DeepSpeed's engine and the optimizer's state; every rank makes one.

        Args:
            recipe: of the run.
            process: rank and world size.
            device: of this rank.
            enter_section: called with the section of the step that begins (forward 0, backward 0, ... all-reduce, update), for the
                watchdog.
            special: special tokens of the data's tokenizer.

        Raises:
            ConfigError: DeepSpeed's settings contradict the recipe, or the recipe asks for a compilation that cannot be.
        """
        import deepspeed
        from deepspeed.runtime.zero.utils import ZeRORuntimeException
        from pydantic import ValidationError

        self.recipe, self.process, self.device, self._enter_section = recipe, process, device, enter_section
        self._is_proven = False
        settings = deepspeed_settings(recipe, process.world_size)
        require_attentions(recipe)
        self.phase = phases_of(recipe)[0]
        """That of the steps to come."""
        self.stage: int = settings["zero_optimization"]["stage"]
        _keep_deepspeed_from_compiling()
        self.model: DebertaForMaskedLM | ReplacedTokenModel = build_model(recipe, special, self.phase.attention)
        self.model.train()
        training = recipe.training
        optimizer = build_optimizer(self.model, training)
        self.stopwatch = Stopwatch(device)
        self.meter = CommunicationMeter(device) if recipe.logging.communication else None
        deepspeed.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False, verbose=False)
        try:
            # Without it DeepSpeed takes the GPU of the local rank's number, which is not there where each rank sees its own alone.
            own = SimpleNamespace(device_rank=process.local_rank if device.index is None else device.index)
            self.engine, *_ = deepspeed.initialize(args=own, model=self.model, optimizer=optimizer, config=settings)
        except ValidationError as e:
            fault = e.errors()[0]
            name = ".".join(map(str, fault["loc"]))
            raise ConfigError(f"{recipe.deepspeed}: DeepSpeed does not take {name} there ({fault['msg']}); correct it.") from e
        except ZeRORuntimeException as e:
            raise ConfigError(f"{recipe.deepspeed}: DeepSpeed refuses this ({str(e).split('. ')[0]}).") from e
        create_optimizer_state(self.engine, averaged=training.ema_decay > 0)
        self.average = WeightAverage(self.engine, training.ema_decay) if training.ema_decay else None
        self.guard = UpdateGuard(self.engine, recipe.guard)
        self.model.recompute = training.recompute == "layers"
        self._uncompiled: Any = self.model.forward
        self._compiled: Any = None
        self._choose_forward()

    def _choose_forward(self) -> None:
        """Compiled or not, as the recipe asks for the attention of the phase."""
        self.compiled = decide_compilation(self.recipe, self.phase.attention, self.stage, self.device)
        if self.compiled and self._compiled is None:
            # With fullgraph one shape too many is an error that ends the run: with padding, documents and phases eight are soon reached.
            torch._dynamo.config.recompile_limit = max(MOST_SHAPES, torch._dynamo.config.recompile_limit)
            # The forward alone: DeepSpeed hangs timers and hooks on the module, which no graph can hold.
            compiled = torch.compile(self._uncompiled, fullgraph=True, dynamic=False)
            self._compiled = recomputing_cheaply(compiled) if self.recipe.training.recompute == "cheap" else compiled
        self.model.forward = self._compiled if self.compiled else self._uncompiled  # type: ignore[method-assign]

    def enter_phase(self, phase: Phase, is_border: bool) -> None:
        """Prepares for the steps of a phase; every rank calls it.

        Args:
            phase: with its row length.
            is_border: whether its first step comes next, after those of the phase before.
        """
        before, self.phase = self.phase, phase
        ranks, micro = self.process.world_size, phase.micro_batch_size
        accumulation = accumulation_steps(phase.global_batch_size, micro, ranks)
        # What DeepSpeed counts and prints; which micro-batch is the last one of a step, `_step` says itself.
        self.engine.set_train_micro_batch_size(micro)
        self.engine.set_train_batch_size(phase.global_batch_size)
        for holder in (self.engine.optimizer, self.engine.optimizer.optimizer):
            if hasattr(holder, "gradient_accumulation_steps"):
                holder.gradient_accumulation_steps = accumulation
        self._is_proven &= (before.sequence_length, before.attention) == (phase.sequence_length, phase.attention)
        if phase.sequence_length is not None:
            self.model.set_rows(phase.sequence_length, phase.attention)
        self._choose_forward()
        if self.compiled and (before.micro_batch_size, before.mask_bounds) != (micro, phase.mask_bounds):
            # torch compiles a function for a limited number of shapes: those of the phase before go.
            torch.compiler.reset()
        if is_border:
            # Other rows and other masks have another loss: what is usual there is seen anew.
            self.guard.recall({})

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Starts from some weights instead of random ones, before the first step; every rank calls it.

        Args:
            weights: every parameter whole, fp32, by name, on rank 0; the others may have none. The masters get the values as they are,
                also where the working precision is bf16.
        """
        mine = {fragment.name: fragment for fragment in fragments(self.engine)}
        # One after another, and from rank 0 alone: the source is read once, and no rank holds a second copy on its device.
        for name, parameter in self.engine.module.named_parameters():
            shape = getattr(parameter, "ds_shape", parameter.shape)
            whole = torch.empty(tuple(shape), dtype=torch.float32, device=self.device)
            if self.process.is_root:
                whole.copy_(weights[name])
            dist.broadcast(whole, src=0)
            load_working_weight(parameter, whole)
            if (fragment := mine.get(name)) is not None:
                own = whole.flatten()[fragment.start : fragment.start + fragment.master.numel()]
                for kind, tensor in fragment.tensors().items():
                    if kind in ("master", "ema"):
                        tensor.copy_(own)

    def step(self, batch: StepBatch, lr: float, flags: RankFlags) -> StepResult:
        """Makes one optimizer step; returns what all ranks saw, and what this rank's collectives took. Every rank calls it.

        Args:
            batch: this rank's share of the global batch.
            lr: learning rate of the update.
            flags: this rank's; the result holds the sum over the ranks.
        """
        if self.recipe.training.deterministic and not self._is_proven:
            prove(self, batch)
            self._is_proven = True
        if self.meter is None:
            return self._step(batch, lr, flags)
        with self.meter.step():
            result = self._step(batch, lr, flags)
        result.communication = self.meter.take()
        return result

    def close(self) -> None:
        """Takes the meter away, where there is one."""
        if self.meter is not None:
            self.meter.close()

    def _step(self, batch: StepBatch, lr: float, flags: RankFlags) -> StepResult:
        """Every micro-batch forward and backward, then one update.

        The loss is the mean over the masked tokens of the whole global batch, so that it does not depend on how the batch is cut
        into ranks and micro-batches; DeepSpeed averages gradients over ranks, hence the factor of the world size.
        """
        self._enter_section("forward 0")
        counts = [batch.masked_tokens, batch.tokens, len(batch.excluded)]
        totals = torch.tensor(counts, dtype=torch.int64, device=self.device)
        # Before the forward pass: the loss is divided by the masked tokens of the whole batch.
        dist.all_reduce(totals)
        masked_tokens, tokens, excluded_rows = (int(n) for n in totals.tolist())
        began = last_forward = computed = self.stopwatch.mark()
        # Losses, correct predictions and flags in one tensor: one all-reduce a step for all of them.
        figures = len(SUMS[self.recipe.training.objective])
        sums = torch.tensor([*[0] * figures, *astuple(flags)], dtype=torch.float64, device=self.device)
        for number, micro_batch in enumerate(batch.micro_batches):
            # No generator state to save or lose: dropout follows from where in the run we are.
            torch.manual_seed(int(derive_key(self.recipe.training.seed, 3, batch.step, number, self.process.rank) >> 1))
            self._enter_section(f"forward {number}")
            if number == len(batch.micro_batches) - 1:
                last_forward = self.stopwatch.mark()
            # DeepSpeed counts micro-batches since its start, which goes wrong where the batch grows.
            self.engine.set_gradient_accumulation_boundary(number == len(batch.micro_batches) - 1)
            found = self.forward(micro_batch)
            if number == len(batch.micro_batches) - 1:
                computed = self.stopwatch.mark()  # from here on the ranks wait for each other
            self._enter_section(f"backward {number}")
            self.engine.backward(loss_of(self.recipe, found, self.process.world_size, masked_tokens, tokens), scale_wrt_gas=False)
            sums[:figures] += torch.stack([part.detach().double() for part in found])
            if number == len(batch.micro_batches) - 1:
                self._enter_section("all-reduce")
                # Before the update, which the guard judges by the loss of the global batch.
                dist.all_reduce(sums)
                # The mean, so that the window does not hang on how many tokens a batch happens to mask.
                of_discriminator = sums[2].item() / max(1, tokens) if figures > 2 else None
                self.guard.expect(sums[0].item() / masked_tokens if masked_tokens else float("nan"), of_discriminator)
                self._enter_section("update")
            for group in self.engine.optimizer.param_groups:
                group["lr"] = lr * group.get("rate_share", 1.0)
            self.engine.step()
        loss_sum_all, correct_all, *others = sums.tolist()
        of_discriminator_all, flag_sums = others[: figures - 2], others[figures - 2 :]
        # Without a masked token there is no mean: a loss of 0 would look like a perfect step.
        loss, correct_share = (s / masked_tokens if masked_tokens else float("nan") for s in (loss_sum_all, correct_all))
        grad_norm = self.engine.get_global_grad_norm()
        norm = float(grad_norm) if grad_norm is not None else float("nan")
        fault = self.guard.conclude(norm)
        if not masked_tokens:
            fault = NOTHING_MASKED
        if fault is None and self.average is not None:
            self.average.update()
        positions = self.process.world_size * sum(m.input_ids.numel() for m in batch.micro_batches)
        result = StepResult(
            loss, correct_share, masked_tokens, tokens, positions, excluded_rows, norm, fault, RankFlags(*map(int, flag_sums))
        )
        result.compute_s = self.stopwatch.seconds(began, computed)
        result.last_forward_s = self.stopwatch.seconds(last_forward, computed)
        if of_discriminator_all:
            result.replaced = replaced_figures(of_discriminator_all, tokens)
        return result

    def differing_ranks(self) -> list[int]:
        """Ranks whose weights are not those of the others, the same list on every rank; every rank calls it.

        Under ZeRO 3 no rank holds the whole weights, and the list is empty.
        """
        return differing_ranks([p.data for p in self.model.parameters()]) if self.stage < 3 else []

    @property
    def working_dtype(self) -> torch.dtype:
        """The dtype of the weights that the forward pass uses."""
        return next(self.model.parameters()).dtype

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor there; a GPU fetches it while this process goes on, which it can from pinned memory alone."""
        pinned = tensor.pin_memory() if self.device.type == "cuda" else tensor
        return pinned.to(self.device, non_blocking=True)

    def inputs(self, micro_batch: MicroBatch) -> dict[str, Any]:
        """The model's arguments of a micro-batch, on the device."""
        given = {k: v for k, v in vars(micro_batch).items() if k != "draws" or v is not None}
        return {k: v if v is None else self._to_device(v) for k, v in given.items()}

    def forward(self, micro_batch: MicroBatch) -> tuple[torch.Tensor, ...]:
        """The sums of a micro-batch, in the order of `objective.SUMS`."""
        inputs = self.inputs(micro_batch)
        # An evaluation's batches have many shapes, and each would be compiled.
        run = self.engine if self.model.training or not self.compiled else self._uncompiled
        if isinstance(micro_batch, OverlongMicroBatch) and self.compiled and self.device.type == "cuda":
            # For a shape that hardly comes again all ranks would wait minutes for this one's compiler. CPUs keep the bits that they had.
            # Uncompiled it keeps more: where memory is short, every restart would end at this step.
            self.model.forward, self.model.recompute = self._uncompiled, True  # type: ignore[method-assign]
        try:
            sums: Any = run(**inputs, z_loss=self.recipe.training.z_loss)
        finally:
            self.model.forward = self._compiled if self.compiled else self._uncompiled  # type: ignore[method-assign]
            self.model.recompute = self.recipe.training.recompute == "layers"
        return sums.to_tuple()


def require_attentions(recipe: Recipe) -> None:
    """Raises ConfigError where the attention of a phase cannot run on this machine: at its border it would end the run."""
    for phase in phases_of(recipe) if recipe.phases else ():
        if phase.attention == "fused":
            try:
                require_triton(recipe.model.attention_head_size, phase.sequence_length)
            except ConfigError as e:
                raise ConfigError(f"phases, entry {phase.number}: {e}") from e


def decide_compilation(recipe: Recipe, attention: str, stage: int, device: torch.device) -> bool:
    """Whether forward and backward go through torch.compile.

    Args:
        recipe: of the run.
        attention: of the phase.
        stage: of ZeRO.
        device: of the rank.

    Raises:
        ConfigError: the recipe asks for it where it cannot be.
    """
    wish = recipe.training.compile
    if wish == "always" and stage == 3:
        raise ConfigError(
            "training.compile is 'always' but ZeRO-3 brings weights together while their layers run, which no graph can hold; "
            "set it to 'auto', or deepspeed to ds_configs/zero1.json."
        )
    if wish == "auto" and recipe.training.objective == "rtd":
        return False  # it has not been tried on a GPU
    return wish == "always" or (wish == "auto" and device.type == "cuda" and stage < 3 and attention != "eager")


def _keep_deepspeed_from_compiling() -> None:
    """Leaves out DeepSpeed's shared-memory all-reduce for CPUs, which it would compile at the start of the job.

    Compilation on the job's path hangs on shared home directories (DeepSpeed issues 885, 5677, 6540).
    """
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
    if builder is not None:
        deepspeed.ops.__compatible_ops__[builder.NAME] = False
