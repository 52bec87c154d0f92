"""Trains `reelnet/toy-world-clip`, a Wan whose clips begin with a picture of the toy world and move its shape.

    python scripts/toyworld/train_clip.py vae WORK
    python scripts/toyworld/train_clip.py transformer WORK
    python scripts/toyworld/train_clip.py finish WORK MODEL

A stage that was stopped goes on where it was when it is called again.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import clip_nets
import folder
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # as everybody calls it
from course import Course, Loss, word_optimiser
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import nn
from train_picture import patches

from runner.toyworld.scenes import SIDE, Scene, any_scene, draw
from runner.toyworld.words import MOVES, say_move

SEED = 41
VAE_STEPS, VAE_STOP, LONG_STEPS = 1500, 1000, 800
"""The VAE's first course is planned for more steps than it takes: it ends before its rate is low."""
FRAMES = 9
LATEST = 17
"""The VAE sees parts of clips that are so long."""
SPEED, SLOW = 0.03, 0.02
"""Parts of the side that a shape moves from frame to frame; the VAE begins with slow ones."""
NET_STEPS, NET_MORE = 3000, 1800
CLIPS, BATCH = 600, 16
NET_RATE, MORE_RATE = 1.5e-3, 1e-3
BLUR = 0.05
SHORT = 16
"""Places for words while the transformer learns; a prompt of the toy world has fewer tokens."""
UNSAID = 0.1


def moving(scene: Scene, move: str, frames: range, speed: float = SPEED) -> np.ndarray:
    """The frames, (frames, SIDE, SIDE, 3) in 0…1."""
    x, y = MOVES[move]
    return np.stack([draw(scene, SIDE, (x * speed * at, y * speed * at)) for at in frames])


def train_vae(work: Path) -> None:
    """First on parts of five frames; then on more of them, because only the third cell in time has two before it."""
    torch.manual_seed(SEED)
    vae = clip_nets.vae().train()
    optimiser = torch.optim.AdamW(vae.parameters(), lr=3e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    course = Course("clip-vae", vae, optimiser, VAE_STEPS, SEED, work, stop=VAE_STOP)
    course.run(vae_loss(vae, lambda _: Batch(6, SIDE // 2, 5, SLOW)))
    optimiser = torch.optim.AdamW(vae.parameters(), lr=1.5e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    course = Course("clip-vae-long", vae, optimiser, LONG_STEPS, SEED + 1, work)
    parts, whole = Batch(4, SIDE // 2, FRAMES, SLOW), Batch(1, SIDE, FRAMES, SPEED)
    course.run(vae_loss(vae, lambda step: parts if step < LONG_STEPS // 2 else whole))
    vae.eval().save_pretrained(work / "clip-vae")


@dataclass(frozen=True)
class Batch:
    """How many clips a step of the VAE takes, of which side and how many frames, and how fast their shapes move."""

    count: int
    side: int
    frames: int
    speed: float


def vae_loss(vae: AutoencoderKLWan, batch: Callable[[int], Batch]) -> Loss:
    """`batch` says what a step takes."""

    def loss_of(random: np.random.Generator, step: int) -> tuple[torch.Tensor, list[float]]:
        clips = vae_batch(random, batch(step))
        latents = vae._encode(clips)[:, : clip_nets.CHANNELS]
        drawn = decode(vae, latents + BLUR * torch.randn_like(latents))
        apart = F.l1_loss(drawn, clips)
        edges = sum(F.l1_loss(drawn.diff(dim=axis), clips.diff(dim=axis)) for axis in (3, 4))
        loss = apart + F.mse_loss(drawn, clips) + 0.5 * edges + 1e-3 * latents.square().mean()
        return loss, [apart.item(), latents.std().item()]

    return loss_of


def decode(vae: AutoencoderKLWan, latents: torch.Tensor) -> torch.Tensor:
    """As the VAE does, but for the limits of its numbers, which would hide from it how far it is off."""
    vae.clear_cache()
    latents = vae.post_quant_conv(latents)
    parts = []
    for at in range(latents.shape[2]):
        vae._conv_idx = [0]
        first = {"first_chunk": True} if at == 0 else {}
        parts.append(vae.decoder(latents[:, :, at : at + 1], feat_cache=vae._feat_map, feat_idx=vae._conv_idx, **first))
    vae.clear_cache()
    return unpatchify(torch.cat(parts, 2), vae.config.patch_size)


def vae_batch(random: np.random.Generator, wanted: Batch) -> torch.Tensor:
    """Clips of the world, or `side` pixels of them; about a sixth does not move, most of it patches of any colour."""
    count, side, frames = wanted.count, wanted.side, wanted.frames
    clips = []
    for at in range(count):
        if at == 0 and random.random() < (0.7 if count > 1 else 0.15):
            clips.append(np.repeat(patches(random, side)[None], frames, axis=0))
            continue
        start = int(random.integers(0, LATEST - frames + 1))
        move = any_scene(random), list(MOVES)[random.integers(4)]
        clip = moving(*move, range(start, start + frames), wanted.speed)
        if random.random() < 0.1:
            clip = clip[:1].repeat(frames, axis=0)
        left, top = random.integers(0, SIDE - side + 1, 2)
        clips.append(clip[:, top : top + side, left : left + side])
    return as_clips(np.stack(clips))


def train_transformer(work: Path) -> None:
    """The transformer and the text encoder together, on the latents of clips in each direction."""
    clips, latents = known_clips(work)
    torch.manual_seed(SEED + 2)
    tokenizer, both = clip_nets.tokenizer(), word_nets()
    smooth = copy.deepcopy(both).eval().requires_grad_(False)

    def loss_of(random: np.random.Generator, _: int) -> tuple[torch.Tensor, list[float]]:
        chosen = random.integers(0, len(clips), BATCH)
        words = ["" if random.random() < UNSAID else say_move(*clips[at], random) for at in chosen]
        clean = latents[torch.from_numpy(chosen)]
        noise = torch.randn_like(clean)
        amount = noise_amounts(BATCH)[:, None, None, None, None]
        mixed = (1 - amount) * clean + amount * noise
        mixed[:, :, 0] = clean[:, :, 0]
        drawn = both.transformer(
            hidden_states=mixed,
            timestep=cell_times(amount, clean.shape),
            encoder_hidden_states=read_words(tokenizer, both.text, words),
        ).sample
        return F.mse_loss(drawn[:, :, 1:], (noise - clean)[:, :, 1:]), []

    Course(
        "clip-net", both, word_optimiser(both.transformer, both.text, NET_RATE), NET_STEPS, SEED + 3, work, smooth
    ).run(loss_of)
    Course(
        "clip-net-more", both, word_optimiser(both.transformer, both.text, MORE_RATE), NET_MORE, SEED + 4, work, smooth
    ).run(loss_of)


def word_nets() -> nn.ModuleDict:
    """The transformer and the text encoder, new."""
    tokens = len(clip_nets.tokenizer())
    both = nn.ModuleDict({"transformer": clip_nets.transformer(), "text": clip_nets.text_encoder(tokens)}).train()
    for block in both.transformer.blocks:
        block.attn2.set_processor(ShortAttention())
    return both


def noise_amounts(count: int) -> torch.Tensor:
    """Parts of noise, as the scheduler shifts them, spread evenly before it does."""
    parts = (torch.arange(count) + torch.rand(1)) / count
    return clip_nets.SHIFT * parts / (1 + (clip_nets.SHIFT - 1) * parts)


def cell_times(amount: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The time of each token, (count, tokens): none for those of the first frame, which is not noised."""
    count, _, frames, rows, columns = shape
    times = (amount[:, 0] * 1000).expand(count, frames, rows // 2, columns // 2).clone()
    times[:, 0] = 0
    return times.flatten(1)


def read_words(tokenizer, text: nn.Module, words: list[str], places: int = SHORT) -> torch.Tensor:
    """As the pipeline has them, but in fewer places: (count, places, width), with zeros after the words."""
    read = tokenizer(words, padding=True, return_tensors="pt")
    states = text(read.input_ids, read.attention_mask).last_hidden_state * read.attention_mask[..., None]
    return F.pad(states, (0, 0, 0, places - states.shape[1]))


class ShortAttention:
    """Attention to the words as the pipeline's, at a third of its cost.

    The pipeline has TOKENS places, of which all behind the words hold zeros and so count the same. Here the last of
    SHORT places counts for all of those that are left out.
    """

    _counts = torch.ones(SHORT)
    _counts[-1] = clip_nets.TOKENS - SHORT + 1

    def __call__(self, layer: nn.Module, states: torch.Tensor, words: torch.Tensor, *_: object) -> torch.Tensor:
        """As a processor of diffusers' WanAttention."""
        parts = layer.norm_q(layer.to_q(states)), layer.norm_k(layer.to_k(words)), layer.to_v(words)
        query, key, value = (part.unflatten(2, (layer.heads, -1)).transpose(1, 2) for part in parts)
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=self._counts.log()[None, None, None])
        return layer.to_out[1](layer.to_out[0](read.transpose(1, 2).flatten(2)))


@torch.no_grad()
def known_clips(work: Path) -> tuple[list, torch.Tensor]:
    """The clips that are trained on, (scene, move), and their latents, of mean 0 and deviation 1 in each channel.

    The VAE's folder then states both, and the pipeline reads them there.
    """
    random = np.random.default_rng(SEED + 2)
    clips = [(any_scene(random), list(MOVES)[at % 4]) for at in range(CLIPS)]
    kept = work / "clip-latents.pt"
    if not kept.exists():
        vae = AutoencoderKLWan.from_pretrained(work / "clip-vae").eval()
        pictures = (as_clips(moving(*clip, range(FRAMES))[None]) for clip in clips)
        latents = torch.cat([vae.encode(picture).latent_dist.mode() for picture in pictures])
        mean, spread = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
        vae.register_to_config(latents_mean=mean.tolist(), latents_std=spread.tolist())
        vae.save_pretrained(work / "clip-vae")
        torch.save((latents - as_channels(mean)) / as_channels(spread), kept)
    return clips, torch.load(kept)


def as_channels(numbers: torch.Tensor) -> torch.Tensor:
    """One number for each channel of a batch of clips' latents."""
    return numbers[None, :, None, None, None]


def finish(work: Path, model: Path) -> None:
    """Writes the model's folder from what the stages left, in half precision."""
    both = word_nets()
    both.load_state_dict(torch.load(work / "clip-net-more.state.pt", weights_only=False)["smooth"])
    for block in both.transformer.blocks:
        block.attn2.set_processor(WanAttnProcessor())
    vae = AutoencoderKLWan.from_pretrained(work / "clip-vae")
    pipe = clip_nets.pipeline(vae, both.text, both.transformer)
    steps = {"vae": VAE_STOP + LONG_STEPS, "transformer": NET_STEPS + NET_MORE}
    folder.write(pipe, model, {"seed": SEED, "steps": steps})


def as_clips(clips: np.ndarray) -> torch.Tensor:
    """(count, frames, side, side, 3) in 0…1 as torch has them: (count, 3, frames, side, side) in -1…1."""
    return torch.from_numpy(clips.astype(np.float32)).permute(0, 4, 1, 2, 3) * 2 - 1


def main() -> None:
    """Runs one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("vae", "transformer", "finish"))
    parser.add_argument("work", type=Path, help="a folder for what the stages leave")
    parser.add_argument("model", type=Path, nargs="?", help="the model's folder, for finish")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # two threads give other weights, and cost more than they save
    if asked.stage == "finish":
        finish(asked.work, asked.model)
    else:
        {"vae": train_vae, "transformer": train_transformer}[asked.stage](asked.work)


if __name__ == "__main__":
    main()
