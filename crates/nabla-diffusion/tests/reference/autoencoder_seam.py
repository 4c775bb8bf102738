"""What tiles do to a decoded picture, in diffusers' way, which ours is (tests/autoencoder_kl.rs).

    python autoencoder_seam.py

decodes a latent of 64 x 64 whole and in tiles of 32 with random weights, and prints of their difference
D how it steps from column to column: where tiles are joined, where a fade ends, within fades, and far
from both; then its mean in parts of the picture, which is the tone of a tile.
"""

import torch
from diffusers import AutoencoderKL

from stable_diffusion import normal, randomise, vae_config

SIDE, TILE = 512, 256
STEP = TILE * 3 // 4

for seed in (51, 52):
    vae = randomise(AutoencoderKL.from_config(vae_config([32, 64, 64, 64], 8, TILE, {})), seed)
    soft = torch.nn.functional.interpolate(normal(4, 1, 4, 8, 8), (SIDE // 8, SIDE // 8), mode="bicubic")
    latent = soft + 0.3 * normal(5, 1, 4, SIDE // 8, SIDE // 8)
    with torch.no_grad():
        whole = vae.decode(latent).sample
        vae.enable_tiling()
        difference = vae.decode(latent).sample - whole
    steps = (difference[..., 1:] - difference[..., :-1]).abs().mean(dim=(0, 1, 2))
    joins = [x - 1 for x in range(STEP, SIDE, STEP)]
    fade = TILE - STEP
    columns = {
        "joins": joins,
        "ends of fades": [x + fade for x in joins if x + fade < SIDE - 1],
        "fades": [x for x in range(SIDE - 1) if any(j < x < j + fade for j in joins)],
        "far": [x for x in range(SIDE - 1) if not any(j - 8 <= x <= j + fade + 8 for j in joins)],
    }
    print({"picture": float(whole.std()), "D": float(difference.abs().mean())})
    print({name: round(float(steps[at].mean()), 3) for name, at in columns.items()})
    tone = difference.mean(dim=1)[0]
    corners = (0, TILE, SIDE - TILE // 2)
    print([[round(float(tone[y : y + 120, x : x + 120].mean()), 3) for x in corners] for y in corners])
