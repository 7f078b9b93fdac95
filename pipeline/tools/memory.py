"""Peak memory of each stage, from the sizes of a model's parts and the settings: arithmetic.

What is added up is what the stages hold at once: weights in their type, gradients, optimizer,
moving average, reference, activations of one micro batch. `benchmarks/memory.py` measures it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tgo.pipeline.config.objectives import NEEDS
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.tools import costs
from tgo.pipeline.tools.costs import Cost
from tgo.pipeline.tools.footprint import BYTES, Footprint, variant

PROCESS = {"cpu": 1.1e9, "cuda": 0.8e9}
"""Bytes of a process that has loaded its libraries: on a GPU, of the card's memory."""
REWARD_PASS = 16e6
"""Bytes of activations that an image takes in a ViT-H at 224 px, float32."""
LEFT_OVER = 0.4
"""Share of a network's float32 copies that Linux' allocator holds while they become int8; measured
with SDXL."""
STATE = {"adamw": 8, "adamw8bit": 2, "adafactor": 0}
"""Bytes of optimizer state a trained parameter."""


@dataclass(frozen=True)
class _Sizes:
    """The numbers of a run that memory follows from."""

    settings: Settings
    footprint: Footprint
    side: int
    gpus: int

    @property
    def on_cpu(self) -> bool:
        return self.settings.device == "cpu"

    @property
    def process(self) -> float:
        return PROCESS["cpu" if self.on_cpu else "cuda"]

    @property
    def dtype(self) -> str:
        return str(self.settings.generator.dtype)

    @property
    def texts(self) -> float:
        """Bytes of the text encoders' weights where images are made; so `network`, `vae`."""
        method = self.settings.generator.quantization
        return sum(text.bytes(self.dtype, method) for text in self.footprint.texts)

    @property
    def network(self) -> float:
        return self.footprint.network.bytes(self.dtype, self.settings.generator.quantization)

    @property
    def network_file(self) -> float:
        """Bytes of the network's file, mapped while it is read: in two bytes a weight."""
        return self.footprint.network.bytes("float16")

    @property
    def vae(self) -> float:
        return self.footprint.vae.bytes(self.dtype)

    @property
    def judges(self) -> dict[str, float]:
        """Bytes of each reward model's weights."""
        parameters = costs.reward_parameters(self.settings)
        return {name: count * BYTES[self.dtype] for name, count in parameters}

    @property
    def making(self) -> float:
        """Bytes of all weights that make and score images."""
        return self.texts + self.network + self.vae + sum(self.judges.values())

    def kind(self, *, recomputes: bool) -> str:
        """Which of the footprint's training steps is taken."""
        train = self.settings.train
        return variant(
            adapted=train.lora is not None,
            recomputes=recomputes,
            half=train.precision == "bfloat16",
            on_cpu=self.on_cpu,
        )

    def inference(self, bytes_in_float32: float, images: int) -> float:
        """Activations of a pass without gradient, in the type that is sampled in."""
        return bytes_in_float32 * images * BYTES[self.dtype] / 4


def peaks(settings: Settings, cost: Cost, *, gpus: int = 1) -> dict[str, float]:
    """Bytes that a process of each stage holds at most, by stage.

    Args:
        settings: those of the run; ``device: cpu`` counts the machine's memory, else the card's.
        cost: of the model at the resolution of the settings, with its footprint.
        gpus: how many cards share a training batch.

    Returns:
        Bytes of score (where images are generated), train and evaluate; none without a footprint.
    """
    if cost.footprint is None:
        return {}
    sizes = _Sizes(settings, cost.footprint, cost.side, gpus)
    generated = {} if settings.imported else {"score": _making(sizes)}
    return {**generated, "train": _training(sizes), "evaluate": _evaluating(sizes)}


def weights(settings: Settings, cost: Cost) -> dict[str, float]:
    """Bytes of the weights that each stage reads before its first image, by stage.

    Args:
        settings: those of the run.
        cost: of the model, with its footprint.

    Returns:
        Bytes in the types they are held in; none without a footprint.
    """
    if cost.footprint is None:
        return {}
    sizes = _Sizes(settings, cost.footprint, cost.side, 1)
    policy = 0.0 if settings.train.lora else cost.footprint.network.bytes("float32")
    evaluated = sizes.making + sizes.network  # the base model's network, then the tuned one's
    return {"score": sizes.making, "train": _frozen(sizes) + policy, "evaluate": evaluated}


def _making(sizes: _Sizes) -> float:
    """Images made, decoded and scored."""
    settings, kept = sizes.settings, sizes.footprint
    generator, batch = settings.generator, settings.score.batch_size
    dtype, judges = sizes.dtype, sizes.judges
    texts, network, vae = sizes.texts, sizes.network, sizes.vae
    passes = 1 if generator.guidance_scale <= 1 else 2
    predict = sizes.inference(kept.predict, batch * passes)
    decode = sizes.inference(kept.decode, batch)
    if generator.vae_tiling:
        decode = min(decode, sizes.inference(kept.decode, batch) * _tile_share(sizes))
    scoring = REWARD_PASS * batch * BYTES[dtype] / 4 if judges else 0.0
    scored = sum(judges.values())
    if sizes.on_cpu:  # one after the other, and everything stays
        whole = sizes.making + max(predict, decode, scoring)
        return sizes.process + max(whole, network + vae + _reading(judges, dtype))
    after = max(decode, scoring)  # on a stream of its own, while the next batch is sampled
    if not generator.offload:
        return sizes.process + sizes.making + predict + after
    in_turn = predict + max(vae + decode, scored + scoring)
    return sizes.process + network + max(texts, in_turn)


def _evaluating(sizes: _Sizes) -> float:
    """Images made as in stage one; then the second model is read beside the reward models."""
    making = _making(sizes)
    if not sizes.on_cpu:
        return making
    kept = sizes.network + sum(sizes.judges.values())
    return max(making, sizes.process + kept + sizes.network_file + _left_over(sizes))


def _tile_share(sizes: _Sizes) -> float:
    """A tile of 512 pixels over the whole image."""
    return min(1.0, (512 / sizes.side) ** 2)


def _reading(judges: Mapping[str, float], dtype: str) -> float:
    """Reward models while they are read: in float32, beside their file, then in their type."""
    most = there = 0.0
    for size in judges.values():
        count = size / BYTES[dtype]
        most = max(most, there + (4 + 2) * count)
        there += size
    return most


def _training(sizes: _Sizes) -> float:
    kept, train = sizes.footprint, sizes.settings.train
    half = train.precision == "bfloat16"
    adapted = train.lora is not None
    shares = sizes.gpus if train.parallel == "fsdp" else 1
    trained = kept.adapters * train.lora.rank if train.lora else kept.network.parameters
    base = _frozen(sizes) / shares
    gradients = 4 * trained / shares
    state = (4 + 4 + STATE[train.optimizer]) * trained / shares
    micro = train.batch_size * train.draws / (train.gradient_accumulation_steps * sizes.gpus)
    kind = sizes.kind(recomputes=train.gradient_checkpointing)
    casts = 2 * trained if half and not adapted else 0
    step = kept.training[kind] * micro + casts
    if train.gradient_accumulation_steps > 1:
        step += gradients
    else:  # activations go as gradients come
        step = max(step, gradients + step / 4)
    inside = max(step, _counting(sizes, gradients), _sampling(sizes, gradients))
    reading = sizes.network_file + _left_over(sizes) if sizes.on_cpu else 0.0
    return sizes.process + base + max(state + inside, reading + (0 if adapted else 4 * trained))


def _left_over(sizes: _Sizes) -> float:
    """Copies in float32 that the allocator holds until all weights are quantised."""
    method = sizes.settings.generator.quantization
    return LEFT_OVER * 4 * sizes.footprint.network.linear if method else 0.0


def _frozen(sizes: _Sizes) -> float:
    """Weights that are not trained: the base under adapters, or the reference."""
    settings, train = sizes.settings, sizes.settings.train
    half = train.precision == "bfloat16"
    network = sizes.footprint.network
    dtype = "bfloat16" if half else "float32"
    if train.lora is not None:
        return network.bytes(dtype, settings.generator.quantization)
    if not NEEDS[train.objective].reference or train.reference_cache is not None:
        return 0.0
    return network.bytes(dtype)


def _counting(sizes: _Sizes, gradients: float) -> float:
    """FLOPs are counted before the first step, with all activations; a card leaves it out."""
    train = sizes.settings.train
    if not sizes.on_cpu:
        return 0.0
    images = train.draws * (2 if NEEDS[train.objective].rows == "pairs" else 1)
    kind = sizes.kind(recomputes=False)
    return max(sizes.footprint.training[kind] * images, gradients)


def _sampling(sizes: _Sizes, gradients: float) -> float:
    """Sample images of some prompts, in the type that is trained in."""
    settings, kept = sizes.settings, sizes.footprint
    samples = settings.train.samples
    if samples is None:
        return 0.0
    share = BYTES[settings.train.precision] / 4
    batch = min(samples.prompts, settings.score.batch_size)
    passes = 1 if settings.generator.guidance_scale <= 1 else 2
    vae = kept.vae.bytes(settings.train.precision)
    drawn = max(kept.predict * batch * passes, kept.decode * batch) * share
    method = settings.generator.quantization
    texts = sum(text.bytes(settings.train.precision, method) for text in kept.texts)
    return max(texts, gradients + vae + drawn)
