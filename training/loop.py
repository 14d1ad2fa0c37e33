"""One training loop for every part: any number of processes, stopped at any moment, resumed to the same curve."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.types import ImageArray

from .checkpoint import Reached, resume, save, save_weights
from .config import PartSettings
from .log import Log
from .optimisers import optimisers, rate
from .order import BatchOrder

WEIGHTS = "weights.safetensors"
WATCHED_BATCHES = 8

Batch = dict[str, Tensor]
Look = Callable[[Any], tuple[Mapping[str, float], Mapping[str, ImageArray]]]
"""An objective to figures and pictures of what it has learned."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A loop's progress: steps done, the share of the run, the recent loss, and the time left."""

    step: int
    share: float
    loss: float
    samples_per_s: float
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Watch:
    """The figures of the averaged weights on the way: the loss of held-out ``clips``, and ``look``'s figures.

    ``look`` runs in the first process only, and not if weights are sharded.
    """

    clips: TorchDataset[Batch]
    look: Look | None = None


@dataclass
class _Loop:
    """A loop under way: ``average`` holds the moving average of the ``learned`` parameters."""

    part: PartSettings
    accelerator: Accelerator
    model: nn.Module
    optimisers: Sequence[Any]
    learned: Sequence[nn.Parameter]
    average: Sequence[Tensor]
    out: Path
    seed: int
    minutes: float | None
    log: Log | None = None
    reached: Reached = field(default_factory=Reached)
    began: float = field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, those before this process began included."""
        return self.reached.elapsed_s + time.monotonic() - self.began

    def share(self, step: int) -> float:
        """Return the share of the run after ``step`` steps: of its minutes if it has them, else of its steps."""
        if self.minutes is None:
            return step / self.part.steps
        return float(self.accelerator.reduce(torch.tensor(self.elapsed_s / (60.0 * self.minutes)), "mean"))

    def step(self, batch: Batch, step: int, share: float) -> Tensor:
        """Learn from one batch and return its loss."""
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.part.learning_rate * rate(self.part, step - 1, share)
        number = (self.seed * 1_000_003 + step) * 4096 + self.accelerator.process_index
        loss = self.loss(batch, number)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.learned, self.part.clip)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        with torch.no_grad():
            held = min(self.part.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.average), list[Tensor](self.learned), 1.0 - held)
        return loss.detach()

    def loss(self, batch: Batch, number: int) -> Tensor:
        """Return the loss of a batch, everything random drawn from the seed ``number``."""
        device = self.accelerator.device
        on_device = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        with self.accelerator.autocast():
            return cast(Tensor, self.model(on_device, torch.Generator(device).manual_seed(number)))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the parameters hold their averages for a while."""
        kept = [parameter.detach().clone() for parameter in self.learned]
        _fill(self.learned, self.average)
        self.model.eval()
        try:
            yield
        finally:
            self.model.train()
            _fill(self.learned, kept)

    def note(self, step: int, share: float, losses: Sequence[Tensor], samples_per_s: float) -> Progress:
        """Log the mean of ``losses`` and return the progress; raises `FloatingPointError` if it is no number."""
        mean = float(self.accelerator.reduce(torch.stack(list(losses)).float().mean(), "mean"))
        if not math.isfinite(mean):
            raise FloatingPointError(f"the loss is {mean} at step {step}; lower the learning rate")
        if self.log is not None:
            self.log.loss(step, mean, samples_per_s, self.elapsed_s)
        return Progress(step, share, mean, samples_per_s, self.elapsed_s * (1.0 - share) / share)

    @torch.no_grad()
    def look(self, watch: Watch, step: int) -> None:
        """Log the loss of held-out clips, the same ones under the same noise every time, and ``look``'s figures."""
        order = iter(BatchOrder(len(cast(Any, watch.clips)), self.part.batch, 0))
        batches = (default_collate([watch.clips[n] for n in next(order)]) for _ in range(WATCHED_BATCHES))
        losses = [self.loss(batch, number) for number, batch in enumerate(batches)]
        figures: Mapping[str, float] = {"held_out_loss": float(torch.stack(losses).float().mean())}
        pictures: Mapping[str, ImageArray] = {}
        if watch.look is not None and self.log is not None and not self.part.shard:
            more, pictures = watch.look(self.accelerator.unwrap_model(self.model))
            figures = {**figures, **more}
        if self.log is not None:
            self.log.watched(step, figures, pictures)


def train(
    part: PartSettings,
    objective: nn.Module,
    clips: TorchDataset[Batch],
    out: Path,
    seed: int,
    report: Callable[[Progress], None],
    watch: Watch | None = None,
    minutes: float | None = None,
) -> Path:
    """Train ``objective`` in place and return the file of its averaged weights.

    Its forward takes a batch and a generator for everything random, and gives the loss. Its ``borrowed`` modules are another
    part's and are not written. It runs for ``part.steps``, or for ``minutes`` in all if they are given, the rate's schedule
    over them. A stopped loop goes on from its last checkpoint under ``out``: by steps, with the same batches, noise and
    losses. Raises `ConfigError` for an unknown optimiser, and `FloatingPointError` if the loss is no number.
    """
    loop = _begin(part, objective, out, seed, minutes)
    step, losses, noted = loop.reached.step, list[Tensor](), time.monotonic()
    share = loop.share(step)
    batches = iter(_loader(loop, clips)) if share < 1.0 else iter(())
    while share < 1.0:
        step += 1
        losses.append(loop.step(next(batches), step, share))
        share = loop.share(step)
        last = share >= 1.0
        if step % part.log_every == 0 or last:
            report(loop.note(step, share, losses, len(losses) * part.batch / (time.monotonic() - noted)))
            losses, noted = [], time.monotonic()
        if watch is not None and (step % part.watch_every == 0 or last):
            with loop.averaged():
                loop.look(watch, step)
            noted = time.monotonic()
        if step % part.checkpoint_every == 0 or last:
            save(loop.accelerator, out, loop.average, Reached(step, loop.elapsed_s))
    if loop.log is not None:
        loop.log.close()
    _fill(loop.learned, loop.average)
    return save_weights(loop.accelerator, loop.model, out / WEIGHTS, getattr(objective, "borrowed", ()))


def _begin(part: PartSettings, objective: nn.Module, out: Path, seed: int, minutes: float | None) -> _Loop:
    bf16 = lowered(part.precision)
    shard = FullyShardedDataParallelPlugin(fsdp_version=2, reshard_after_forward=True) if part.shard else None
    accelerator = Accelerator(
        mixed_precision="bf16" if bf16 else "no",
        fsdp_plugin=shard,
        dataloader_config=DataLoaderConfiguration(dispatch_batches=False),
    )
    # Sharding replaces the parameters, so the model is prepared before its optimisers are made.
    model = accelerator.prepare(objective)
    kinds = optimisers(part, model, torch.bfloat16 if bf16 else torch.float32)
    prepared = [accelerator.prepare(optimiser) for optimiser in kinds]
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    average = [parameter.detach().clone() for parameter in learned]
    reached = resume(accelerator, out, average)
    out.mkdir(parents=True, exist_ok=True)
    log = Log(out, reached.step) if accelerator.is_main_process else None
    return _Loop(part, accelerator, model, prepared, learned, average, out, seed, minutes, log, reached)


def lowered(precision: str) -> bool:
    """Return whether to compute in bfloat16: ``bf16``, or ``auto`` if the machine has it in hardware.

    Raises `ConfigError` for another word than these and ``float32``.
    """
    if precision not in ("auto", "bf16", "float32"):
        raise ConfigError("PRECISION", f"wanted a precision of auto, bf16, float32; got {precision!r}")
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _loader(loop: _Loop, clips: TorchDataset[Batch]) -> DataLoader[Batch]:
    place = loop.accelerator.process_index, loop.accelerator.num_processes
    order = BatchOrder(len(cast(Any, clips)), loop.part.batch, loop.seed, loop.reached.step, place)
    pinned = loop.accelerator.device.type == "cuda"
    return DataLoader(clips, batch_sampler=order, num_workers=loop.part.workers, pin_memory=pinned)


@torch.no_grad()
def _fill(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
