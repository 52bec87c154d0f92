"""Trains `reelnet/toy-world`, a Stable Diffusion that draws the toy world, on one CPU core in about forty minutes.

    python scripts/toyworld/train_picture.py vae WORK
    python scripts/toyworld/train_picture.py unet WORK       # may run beside the next
    python scripts/toyworld/train_picture.py decoder WORK
    python scripts/toyworld/train_picture.py finish WORK MODEL

A stage that was stopped goes on where it was when it is called again.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import folder
import nets
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # as everybody calls it
from course import Course, word_optimiser
from diffusers import AutoencoderKL
from torch import nn

from runner.toyworld.scenes import SIDE, any_scene, draw, is_new
from runner.toyworld.words import say, say_somehow

SEED = 14
VAE_STEPS, DECODER_STEPS = 1200, 800
UNET_PLAN, UNET_COOLING, UNET_STEPS = 5400, 2000, 2400
"""The UNet's rate falls as for the plan's steps, and from UNET_COOLING on in a line to the end; then it learns more."""
MORE_PLAN, MORE_COOLING, MORE_STEPS = 600, 200, 400
MORE_RATE = 7e-4
PICTURES, BATCH = 6000, 32
UNET_RATE = 1.2e-3
BLUR = 0.08
"""Deviation of the noise on latents while the decoder learns, so that it bears what the UNet draws not quite right."""
UNSAID = 0.1
"""Part of the captions that are empty, for guidance."""
NOISIEST = 0.83
"""Half of each batch has more noise than at this part of the steps: only there do the words decide anything."""


def train_vae(work: Path) -> None:
    """Encoder and decoder: first on parts of pictures, in the last fifth on whole ones."""
    torch.manual_seed(SEED)
    vae = nets.vae().train().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=3e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    course = Course("vae", vae, optimiser, VAE_STEPS, SEED, work)

    def loss_of(random: np.random.Generator, step: int) -> tuple[torch.Tensor, list[float]]:
        pictures = vae_batch(random, *((4, SIDE) if step >= 0.8 * VAE_STEPS else (12, SIDE // 2)))
        latents = encode(vae, pictures)
        drawn = decode(vae, latents + BLUR * torch.randn_like(latents))
        thumbnail = F.mse_loss(latents[:, :3], F.avg_pool2d(pictures, 8))
        apart = F.l1_loss(drawn, pictures)
        loss = apart + F.mse_loss(drawn, pictures) + 0.3 * thumbnail + 1e-3 * latents.square().mean()
        return loss, [apart.item()]

    course.run(loss_of)
    vae.eval()
    standardise(vae, course.random)
    vae.save_pretrained(work / "vae")


@torch.no_grad()
def standardise(vae: AutoencoderKL, random: np.random.Generator) -> None:
    """Gives each channel of the latents mean 0 and deviation 1 over the world, in the 1×1 layers around them."""
    latents = torch.cat([encode(vae, vae_batch(random, 16, SIDE)[4:]) for _ in range(20)])
    mean, spread = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    into, out = vae.quant_conv, vae.post_quant_conv
    into.weight[:4] /= spread[:, None, None, None]
    into.bias[:4] = (into.bias[:4] - mean) / spread
    into.weight[4:] = 0
    into.bias[4:] = 2 * np.log(0.02)
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= spread[None, :, None, None]


def train_decoder(work: Path) -> None:
    """The decoder alone, for sharper edges: the latents stay what they are."""
    vae = AutoencoderKL.from_pretrained(work / "vae").train().to(memory_format=torch.channels_last)
    half = nn.ModuleList([vae.decoder, vae.post_quant_conv])
    optimiser = torch.optim.AdamW(half.parameters(), lr=1.5e-3, betas=(0.9, 0.99), weight_decay=0)

    def loss_of(random: np.random.Generator, _: int) -> tuple[torch.Tensor, list[float]]:
        pictures = vae_batch(random, 6, SIDE)
        with torch.no_grad():
            latents = encode(vae, pictures)
        drawn = decode(vae, latents + BLUR * torch.randn_like(latents))
        edges = sum(F.l1_loss(drawn.diff(dim=axis), pictures.diff(dim=axis)) for axis in (2, 3))
        apart = F.l1_loss(drawn, pictures)
        return apart + F.mse_loss(drawn, pictures) + edges, [apart.item()]

    Course("decoder", half, optimiser, DECODER_STEPS, SEED + 1, work).run(loss_of)
    vae.eval().save_pretrained(work / "vae-sharp")


def train_unet(work: Path) -> None:
    """The UNet and the text encoder together. They never see a combination that `is_new`."""
    vae = AutoencoderKL.from_pretrained(work / "vae").eval()
    random = np.random.default_rng(SEED + 2)
    scenes = [any_scene(random, lambda scene: not is_new(scene)) for _ in range(PICTURES)]
    latents = torch.cat([latents_of(vae, scenes[at : at + 50]) for at in range(0, PICTURES, 50)])
    torch.manual_seed(SEED + 2)
    tokenizer, both = nets.tokenizer(), word_nets()
    smooth = copy.deepcopy(both).eval().requires_grad_(False)
    signal = nets.scheduler().alphas_cumprod

    def caption(at: int, random: np.random.Generator) -> str:
        chance = random.random()
        if chance < UNSAID:
            return ""
        return say_somehow(scenes[at], random) if chance < 0.55 else say(scenes[at])

    def loss_of(random: np.random.Generator, _: int) -> tuple[torch.Tensor, list[float]]:
        chosen = random.integers(0, PICTURES, BATCH)
        padded = {"padding": "max_length", "max_length": nets.TOKENS, "truncation": True, "return_tensors": "pt"}
        words = tokenizer([caption(at, random) for at in chosen], **padded).input_ids
        clean = latents[torch.from_numpy(chosen)]
        noise = torch.randn_like(clean)
        times = noise_times(BATCH)
        a, s = signal[times].sqrt()[:, None, None, None], (1 - signal[times]).sqrt()[:, None, None, None]
        drawn = both.unet(a * clean + s * noise, times, encoder_hidden_states=both.text(words)[0]).sample
        return F.mse_loss(drawn, a * noise - s * clean), []

    optimiser = word_optimiser(both.unet, both.text, UNET_RATE)
    Course("unet", both, optimiser, UNET_PLAN, SEED + 3, work, smooth, UNET_STEPS, UNET_COOLING).run(loss_of)
    optimiser = word_optimiser(both.unet, both.text, MORE_RATE)
    Course("unet-more", both, optimiser, MORE_PLAN, SEED + 4, work, smooth, MORE_STEPS, MORE_COOLING).run(loss_of)


def word_nets() -> nn.ModuleDict:
    """The UNet and the text encoder, new."""
    tokens = len(nets.tokenizer())
    unet = nets.unet().to(memory_format=torch.channels_last)
    return nn.ModuleDict({"unet": unet, "text": nets.text_encoder(tokens)}).train()


def noise_times(count: int) -> torch.Tensor:
    """Steps of the scheduler, spread evenly; every second one among the noisiest."""
    parts = (torch.arange(count) + torch.rand(1)) / count
    parts = torch.where(torch.arange(count) % 2 == 0, parts, NOISIEST + (1 - NOISIEST) * parts)
    return (parts * 1000).long().clamp(max=999)


def finish(work: Path, model: Path) -> None:
    """Writes the model's folder from what the stages left, in half precision."""
    both = word_nets()
    both.load_state_dict(torch.load(work / "unet-more.state.pt", weights_only=False)["smooth"])
    vae = AutoencoderKL.from_pretrained(work / "vae-sharp")
    steps = {"vae": VAE_STEPS, "decoder": DECODER_STEPS, "unet": UNET_STEPS + MORE_STEPS}
    folder.write(nets.pipeline(vae, both.text, both.unet), model, {"seed": SEED, "steps": steps})


def encode(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """The means of the latents."""
    return vae.quant_conv(vae.encoder(pictures))[:, :4]


def decode(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Pictures in -1…1."""
    return vae.decoder(vae.post_quant_conv(latents))


@torch.no_grad()
def latents_of(vae: AutoencoderKL, scenes: list) -> torch.Tensor:
    """Of the scenes' pictures."""
    return encode(vae, as_batch(np.stack([draw(scene) for scene in scenes])))


def vae_batch(random: np.random.Generator, count: int, side: int) -> torch.Tensor:
    """Pictures of the world, or `side` pixels of them; a quarter is patches and gradients of any colour."""
    pictures = []
    for at in range(count):
        if at < count // 4:
            pictures.append(patches(random, side))
            continue
        left, top = random.integers(0, SIDE - side + 1, 2)
        pictures.append(draw(any_scene(random))[top : top + side, left : left + side])
    return as_batch(np.stack(pictures)).to(memory_format=torch.channels_last)


def patches(random: np.random.Generator, side: int) -> np.ndarray:
    """A few colours, in squares or flowing into each other."""
    count = int(random.integers(2, 9))
    colours = torch.from_numpy(random.random((1, 3, count, count), np.float32))
    if random.random() < 0.5:
        drawn = F.interpolate(colours, (side, side), mode="nearest")
    else:
        drawn = F.interpolate(colours, (side, side), mode="bilinear", align_corners=True)
    return drawn[0].permute(1, 2, 0).numpy()


def as_batch(pictures: np.ndarray) -> torch.Tensor:
    """(count, side, side, 3) in 0…1 as torch has them: (count, 3, side, side) in -1…1."""
    return torch.from_numpy(pictures.astype(np.float32)).permute(0, 3, 1, 2) * 2 - 1


def main() -> None:
    """Runs one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("vae", "decoder", "unet", "finish"))
    parser.add_argument("work", type=Path, help="a folder for what the stages leave")
    parser.add_argument("model", type=Path, nargs="?", help="the model's folder, for finish")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # two threads give other weights, and cost more than they save
    if asked.stage == "finish":
        finish(asked.work, asked.model)
    else:
        {"vae": train_vae, "decoder": train_decoder, "unet": train_unet}[asked.stage](asked.work)


if __name__ == "__main__":
    main()
