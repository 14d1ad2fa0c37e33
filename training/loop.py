"""One training loop for every part: any number of processes, stopped at any moment, resumed to the same curve."""

import json
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
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset
from torch.utils.tensorboard import SummaryWriter

from dvgwm.runtime.errors import ConfigError

from .checkpoint import Reached, forget_after, resume, save, save_weights
from .config import Part
from .optimisers import optimisers, rate

LOSSES, WATCHED, WEIGHTS = "losses.jsonl", "watched.jsonl", "weights.safetensors"
WATCHED_BATCHES = 8

Batch = dict[str, Tensor]
Pictures = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a loop is: steps done, the share of the run that is over, the loss of late, and what is still to come."""

    step: int
    share: float
    loss: float
    samples_per_s: float
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Watch:
    """What is looked at on the way: the loss of held-out ``clips``, and ``look``'s figures and pictures.

    Both are of the averaged weights. ``look`` gets the objective; it runs in the first process only, and not where weights
    are sharded.
    """

    clips: TorchDataset[Batch]
    look: Callable[[Any], tuple[Mapping[str, float], Pictures]] | None = None


class Order(Sampler[list[int]]):
    """Batches of indices from step ``start`` on: each epoch its own permutation, a function of seed and step alone."""

    def __init__(self, size: int, batch: int, seed: int, start: int = 0, place: tuple[int, int] = (0, 1)) -> None:
        self.size, self.batch, self.seed, self.start, self.place = size, batch, seed, start, place

    def __iter__(self) -> Iterator[list[int]]:
        rank, world = self.place
        epoch, order = -1, torch.empty(0)
        step = self.start
        while True:
            chosen = []
            for n in range(self.batch):
                position = (step * world + rank) * self.batch + n
                if position // self.size != epoch:
                    epoch = position // self.size
                    order = torch.randperm(self.size, generator=torch.Generator().manual_seed(self.seed * 7919 + epoch))
                chosen.append(int(order[position % self.size]))
            yield chosen
            step += 1


@dataclass
class _Run:
    """A loop under way."""

    part: Part
    accelerator: Accelerator
    model: nn.Module
    optimisers: Sequence[Any]
    wanted: Sequence[nn.Parameter]
    average: Sequence[Tensor]
    out: Path
    seed: int
    minutes: float | None
    reached: Reached = field(default_factory=Reached)
    began: float = field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, those before this process began included."""
        return self.reached.elapsed_s + time.monotonic() - self.began

    def share(self, step: int) -> float:
        """Return how much of the run is over after ``step`` steps: of its minutes where it has them, else of its steps."""
        if self.minutes is None:
            return step / self.part.steps
        return float(self.accelerator.reduce(torch.tensor(self.elapsed_s / (60.0 * self.minutes)), "mean"))

    def step(self, batch: Batch, step: int, share: float) -> Tensor:
        """Learn from one batch and return its loss."""
        moved = {name: tensor.to(self.accelerator.device, non_blocking=True) for name, tensor in batch.items()}
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.part.learning_rate * rate(self.part, step - 1, share)
        with self.accelerator.autocast():
            loss = self.model(moved, _generator(self.accelerator, self.seed, step))
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.wanted, self.part.clip)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        with torch.no_grad():
            held = min(self.part.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.average), list[Tensor](self.wanted), 1.0 - held)
        return loss.detach()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the parameters hold their averages for a while."""
        kept = [parameter.detach().clone() for parameter in self.wanted]
        _fill(self.wanted, self.average)
        self.model.eval()
        try:
            yield
        finally:
            self.model.train()
            _fill(self.wanted, kept)


def train(
    part: Part,
    objective: nn.Module,
    clips: TorchDataset[Batch],
    out: Path,
    seed: int,
    report: Callable[[Progress], None],
    watch: Watch | None = None,
    minutes: float | None = None,
) -> Path:
    """Train ``objective`` in place and return the file of its averaged weights.

    Its forward takes a batch and a generator, from which everything random is drawn, and gives the loss. Modules that it
    calls ``borrowed`` are another part's and are not written. It runs for
    ``part.steps``, or for ``minutes`` in all where they are given, the rate's schedule over them. A loop that was stopped
    goes on from its last checkpoint under ``out``: by steps, with the batches, noise and losses that it would have had.
    Raises `ConfigError` for an unknown optimiser, and `FloatingPointError` where the loss is no number.
    """
    run = _begin(part, objective, out, seed, minutes)
    accelerator, step = run.accelerator, run.reached.step
    log = SummaryWriter(str(out / "log"), purge_step=step) if accelerator.is_main_process else None
    losses: list[Tensor] = []
    noted = time.monotonic()
    share = run.share(step)
    batches = iter(_loader(run, clips)) if share < 1.0 else iter(())
    while share < 1.0:
        step += 1
        losses.append(run.step(next(batches), step, share))
        share = run.share(step)
        last = share >= 1.0
        if step % part.log_every == 0 or last:
            _note(run, log, step, share, losses, (len(losses) * part.batch) / (time.monotonic() - noted), report)
            losses, noted = [], time.monotonic()
        if watch is not None and (step % part.watch_every == 0 or last):
            with run.averaged():
                _look(run, watch, step, log)
            noted = time.monotonic()
        if step % part.checkpoint_every == 0 or last:
            save(accelerator, out, run.average, Reached(step, run.elapsed_s))
    if log is not None:
        log.close()
    _fill(run.wanted, run.average)
    return save_weights(accelerator, run.model, out / WEIGHTS, getattr(objective, "borrowed", ()))


def _begin(part: Part, objective: nn.Module, out: Path, seed: int, minutes: float | None) -> _Run:
    bf16 = lowered(part.precision)
    shard = FullyShardedDataParallelPlugin(fsdp_version=2, reshard_after_forward=True) if part.shard else None
    accelerator = Accelerator(
        mixed_precision="bf16" if bf16 else "no",
        fsdp_plugin=shard,
        dataloader_config=DataLoaderConfiguration(dispatch_batches=False),
    )
    # Sharding replaces the parameters, so the model is prepared before its optimisers are made.
    model = accelerator.prepare(objective)
    made = optimisers(part, model, torch.bfloat16 if bf16 else torch.float32)
    prepared = [accelerator.prepare(optimiser) for optimiser in made]
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    average = [parameter.detach().clone() for parameter in wanted]
    reached = resume(accelerator, out, average)
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        for name in (LOSSES, WATCHED):
            forget_after(out / name, reached.step)
    return _Run(part, accelerator, model, prepared, wanted, average, out, seed, minutes, reached)


def lowered(precision: str) -> bool:
    """Return whether to compute in bfloat16: ``bf16``, or ``auto`` where the machine has it in hardware.

    Raises `ConfigError` for another word than these and ``float32``.
    """
    if precision not in ("auto", "bf16", "float32"):
        raise ConfigError("PRECISION", f"wanted a precision of auto, bf16, float32; got {precision!r}")
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _loader(run: _Run, clips: TorchDataset[Batch]) -> DataLoader[Batch]:
    place = run.accelerator.process_index, run.accelerator.num_processes
    order = Order(len(cast(Any, clips)), run.part.batch, run.seed, run.reached.step, place)
    pinned = run.accelerator.device.type == "cuda"
    return DataLoader(clips, batch_sampler=order, num_workers=run.part.workers, pin_memory=pinned)


def _note(
    run: _Run,
    log: SummaryWriter | None,
    step: int,
    share: float,
    losses: Sequence[Tensor],
    speed: float,
    report: Callable[[Progress], None],
) -> None:
    mean = float(run.accelerator.reduce(torch.stack(list(losses)).float().mean(), "mean"))
    if not math.isfinite(mean):
        raise FloatingPointError(f"the loss is {mean} at step {step}; lower the learning rate")
    left_s = run.elapsed_s * (1.0 - share) / share
    report(Progress(step, share, mean, speed, left_s))
    if log is not None:
        log.add_scalar("loss", mean, step)
        log.add_scalar("samples_per_s", speed, step)
        with (run.out / LOSSES).open("a") as file:
            file.write(json.dumps({"step": step, "loss": mean, "elapsed_s": round(run.elapsed_s, 1)}) + "\n")


@torch.no_grad()
def _look(run: _Run, watch: Watch, step: int, log: SummaryWriter | None) -> None:
    accelerator = run.accelerator
    order = iter(Order(len(cast(Any, watch.clips)), run.part.batch, 0))
    losses = []
    for number in range(WATCHED_BATCHES):
        batch = torch.utils.data.default_collate([watch.clips[n] for n in next(order)])
        moved = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        with accelerator.autocast():
            losses.append(run.model(moved, torch.Generator(accelerator.device).manual_seed(number)))
    figures = {"held_out_loss": float(torch.stack(losses).float().mean())}
    pictures: Pictures = {}
    if watch.look is not None and accelerator.is_main_process and not run.part.shard:
        seen, pictures = watch.look(accelerator.unwrap_model(run.model))
        figures |= seen
    if log is None:
        return
    for name, value in figures.items():
        log.add_scalar(name, value, step)
    for name, picture in pictures.items():
        log.add_image(name, picture, step, dataformats="HWC")
        _draw(picture, run.out / "pictures" / f"{name}_{step:07d}.png")
    with (run.out / WATCHED).open("a") as file:
        file.write(json.dumps({"step": step} | figures) + "\n")


def _draw(picture: Any, path: Path) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def _generator(accelerator: Accelerator, seed: int, step: int) -> torch.Generator:
    number = (seed * 1_000_003 + step) * 4096 + accelerator.process_index
    return torch.Generator(accelerator.device).manual_seed(number)


@torch.no_grad()
def _fill(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
