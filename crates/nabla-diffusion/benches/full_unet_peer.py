"""A UNet of full size and random weights by diffusers: the folder, a call's inputs and output, its time.

    python full_unet_peer.py FOLDER sd15|sd21|sdxl [SIDE]

makes FOLDER/unet if it is not there, and writes FOLDER/call.safetensors. Prints seconds (the median of
three calls after one) and the peak memory in MiB.
"""

import pathlib
import resource
import statistics
import sys
import time

import torch
from diffusers import UNet2DConditionModel
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
}


def main():
    folder, kind = pathlib.Path(sys.argv[1]), sys.argv[2]
    config = CONFIGS[kind]
    side = int(sys.argv[3]) if len(sys.argv) > 3 else config["sample_size"]
    torch.set_num_threads(2)
    torch.manual_seed(0)
    if not (folder / "unet").is_dir():
        UNet2DConditionModel(**config).half().save_pretrained(folder / "unet")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").float().eval()
    call = {
        "sample": torch.randn(1, 4, side, side),
        "text": torch.randn(1, 77, config["cross_attention_dim"]),
    }
    added = {}
    if kind == "sdxl":
        call["pooled"] = torch.randn(1, 1280)
        call["size"] = torch.tensor([[8.0 * side, 8.0 * side, 0, 0, 8.0 * side, 8.0 * side]])
        added = {"added_cond_kwargs": {"text_embeds": call["pooled"], "time_ids": call["size"]}}
    times = []
    with torch.no_grad():
        for _ in range(4):
            start = time.perf_counter()
            output = unet(call["sample"], 500, call["text"], **added).sample
            times.append(time.perf_counter() - start)
    save_file(call | {"output": output}, folder / "call.safetensors")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(statistics.median(times[1:]), peak)


if __name__ == "__main__":
    main()
