"""A network of full size and random weights by diffusers: the folder, the calls and outputs, their times.

    python full_size_peer.py FOLDER sd15|sd21|sdxl|vae [SIDE]

makes the network in FOLDER if it is not there, and writes FOLDER/call.safetensors. Prints the peak memory
in MiB, and the seconds of each call (the median of three after one).
"""

import pathlib
import resource
import statistics
import sys
import time

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file

SD = {
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "sample_size": 64,
}
CONFIGS = {
    "sd15": SD | {"attention_head_dim": 8, "cross_attention_dim": 768},
    "sd21": SD
    | {
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "transformer_layers_per_block": [1, 2, 10],
    },
    "vae": {
        "sample_size": 512,
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
    },
}


def median_seconds(compute):
    times = []
    with torch.no_grad():
        for _ in range(4):
            start = time.perf_counter()
            output = compute()
            times.append(time.perf_counter() - start)
    return statistics.median(times[1:]), output.contiguous()


def unet_calls(unet, kind, side):
    config = CONFIGS[kind]
    tensors = {
        "sample": torch.randn(1, 4, side, side),
        "text": torch.randn(1, 77, config["cross_attention_dim"]),
    }
    added = {}
    if kind == "sdxl":
        tensors["pooled"] = torch.randn(1, 1280)
        tensors["size"] = torch.tensor([[8.0 * side, 8.0 * side, 0, 0, 8.0 * side, 8.0 * side]])
        added = {"added_cond_kwargs": {"text_embeds": tensors["pooled"], "time_ids": tensors["size"]}}
    calls = {"output": lambda: unet(tensors["sample"], 500, tensors["text"], **added).sample}
    return tensors, calls


def vae_calls(vae, side):
    tensors = {"latent": torch.randn(1, 4, side, side), "image": torch.randn(1, 3, 8 * side, 8 * side)}
    calls = {
        "decoded": lambda: vae.decode(tensors["latent"]).sample,
        "encoded": lambda: vae.encode(tensors["image"]).latent_dist.mean,
    }
    return tensors, calls


def main():
    folder, kind = pathlib.Path(sys.argv[1]), sys.argv[2]
    config = CONFIGS[kind]
    side = int(sys.argv[3]) if len(sys.argv) > 3 else 64
    torch.set_num_threads(2)
    torch.manual_seed(0)
    of, name = (AutoencoderKL, "vae") if kind == "vae" else (UNet2DConditionModel, "unet")
    if not (folder / name).is_dir():
        of(**config).half().save_pretrained(folder / name)
    network = of.from_pretrained(folder / name).float().eval()
    tensors, calls = vae_calls(network, side) if kind == "vae" else unet_calls(network, kind, side)
    seconds = []
    for output, compute in calls.items():
        taken, tensors[output] = median_seconds(compute)
        seconds.append(taken)
    save_file(tensors, folder / "call.safetensors")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, *seconds)


if __name__ == "__main__":
    main()
