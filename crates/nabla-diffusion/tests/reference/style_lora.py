"""Checks that diffusers reads the LoRA of `nabla tune style`: every layer changes by B A, and by nothing else.

    pip install torch diffusers==0.42.1 peft==0.21.2
    nabla tune style --model MODEL --style picture.png --prompt a --iterations 3 -o style.safetensors
    python style_lora.py MODEL style.safetensors
"""

import sys

from diffusers import UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader
from safetensors.torch import load_file


def main(model, path):
    unet = UNet2DConditionModel.from_pretrained(f"{model}/unet")
    before = {name: weight.clone() for name, weight in unet.state_dict().items()}
    state, alphas = Loader.lora_state_dict(path, unet_config=unet.config)
    Loader.load_lora_into_unet(state, alphas, unet)
    unet.fuse_lora()
    written = load_file(path)
    layers, worst = 0, 0.0
    for name, weight in unet.state_dict().items():
        name = name.replace(".base_layer", "")
        if name not in before or weight.shape != before[name].shape:
            continue
        change = weight - before[name]
        layer = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
        if f"{layer}.lora_up.weight" in written:
            product = written[f"{layer}.lora_up.weight"] @ written[f"{layer}.lora_down.weight"]
            worst = max(worst, (change - product).abs().max().item())
            layers += 1
        else:
            assert not change.any(), name
    expected = sum(name.endswith(".lora_up.weight") for name in written)
    print(f"{layers} of {expected} layers, largest difference {worst:.1e}")
    assert layers == expected and worst < 1e-6


if __name__ == "__main__":
    main(*sys.argv[1:])
