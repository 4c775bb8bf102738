"""The time of a whole picture of Stable Diffusion 1.5 at 512 x 512 in 20 steps of DDIM, with random weights.

    pip install torch diffusers transformers
    python sample_peer.py FOLDER NABLA

makes the model in FOLDER if it is not there. diffusers takes classifier-free guidance in every step (40 calls of the
UNet); NABLA, the program, once the same, and once Adaptive Guidance as it saves a quarter of the calls: guidance in
the first ten steps (30 calls). With random weights nothing else would say where the guidance ends. The times are those
of sampling and decoding, without loading; all are taken in this run.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from full_size_peer import CONFIGS
from transformers import CLIPTextConfig, CLIPTextModel

STEPS, GUIDED, SCALE = 20, 10, 7.5
TINY = pathlib.Path(__file__).parent / "../tests/reference/tiny/sd15"


def make(folder):
    torch.manual_seed(0)
    UNet2DConditionModel(**CONFIGS["sd15"]).save_pretrained(folder / "unet")
    AutoencoderKL(**CONFIGS["vae"]).save_pretrained(folder / "vae")
    tiny = json.loads((TINY / "text_encoder/config.json").read_text())
    text = CLIPTextConfig(
        vocab_size=tiny["vocab_size"],
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        hidden_act="quick_gelu",
    )
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    for part in ["tokenizer", "scheduler"]:
        shutil.copytree(TINY / part, folder / part)
    shutil.copy(TINY / "model_index.json", folder)


def of_diffusers(folder):
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    draw = lambda steps: pipeline("a", num_inference_steps=steps, guidance_scale=SCALE, height=512, width=512)
    draw(1)
    begun = time.perf_counter()
    draw(STEPS)
    return time.perf_counter() - begun


def of_nabla(nabla, folder, out, guidance):
    line = [nabla, "sample", "--model", folder, "--prompt", "a", "--sampler", "ddim", "--steps", STEPS, "--size", 512]
    line += [*guidance, "--json", "-o", out / "out.png"]
    told = subprocess.run([str(part) for part in line], check=True, capture_output=True, text=True)
    told = json.loads(told.stdout)
    return told["seconds"], told["evaluations"]


def main(folder, nabla):
    folder = pathlib.Path(folder)
    torch.set_num_threads(2)
    if not folder.exists():
        make(folder)
    theirs = of_diffusers(folder)
    print(f"diffusers, classifier-free guidance: {theirs:.1f} s, 40 calls", flush=True)
    with tempfile.TemporaryDirectory() as out:
        out = pathlib.Path(out)
        policy = [{"ClassifierFree": SCALE}] * GUIDED + ["Conditional"] * (STEPS - GUIDED)
        (out / "policy.json").write_text(json.dumps({"kind": "policy", "steps": policy}))
        for name, guidance in [
            ("classifier-free guidance", ["--guidance-scale", SCALE]),
            ("Adaptive Guidance", ["--guidance-file", out / "policy.json"]),
        ]:
            seconds, calls = of_nabla(nabla, folder, out, guidance)
            print(f"Nabla, {name}: {seconds:.1f} s, {calls} calls, {seconds / theirs:.2f} of diffusers", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
