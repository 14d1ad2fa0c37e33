"""What a system is made of, as data: the sizes of its networks, the steps of its samplers, the meaning of its actions."""

from dataclasses import dataclass, replace
from typing import Any

from dvgwm.runtime.errors import ConfigError


@dataclass(frozen=True, slots=True)
class DiT:
    """A CogVideoX transformer, or a Wan one, which states its ``feed_forward``.

    The text's width and the channels of its latents come from the preset's other parts.

    ``predicts`` says what its output is: the ``velocity`` (CogVideoX, DVG-WM), or the ``clean`` latents, of which the
    engine makes the velocity. A small network cannot pass noise through its narrow layers (Li and He 2025,
    arXiv 2511.13720). One that tells clean latents leaves out ``margin`` columns of them at either side, where its camera
    sees nothing move: they stay as they are. It draws along the
    tool's path that a network of ``waypoints`` channels tells it (`waypoints.Waypoints`); 0: it finds its own.
    """

    layers: int
    heads: int
    time_embed: int
    head_width: int = 64
    patch: int = 2
    rope: str = "stretched"
    feed_forward: int = 0
    predicts: str = "velocity"
    margin: int = 0
    waypoints: int = 0


@dataclass(frozen=True, slots=True)
class Text:
    """A T5 v1.1 or UMT5 encoder (``kind``) and its tokenizer (``bytes`` or ``tokenizer.json``)."""

    width: int
    layers: int
    heads: int
    head_width: int
    feed_forward: int
    vocabulary: int
    max_tokens: int
    tokenizer: str
    kind: str = "t5"


@dataclass(frozen=True, slots=True)
class Vision:
    """CLIP's picture encoder, which sees ``image`` x ``image`` pixels in patches of ``patch``."""

    width: int
    layers: int
    heads: int
    feed_forward: int
    patch: int = 14
    image: int = 224


@dataclass(frozen=True, slots=True)
class LinearCodecSize:
    """A linear causal codec: ``patch`` x ``patch`` pixels to ``channels``."""

    patch: int
    channels: int


@dataclass(frozen=True, slots=True)
class VaeSize:
    """AutoencoderKLCogVideoX: channels per block and resnets per block."""

    blocks: tuple[int, int, int, int]
    layers: int
    channels: int
    groups: int = 32
    patch: int = 8


@dataclass(frozen=True, slots=True)
class WanVaeSize:
    """AutoencoderKLWan: channels of the first block, how many times more each has, resnets per block."""

    base: int
    blocks: tuple[int, int, int, int]
    layers: int
    channels: int
    patch: int = 8


BLEND = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.7, 0.45, 0.3, 0.2, 0.15, 0.12, 0.1, 0.08)
"""One over the squared error of each place in a chunk, measured: beyond the last frame seen the future is a guess."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A vision-only Diffusion Policy: ResNet18 of ``stem`` channels with ``pooling``, FiLM UNet1D of ``widths``.

    A chunk of ``horizon`` actions begins every ``stride`` frames and sees those at ``offsets`` from its start, each encoded
    on its own: the first alone does not say which object is meant. ``samples`` of every chunk are drawn; where their
    deviation (in [-1, 1]) is above ``medoid_above`` their medoid is taken, else their mean. Chunks that overlap are blended
    by ``blend``, a weight per place in the chunk.
    """

    stem: int
    pooling: str
    widths: tuple[int, ...]
    step_embed: int
    horizon: int = 16
    dof: int = 7
    offsets: tuple[int, ...] = (0, 4, 8)
    stride: int = 4
    samples: int = 4
    medoid_above: float = 0.25
    blend: tuple[float, ...] = BLEND
    kernel: int = 5
    groups: int = 8
    image_size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Scaling:
    """A latent scale: ``(latent - mean) / std`` per channel, or one number for all."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Samplers, step counts and guidance of each stage; ``bridge_step`` is the strength s of Eq. A.8 on the shift-1 grid."""

    preview: str = "ddim_v"
    preview_steps: int = 50
    preview_guidance: float = 6.0
    preview_snr_shift: float = 1.0
    preview_time_shift: float = 1.0
    refine_steps: int = 4
    bridge_step: int = 200
    policy_steps: int = 16
    policy_train_steps: int = 100


@dataclass(frozen=True, slots=True)
class Actions:
    """What the policy's numbers mean, as in the bundle's action contract."""

    space: str
    names: tuple[str, ...]
    units: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]


GALAXEA_POSES = Actions(  # the workspace of the simulated tasks; rotations from straight down
    "ee",
    ("x", "y", "z", "rx", "ry", "rz", "gripper"),
    ("m", "m", "m", "rad", "rad", "rad", "0..1"),
    (0.15, -0.2, 0.0, -0.4, -0.4, -0.9, 0.0),
    (0.52, 0.2, 0.2, 0.4, 0.4, 0.9, 1.0),
)
T5_XXL = Text(4096, 24, 64, 64, 10240, 32128, 226, "tokenizer.json")
UMT5_XXL = Text(4096, 24, 64, 64, 10240, 256384, 512, "tokenizer.json", "umt5")
CLIP_H = Vision(1280, 32, 16, 5120)
WAN_VAE = WanVaeSize(96, (1, 2, 4, 4), 2, 16)
WAN_14B = DiT(layers=40, heads=40, time_embed=256, head_width=128, feed_forward=13824)
WAN = Scaling(
    (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
     0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
    (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
     3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)  # fmt: skip
COG_VAE = VaeSize((128, 256, 256, 512), 3, 16)
FULL_POLICY = Policy(64, "average", (512, 1024, 2048), 128, image_size=(240, 320))
COG_5B, COG_2B = Scaling((0.0,), (1 / 0.7,)), Scaling((0.0,), (1 / 1.15258426,))


@dataclass(frozen=True, slots=True)
class Preset:
    """One system at one size, by default with the parts of full-size ones; ``low`` and ``high`` are height and width.

    A new plan is made after ``execute`` actions (0: after all of a plan's). With ``drop_short`` episodes of fewer frames
    than a clip are not learned from, else their last frame is held.
    """

    name: str
    family: str
    low: tuple[int, int]
    high: tuple[int, int]
    preview: DiT
    refiner: DiT | None
    preview_scaling: Scaling
    refiner_scaling: Scaling
    refiner_sees_preview: bool = False
    codec: LinearCodecSize | VaeSize | WanVaeSize = COG_VAE
    text: Text = T5_XXL
    vision: Vision | None = None
    policy: Policy = FULL_POLICY
    sampling: Sampling = Sampling()
    actions: Actions = GALAXEA_POSES
    frames: int = 49
    fps: float = 10.0
    execute: int = 0
    drop_short: bool = True

    @property
    def latent_frames(self) -> int:
        """Frames after the codec: the first alone, then groups of four."""
        return 1 + (self.frames - 1) // 4

    def shortened(self, layers: int, frames: int) -> "Preset":
        """Return it with the first ``layers`` of every transformer and clips of ``frames``, 0 for its own: for a proof.

        Raises `ConfigError` for what it cannot be shortened to.
        """
        most = max(self.preview.layers, self.text.layers, self.refiner.layers if self.refiner else 0)
        if not 0 <= layers <= most:
            raise ConfigError("LAYERS", f"wanted --layers from 1 to {most} for {self.name}, got {layers}")
        chunks = [*range(9, self.frames + 1, 8)]
        if frames and frames not in chunks:
            raise ConfigError("FRAMES", f"wanted --frames of {', '.join(map(str, chunks))}, got {frames}")

        def short(network: Any) -> Any:
            return replace(network, layers=min(layers or network.layers, network.layers))

        refiner = short(self.refiner) if self.refiner else None
        parts = {"preview": short(self.preview), "refiner": refiner, "text": short(self.text)}
        return replace(self, **parts, frames=frames or self.frames)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return latent height and width of a frame ``size``."""
        return size[0] // self.codec.patch, size[1] // self.codec.patch
