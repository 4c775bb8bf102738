"""The full-size autoencoder of Stable Diffusion in diffusers: time, memory, and what it computes.

    python autoencoder_time.py OUT_DIR [THREADS]

makes OUT_DIR/vae with random weights once, encodes a picture of 512 x 512 and decodes a latent of
64 x 64 (f32, 2 threads unless said), prints seconds and the peak of memory, and leaves inputs and
outputs in OUT_DIR/reference.safetensors for `cargo run --example autoencoder_time`.
"""

import resource
import sys
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from stable_diffusion import normal, randomise, smooth_image, vae_config, write_json


def main(out, threads):
    torch.set_num_threads(threads)
    folder = out / "vae"
    if not folder.exists():
        config = vae_config([128, 256, 512, 512], 32, 512, {})
        vae = randomise(AutoencoderKL.from_config(config), 41)
        vae.save_pretrained(folder)
        write_json(folder / "config.json", config)
    vae = AutoencoderKL.from_pretrained(folder).eval()
    image, latent = smooth_image(3, 512, 512) * 2 - 1, normal(4, 1, 4, 64, 64)
    tensors = {"image": image, "latent": latent}
    with torch.no_grad():
        for name, compute in (
            ("decode", lambda: vae.decode(latent).sample),
            ("encode", lambda: vae.encode(image).latent_dist.mean),
        ):
            seconds = []
            for _ in range(2):
                start = time.perf_counter()
                tensors[name] = compute()
                seconds.append(time.perf_counter() - start)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"{name}: {min(seconds):.2f} s, the peak so far is {peak:.2f} GiB", flush=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, out / "reference.safetensors")


main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2)
