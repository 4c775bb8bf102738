"""Tiny random Stable Diffusion pipelines and what diffusers computes with them.

    python stable_diffusion.py OUT_DIR

makes one folder a pipeline in OUT_DIR, in the layout of the published
repositories (model_index.json, unet/, vae/, text_encoder/, tokenizer/,
scheduler/), with the key names of the published config.json files and small
sizes. Beside the model lie

* reference.safetensors: inputs and outputs of every stage (f32, i64),
* reference.json: facts that are not tensors (configurations, time steps, token ids).

Nothing is read from the network. Every model is first saved, then loaded from
its folder, so the references are those of the rounded weights in the files.
tiny/README.md says what each tensor is.
"""

import contextlib
import copy
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import diffusers
import regex
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

PROMPT = "A photograph of an astronaut riding a horse, 4k!"
GUIDANCE = 7.5

# --------------------------------------------------------------------- tokenizer

# CLIP's own pre-tokenization: contractions, letters, single digits, the rest.
WORDS = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)
CORPUS = """
A photograph of an astronaut riding a horse on the moon. An oil painting of the old harbour
at night, with the lights of the ships on the water. The cat isn't on the table, it's under the
chair. A portrait of a woman reading a letter by the window, in the style of the old masters.
We're walking through the forest in the morning; they've seen a fox. A highly detailed
photograph of a red apple on a white plate. The painting shows a house and a tree on a hill.
A watercolour of mountains and clouds, soft light, detailed, 4k. I'll paint the horse again...
The photo of the café in the centre of the town. A drawing of a cat and a dog, playing together.
"""


def byte_alphabet():
    """GPT-2's printable stand-in for each byte, in CLIP's order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    stand_in = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        if byte not in stand_in:
            stand_in[byte] = chr(256 + len(stand_in) - len(printable))
    return stand_in


def learn_merges(count):
    """The `count` most frequent byte pair merges of CORPUS (ties: the smaller pair)."""
    alphabet = byte_alphabet()
    words = Counter()
    for word in WORDS.findall(CORPUS.lower()):
        letters = [alphabet[byte] for byte in word.encode()]
        letters[-1] += "</w>"
        words[tuple(letters)] += 1
    merges = []
    while len(merges) < count:
        pairs = Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += times
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        merged = Counter()
        for word, times in words.items():
            parts, at = [], 0
            while at < len(word):
                if word[at : at + 2] == best:
                    parts.append(word[at] + word[at + 1])
                    at += 2
                else:
                    parts.append(word[at])
                    at += 1
            merged[tuple(parts)] += times
        words = merged
    return merges


def write_json(path, value):
    text = json.dumps(value, indent=2, ensure_ascii=False)
    # JSON has no infinity; where it is a default, null says the same.
    text = text.replace(": -Infinity", ": null")
    # Lists of numbers on one line.
    text = regex.sub(r"\[[\d\s.,e+-]+\]", lambda numbers: " ".join(numbers[0].split()), text)
    path.write_text(text + "\n", encoding="utf-8")


def write_tokenizer(folder, pad_token):
    """vocab.json, merges.txt and the two small configurations, as published for SD 1.x/2.x."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = learn_merges(120)
    letters = list(byte_alphabet().values())
    tokens = letters + [letter + "</w>" for letter in letters]
    tokens += [left + right for left, right in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: at for at, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2"] + [f"{left} {right}" for left, right in merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def special(content):
        return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}

    bos, eos = special("<|startoftext|>"), special("<|endoftext|>")
    write_json(
        folder / "special_tokens_map.json",
        {"bos_token": bos, "eos_token": eos, "pad_token": pad_token, "unk_token": eos},
    )
    typed = {"__type": "AddedToken"}
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "bos_token": typed | bos,
            "do_lower_case": True,
            "eos_token": typed | eos,
            "errors": "replace",
            "model_max_length": 77,
            "name_or_path": "openai/clip-vit-large-patch14",
            "pad_token": pad_token,
            "special_tokens_map_file": "./special_tokens_map.json",
            "tokenizer_class": "CLIPTokenizer",
            "unk_token": typed | eos,
        },
    )
    return len(vocab)


PROMPTS = [
    "",
    " ",
    "a",
    "!",
    "!!!",
    PROMPT,
    "a photo of a cat",
    "A PHOTO OF A CAT",
    "a  photo   of\ta\ncat",
    "  leading and trailing  ",
    "it's, isn't, we're, they've, I'm, I'll, he'd",
    "IT'S ISN'T WE'RE",
    "the artist's 'quoted' word",
    "1234 5 67",
    "4k 8K 35mm f/1.8",
    "3.14159",
    "\u00bd cup, x\u00b2",
    "caf\u00e9 cr\u00e8me br\u00fbl\u00e9e",
    "cafe\u0301 (decomposed accent)",
    "\u00dcBERGR\u00d6SSE Stra\u00dfe",
    "\u0130stanbul",
    "\u041c\u043e\u0441\u043a\u0432\u0430 \u043d\u043e\u0447\u044c\u044e",
    "\u6771\u4eac\u30bf\u30ef\u30fc",
    "\ud55c\uad6d\uc5b4 \ud48d\uacbd",
    "\u0645\u0631\u062d\u0628\u0627",
    "\u0939\u093f\u0928\u094d\u0926\u0940",
    "\U0001f600 smile \U0001f40e\U0001f319",
    "\U0001f469\u200d\U0001f680 astronaut",
    "tom &amp; jerry &lt;3",
    "a, b; c: d. e? f!",
    "...---...",
    "(masterpiece:1.2), [blurry]",
    "<lora:thing:0.8>",
    "<|endoftext|>",
    "a <|startoftext|> b",
    "hello_world snake_case",
    "email@example.com https://example.com/x?y=1&z=2",
    "non\u00a0breaking\u3000ideographic space",
    "zero\u200bwidth",
    "\u201cquotes\u201d \u2018single\u2019 \u2014 dash \u2026",
    "\ufb01ligature \uff21\uff22\uff23 full width",
    "tab\tcontrol\x01char",
    "a photograph of an astronaut riding a horse on the moon, " * 8,
    "x" * 200,
]


def tokenizer_facts(tokenizer):
    """Token ids without the padding up to 77."""
    rows = []
    for prompt in PROMPTS:
        padded = tokenizer(prompt, padding="max_length", max_length=77, truncation=True).input_ids
        plain = tokenizer(prompt, truncation=True, max_length=77).input_ids
        assert padded[: len(plain)] == plain and len(padded) == 77
        assert set(padded[len(plain) :]) <= {tokenizer.pad_token_id}
        rows.append({"prompt": prompt, "ids": plain})
    return rows


def special_ids(tokenizer):
    return {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id, "length": 77}


# ------------------------------------------------------------------------ models


def randomise(module, seed):
    """Weights for which no parameter can be left out or swapped unnoticed.

    The libraries start with norms at one and zero and embeddings near zero, which
    would hide most mistakes of a port.
    """
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(module.named_parameters()):
            drawn = torch.randn(weight.shape, generator=noise)
            if weight.ndim == 1 and "norm" in name and name.endswith("weight"):
                weight.copy_(1.0 + 0.2 * drawn)
            elif weight.ndim == 1:
                weight.copy_(0.1 * drawn)
            elif "token_embedding" in name or "position_embedding" in name:
                weight.copy_(0.5 * drawn)
            else:
                weight.copy_(drawn / weight[0].numel() ** 0.5)
    return module.eval()


def text_model(kind, vocab, hidden, layers, heads, act, projection, pad_token_id=1):
    config = CLIPTextConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_act=act,
        projection_dim=projection,
        max_position_embeddings=77,
        layer_norm_eps=1e-5,
        # The published files say 0 and 2, which are not the tokenizer's ids:
        # transformers then pools at the largest id.
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=pad_token_id,
    )
    return kind(config)


def published_text_config(model, dtype):
    """config.json with the keys of the published text encoders."""
    config = model.config
    return {
        "_name_or_path": "openai/clip-vit-large-patch14",
        "architectures": [type(model).__name__],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": config.hidden_act,
        "hidden_size": config.hidden_size,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "pad_token_id": config.pad_token_id,
        "projection_dim": config.projection_dim,
        "torch_dtype": dtype,
        "transformers_version": "4.22.0.dev0",
        "vocab_size": config.vocab_size,
    }


def vae_config(channels, groups, sample_size, extra):
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.6.0",
        "act_fn": "silu",
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": groups,
        "out_channels": 3,
        "sample_size": sample_size,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    } | extra


def unet_config_sd(channels, groups, heads, cross, in_channels=4, extra=None):
    """The published SD 1.x UNet configuration; SD 2.x adds keys."""
    return {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.6.0",
        "act_fn": "silu",
        "attention_head_dim": heads,
        "block_out_channels": channels,
        "center_input_sample": False,
        "cross_attention_dim": cross,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": in_channels,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": groups,
        "out_channels": 4,
        "sample_size": 8,
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    } | (extra or {})


def unet_config_sdxl(channels, groups, heads, cross, pooled):
    return {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.19.0.dev0",
        "act_fn": "silu",
        "addition_embed_type": "text_time",
        "addition_embed_type_num_heads": 64,
        "addition_time_embed_dim": 8,
        "attention_head_dim": heads,
        "block_out_channels": channels,
        "center_input_sample": False,
        "class_embed_type": None,
        "class_embeddings_concat": False,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "cross_attention_dim": cross,
        "cross_attention_norm": None,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "downsample_padding": 1,
        "dual_cross_attention": False,
        "encoder_hid_dim": None,
        "encoder_hid_dim_type": None,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_only_cross_attention": None,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "norm_eps": 1e-05,
        "norm_num_groups": groups,
        "num_attention_heads": None,
        "num_class_embeds": None,
        "only_cross_attention": False,
        "out_channels": 4,
        "projection_class_embeddings_input_dim": pooled + 6 * 8,
        "resnet_out_scale_factor": 1.0,
        "resnet_skip_time_act": False,
        "resnet_time_scale_shift": "default",
        "sample_size": 8,
        "time_cond_proj_dim": None,
        "time_embedding_act_fn": None,
        "time_embedding_dim": None,
        "time_embedding_type": "positional",
        "timestep_post_act": None,
        "transformer_layers_per_block": [1, 1, 2],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "upcast_attention": None,
        "use_linear_projection": True,
    }


BETAS = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
}


def save_model(model, config, folder, dtype, **options):
    """Weights by the library, config.json with the published keys only."""
    model.to(dtype).save_pretrained(folder, safe_serialization=True, **options)
    write_json(folder / "config.json", config)


def rename_tensors(path, rename, extra=None):
    renamed = {rename(name): weight for name, weight in load_file(path).items()}
    save_file(renamed | (extra or {}), path, metadata={"format": "pt"})


def save_text_model(model, folder, dtype, extra=None):
    """Published files say `text_model.` before every name, transformers 5 leaves it out."""
    save_model(model, published_text_config(model, str(dtype).removeprefix("torch.")), folder, dtype)

    def rename(name):
        return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"

    rename_tensors(folder / "model.safetensors", rename, extra)


def old_vae_attention_names(folder):
    """Published SD 1.x VAE files still carry the first names of the mid attention."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(name):
        for new, old in names.items():
            if ".attentions.0." in name:
                name = name.replace(f".{new}.", f".{old}.")
        return name

    rename_tensors(folder / "diffusion_pytorch_model.safetensors", rename)


def make_sd15(folder):
    vocab = write_tokenizer(folder / "tokenizer", "<|endoftext|>")
    dtype = torch.float16
    text = randomise(text_model(CLIPTextModel, vocab, 16, 2, 2, "quick_gelu", 16), 11)
    # A buffer that older transformers saved; loaders skip it.
    positions = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_text_model(text, folder / "text_encoder", dtype, positions)
    config = unet_config_sd([4, 8, 8, 8], 2, 2, 16)
    unet = randomise(UNet2DConditionModel.from_config(config), 12)
    save_model(unet, config, folder / "unet", dtype)
    # SD 1.5 inpainting: latents, mask and masked image side by side. Two levels keep it small.
    config = unet_config_sd([4, 8], 2, 2, 16, in_channels=9) | {
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 1,
    }
    unet = randomise(UNet2DConditionModel.from_config(config), 14)
    save_model(unet, config, folder / "unet_inpainting", dtype)
    config = vae_config([4, 4, 8, 8], 2, 64, {})
    vae = randomise(AutoencoderKL.from_config(config), 13)
    save_model(vae, config, folder / "vae", dtype)
    old_vae_attention_names(folder / "vae")
    write_scheduler(
        folder,
        {
            "_class_name": "PNDMScheduler",
            "_diffusers_version": "0.6.0",
            **BETAS,
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "steps_offset": 1,
            "trained_betas": None,
            "clip_sample": False,
        },
    )
    write_json(folder / "model_index.json", sd_index("PNDMScheduler"))


def make_sd21(folder):
    # SD 2.x pads with "!", which has the id 0.
    vocab = write_tokenizer(folder / "tokenizer", "!")
    dtype = torch.bfloat16
    text = randomise(text_model(CLIPTextModel, vocab, 16, 3, 4, "gelu", 16), 21)
    save_text_model(text, folder / "text_encoder", dtype)
    config = unet_config_sd(
        [4, 4, 8, 8],
        2,
        [1, 2, 2, 4],
        16,
        extra={
            "_diffusers_version": "0.10.0.dev0",
            "dual_cross_attention": False,
            "num_class_embeds": None,
            "only_cross_attention": False,
            "upcast_attention": True,
            "use_linear_projection": True,
        },
    )
    unet = randomise(UNet2DConditionModel.from_config(config), 22)
    # With a full output, v-prediction and guidance 7.5 make the samplers chaotic: rounding
    # errors grew a thousandfold. See `error_growth` in reference.json.
    with torch.no_grad():
        unet.conv_out.weight.mul_(0.3)
    save_model(unet, config, folder / "unet", dtype)
    config = vae_config([4, 4, 4, 4], 2, 64, {"_diffusers_version": "0.10.0.dev0"})
    vae = randomise(AutoencoderKL.from_config(config), 23)
    save_model(vae, config, folder / "vae", dtype)
    write_scheduler(
        folder,
        {
            "_class_name": "DDIMScheduler",
            "_diffusers_version": "0.8.0",
            **BETAS,
            "clip_sample": False,
            "prediction_type": "v_prediction",
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "steps_offset": 1,
            "trained_betas": None,
        },
    )
    write_json(folder / "model_index.json", sd_index("DDIMScheduler"))


def make_sdxl(folder):
    vocab = write_tokenizer(folder / "tokenizer", "<|endoftext|>")
    write_tokenizer(folder / "tokenizer_2", "!")
    dtype = torch.float32
    text = randomise(text_model(CLIPTextModel, vocab, 16, 2, 2, "quick_gelu", 16), 31)
    save_text_model(text, folder / "text_encoder", torch.float16)
    text = randomise(text_model(CLIPTextModelWithProjection, vocab, 16, 3, 4, "gelu", 12), 32)
    save_text_model(text, folder / "text_encoder_2", torch.float16)
    config = unet_config_sdxl([4, 4, 8], 2, [1, 2, 4], 32, 12)
    unet = randomise(UNet2DConditionModel.from_config(config), 33)
    save_model(unet, config, folder / "unet", dtype)
    config = vae_config(
        [4, 4, 4, 4], 2, 64, {"_diffusers_version": "0.20.0.dev0", "force_upcast": True, "scaling_factor": 0.13025}
    )
    vae = randomise(AutoencoderKL.from_config(config), 34)
    # In several files with an index, as large models are published.
    save_model(vae, config, folder / "vae", dtype, max_shard_size="20KB")
    write_scheduler(
        folder,
        {
            "_class_name": "EulerDiscreteScheduler",
            "_diffusers_version": "0.19.0.dev0",
            **BETAS,
            "clip_sample": False,
            "interpolation_type": "linear",
            "prediction_type": "epsilon",
            "sample_max_value": 1.0,
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "steps_offset": 1,
            "timestep_spacing": "leading",
            "trained_betas": None,
            "use_karras_sigmas": False,
        },
    )
    write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionXLPipeline",
            "_diffusers_version": "0.19.0.dev0",
            "force_zeros_for_empty_prompt": True,
            "add_watermarker": None,
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )


def write_scheduler(folder, config):
    (folder / "scheduler").mkdir()
    write_json(folder / "scheduler" / "scheduler_config.json", config)


def sd_index(scheduler):
    return {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.6.0",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


# --------------------------------------------------------------------- references


class Reference:
    """The tensors and facts of one pipeline."""

    def __init__(self):
        self.tensors, self.facts = {}, {}

    def put(self, name, value):
        assert name not in self.tensors, name
        value = value.detach().clone().contiguous()
        value = value.to(torch.float32 if value.is_floating_point() else torch.int64)
        assert torch.isfinite(value).all(), name
        self.tensors[name] = value
        return value

    def save(self, folder):
        save_file(self.tensors, folder / "reference.safetensors")
        self.facts["versions"] = {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        }
        write_json(folder / "reference.json", self.facts)


# Sizes of whole pictures: the latents are 5 by 8, which no UNet halves evenly.
HEIGHT, WIDTH = 40, 64


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def smooth_image(seed, height, width):
    """An image in [0, 1] with large soft shapes: [1, 3, height, width]."""
    coarse = torch.rand((1, 3, 4, 4), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


@contextlib.contextmanager
def recorded_noise():
    """The list of every tensor diffusers draws inside the block, in order."""
    drawn = []
    original = diffusers.utils.torch_utils.randn_tensor

    def draw(*args, **kwargs):
        drawn.append(original(*args, **kwargs))
        return drawn[-1]

    modules = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("diffusers") and module.__dict__.get("randn_tensor") is original
    ]
    for module in modules:
        module.randn_tensor = draw
    try:
        yield drawn
    finally:
        for module in modules:
            module.randn_tensor = original


def tokens(tokenizer, prompt):
    return tokenizer(prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


def text_reference(out, pipe):
    out.facts["tokenizer"] = special_ids(pipe.tokenizer)
    out.put("text.ids", tokens(pipe.tokenizer, PROMPT))
    out.put("text.ids_empty", tokens(pipe.tokenizer, ""))
    cond, uncond = pipe.encode_prompt(PROMPT, "cpu", 1, True, negative_prompt="")
    out.put("text.embeds", cond)
    out.put("text.embeds_empty", uncond)
    hidden = pipe.text_encoder(tokens(pipe.tokenizer, PROMPT), output_hidden_states=True)
    out.put("text.after_layer_0", hidden.hidden_states[1])
    # clip_skip 1: the last hidden state but one, with the final layer norm.
    out.put("text.embeds_clip_skip_1", pipe.text_encoder.final_layer_norm(hidden.hidden_states[-2]))
    return torch.cat([uncond, cond]), {}


def text_reference_sdxl(out, pipe):
    out.facts["tokenizer"] = special_ids(pipe.tokenizer)
    out.facts["tokenizer_2"] = special_ids(pipe.tokenizer_2)
    for name, prompt in (("", PROMPT), ("_empty", "")):
        out.put(f"text.ids{name}", tokens(pipe.tokenizer, prompt))
        out.put(f"text.ids_2{name}", tokens(pipe.tokenizer_2, prompt))
    cond, uncond, pooled, pooled_empty = pipe.encode_prompt(PROMPT, device="cpu", negative_prompt="")
    out.put("text.embeds", cond)
    out.put("text.embeds_empty", uncond)
    out.put("text.pooled", pooled)
    out.put("text.pooled_empty", pooled_empty)
    cond, uncond, pooled, pooled_empty = pipe.encode_prompt(PROMPT, device="cpu")
    # force_zeros_for_empty_prompt: no negative prompt at all gives zeros.
    assert (uncond == 0).all() and (pooled_empty == 0).all()
    time_ids = torch.tensor([[96.0, 80.0, 4.0, 8.0, HEIGHT, WIDTH]])
    out.put("text.add_time_ids", time_ids)
    added = {
        "text_embeds": torch.cat([pooled_empty, pooled]),
        "time_ids": time_ids.repeat(2, 1),
    }
    return torch.cat([uncond, cond]), added


def unet_reference(out, unet, embeds, added):
    """`embeds` and `added` hold [unconditional, conditional]: text.embeds_empty, text.embeds
    (SDXL: zeros, text.embeds).
    """
    channels = unet.config.in_channels
    for name, value in added.items():
        out.put(f"unet.{name}", value)
    sample = out.put("unet.sample", normal(1, 2, channels, 16, 16))
    for t in (1, 500, 999):
        out.put(f"unet.out_t{t}", unet(sample, t, embeds, added_cond_kwargs=added).sample)
    one = {name: value[1:] for name, value in added.items()}
    for name, height, width in (("wide", 8, 24), ("odd", 9, 15)):
        sample = out.put(f"unet.sample_{name}", normal(2, 1, channels, height, width))
        out.put(f"unet.out_{name}_t500", unet(sample, 500, embeds[1:], added_cond_kwargs=one).sample)


def vae_reference(out, vae, tiled):
    image = out.put("vae.image", smooth_image(3, 32, 48) * 2 - 1)
    posterior = vae.encode(image).latent_dist
    out.put("vae.mean", posterior.mean)
    out.put("vae.logvar", posterior.logvar)
    latent = out.put("vae.latent", normal(4, 1, 4, 4, 6))
    out.put("vae.decoded", vae.decode(latent).sample)
    out.facts["vae"] = {"scaling_factor": vae.config.scaling_factor}
    if not tiled:
        return
    image = out.put("image", smooth_image(5, HEIGHT, WIDTH)) * 2 - 1
    latent = out.put("vae.large_latent", normal(6, 1, 4, HEIGHT // 8, WIDTH // 8))
    sizes = {"tile_sample_min_size": 32, "tile_latent_min_size": 4, "tile_overlap_factor": 0.25}
    for name in ("untiled", "tiled"):
        if name == "tiled":
            vae.enable_tiling()
            for key, value in sizes.items():
                setattr(vae, key, value)
        posterior = vae.encode(image).latent_dist
        out.put(f"vae.large_mean_{name}", posterior.mean)
        out.put(f"vae.large_logvar_{name}", posterior.logvar)
        out.put(f"vae.large_decoded_{name}", vae.decode(latent).sample)
    vae.disable_tiling()
    out.facts["vae"]["tiling"] = sizes


SAMPLERS = {
    "ddim": (DDIMScheduler, {}, 10),
    "ddim_eta": (DDIMScheduler, {}, 10),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True}, 10),
    "pndm_prk": (PNDMScheduler, {"skip_prk_steps": False}, 12),
    "euler": (EulerDiscreteScheduler, {}, 10),
    "euler_ancestral": (EulerAncestralDiscreteScheduler, {}, 10),
    "dpm": (DPMSolverMultistepScheduler, {}, 10),
    "dpm_karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}, 10),
    "unipc": (UniPCMultistepScheduler, {}, 10),
    "heun": (HeunDiscreteScheduler, {}, 10),
    "lms": (LMSDiscreteScheduler, {}, 10),
}
ETA = 0.7


def sample(kind, options, steps, config, unet, embeds, added, start, eta=None):
    """The latents after every scheduler step, and what was drawn on the way."""
    scheduler = kind.from_config(config, **options)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(77)
    latents = start * scheduler.init_noise_sigma
    after, noises = [], []
    for at, t in enumerate(scheduler.timesteps):
        pair = scheduler.scale_model_input(torch.cat([latents] * 2), t)
        uncond, cond = unet(pair, t, embeds, added_cond_kwargs=added).sample.chunk(2)
        guided = uncond + GUIDANCE * (cond - uncond)
        more = {}
        if eta is not None:
            noises.append(normal(1000 + at, *latents.shape))
            more = {"eta": eta, "variance_noise": noises[-1]}
        elif kind in (EulerAncestralDiscreteScheduler, EulerDiscreteScheduler):
            more = {"generator": generator}
        with recorded_noise() as drawn:
            latents = scheduler.step(guided, t, latents, **more).prev_sample
        if kind is EulerAncestralDiscreteScheduler:
            noises.append(drawn[0])
        after.append(latents)
    return scheduler, torch.stack(after), noises


def sampler_reference(out, pipe, embeds, added, names):
    """The conditioning is that of `unet_reference`."""
    start = out.put("sampler.start", normal(7, 1, 4, 8, 8))
    facts = out.facts["samplers"] = {"guidance": GUIDANCE}
    for name in names:
        kind, options, steps = SAMPLERS[name]
        eta = ETA if name == "ddim_eta" else None
        run = (kind, options, steps, pipe.scheduler.config, pipe.unet, embeds, added)
        scheduler, latents, noises = sample(*run, start, eta)
        out.put(f"sampler.{name}.latents", latents)
        if noises:
            out.put(f"sampler.{name}.noise", torch.stack(noises))
        out.put(f"sampler.{name}.timesteps", scheduler.timesteps.to(torch.float32))
        if hasattr(scheduler, "sigmas"):
            out.put(f"sampler.{name}.sigmas", scheduler.sigmas)
        # How much a relative change of 1e-6 of the start grows: a port cannot agree better.
        moved = start * (1 + 1e-6 * normal(8, *start.shape))
        _, again, _ = sample(*run, moved, eta)
        growth = float((again - latents)[-1].norm() / latents[-1].norm() / 1e-6)
        facts[name] = {
            "class": kind.__name__,
            "steps": steps,
            "options": options,
            "eta": eta,
            "init_noise_sigma": float(scheduler.init_noise_sigma),
            "largest_latent": float(latents.abs().max()),
            "error_growth": growth,
            "config": {key: value for key, value in scheduler.config.items() if not key.startswith("_")},
        }


def timestep_facts(config):
    """What every spacing gives for 10 and 50 steps, with the pipeline's betas and offset."""
    facts = {}
    kinds = {
        "ddim": (DDIMScheduler, {}),
        "pndm": (PNDMScheduler, {"skip_prk_steps": True}),
        "pndm_prk": (PNDMScheduler, {"skip_prk_steps": False}),
        "euler": (EulerDiscreteScheduler, {}),
        "dpm": (DPMSolverMultistepScheduler, {}),
        "unipc": (UniPCMultistepScheduler, {}),
    }
    for name, (kind, options) in kinds.items():
        for spacing in ("leading", "trailing", "linspace"):
            for steps in (10, 50):
                scheduler = kind.from_config(config, timestep_spacing=spacing, **options)
                scheduler.set_timesteps(steps)
                facts.setdefault(name, {}).setdefault(spacing, {})[str(steps)] = scheduler.timesteps.tolist()
    return facts


def steps_recorder():
    after = []

    def callback(_pipe, _at, _t, values):
        after.append(values["latents"])
        return values

    return after, callback


def text_to_image_reference(out, pipe, ddim=True):
    if ddim:
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    start = out.put("text2img.start", normal(9, 1, 4, HEIGHT // 8, WIDTH // 8))
    more = {} if ddim else {"original_size": (96, 80), "crops_coords_top_left": (4, 8), "target_size": (HEIGHT, WIDTH)}
    after, callback = steps_recorder()
    negative = {"negative_prompt": ""} if ddim else {}
    image = pipe(
        PROMPT,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=4,
        guidance_scale=GUIDANCE,
        latents=start.clone(),
        output_type="np",
        callback_on_step_end=callback,
        **negative,
        **more,
    ).images
    out.put("text2img.latents", torch.stack(after))
    out.put("text2img.image", torch.from_numpy(image))


def image_to_image_reference(out, pipe):
    image = out.tensors["image"]
    edit = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    after, callback = steps_recorder()
    with recorded_noise() as drawn:
        result = edit(
            PROMPT,
            image=image.clone(),
            strength=0.6,
            num_inference_steps=10,
            guidance_scale=GUIDANCE,
            negative_prompt="",
            generator=torch.Generator().manual_seed(5),
            output_type="latent",
            callback_on_step_end=callback,
        ).images
    # First the noise of the VAE posterior, then that of the first time step.
    posterior, start = drawn[:2]
    out.put("img2img.posterior_noise", posterior)
    out.put("img2img.start_noise", start)
    out.put("img2img.latents", torch.stack(after))
    assert torch.equal(result, after[-1])
    out.facts["img2img"] = {
        "strength": 0.6,
        "steps": 10,
        "steps_run": len(after),
        "timesteps": edit.scheduler.timesteps[-len(after) :].tolist(),
    }


def disc_mask():
    """[1, 1, height, width] zeros and ones, with edges that are not multiples of 8."""
    y, x = torch.meshgrid(torch.arange(float(HEIGHT)), torch.arange(float(WIDTH)), indexing="ij")
    return (((y - 18) ** 2 + (x - 38) ** 2) < 15**2).float()[None, None]


def inpainting_reference(out, pipe, name="inpaint"):
    """The mask is one where the image is to be made anew."""
    image = out.tensors["image"]
    mask = disc_mask()
    if "inpaint.mask" not in out.tensors:
        out.put("inpaint.mask", mask)
        out.put("inpaint.latent_mask", torch.nn.functional.interpolate(mask, (HEIGHT // 8, WIDTH // 8)))
    edit = StableDiffusionInpaintPipeline(**pipe.components, requires_safety_checker=False)
    after, callback = steps_recorder()
    with recorded_noise() as drawn:
        edit(
            PROMPT,
            image=image.clone(),
            mask_image=mask.clone(),
            height=HEIGHT,
            width=WIDTH,
            strength=1.0,
            num_inference_steps=6,
            guidance_scale=GUIDANCE,
            negative_prompt="",
            generator=torch.Generator().manual_seed(6),
            output_type="latent",
            callback_on_step_end=callback,
        )
    # The 4-channel path encodes the image too; the 9-channel path only the masked image.
    draws = ["start_noise", "masked_posterior_noise"]
    if pipe.unet.config.in_channels == 4:
        draws.insert(0, "posterior_noise")
    assert len(drawn) == len(draws)
    for draw, noise in zip(draws, drawn):
        out.put(f"{name}.{draw}", noise)
    out.put(f"{name}.latents", torch.stack(after))
    out.facts[name] = {
        "strength": 1.0,
        "steps": 6,
        "timesteps": edit.scheduler.timesteps.tolist(),
    }


# -------------------------------------------------------------------------- LoRA

UNET_LINEAR = [
    *(f"down_blocks.0.attentions.0.transformer_blocks.0.attn1.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")),
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_q",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_v",
    "up_blocks.1.attentions.2.transformer_blocks.0.ff.net.0.proj",
    "up_blocks.1.attentions.2.transformer_blocks.0.ff.net.2",
]
UNET_CONV = [
    "down_blocks.0.attentions.0.proj_in",  # 1x1
    "down_blocks.1.resnets.0.conv1",  # 3x3
    "down_blocks.0.downsamplers.0.conv",  # 3x3, stride 2
]
TEXT_LINEAR = [
    *(f"encoder.layers.{layer}.self_attn.{name}" for layer in (0, 1) for name in ("q_proj", "v_proj")),
    "encoder.layers.1.mlp.fc1",
]
LORA_SCALE = 0.8


def lora_pair(layer, rank, seed):
    """(down, up) of one layer: down [rank, in, ...], up [out, rank, ...]."""
    weight = layer.weight
    if weight.ndim == 2:
        down, up = (rank, weight.shape[1]), (weight.shape[0], rank)
    else:
        down, up = (rank, *weight.shape[1:]), (weight.shape[0], rank, 1, 1)
    fan_in = weight[0].numel()
    return normal(seed, *down) / fan_in**0.5, normal(seed + 1, *up) / rank**0.5


def merge(layer, down, up, factor):
    """W + factor up down, in f32."""
    delta = up.float().flatten(1) @ down.float().flatten(1)
    layer.weight += factor * delta.view_as(layer.weight)


def put_lora_outputs(out, name, unet, text_encoder):
    embeds = torch.cat([out.tensors["text.embeds_empty"], out.tensors["text.embeds"]])
    # With the embeddings of the text encoder without LoRA, so that the two parts are checked apart.
    out.put(f"{name}.unet_out_t500", unet(out.tensors["unet.sample"], 500, embeds).sample)
    out.put(f"{name}.text_embeds", text_encoder(out.tensors["text.ids"]).last_hidden_state)


def lora_reference(out, pipe, folder):
    out.facts["lora"] = {"scale": LORA_SCALE, "files": ["lora/peft.safetensors", "lora/kohya.safetensors"]}
    (folder / "lora").mkdir()

    # (a) the names of diffusers and PEFT: no alpha, which means alpha = rank.
    unet, text = copy.deepcopy(pipe.unet), copy.deepcopy(pipe.text_encoder)
    stored, seed = {}, 2000
    for part, prefix, names in ((unet, "unet.", UNET_LINEAR), (text, "text_encoder.text_model.", TEXT_LINEAR)):
        for name in names:
            layer, seed = part.get_submodule(name), seed + 2
            down, up = (factor.half() for factor in lora_pair(layer, 4, seed))
            stored[f"{prefix}{name}.lora_A.weight"], stored[f"{prefix}{name}.lora_B.weight"] = down, up
            merge(layer, down, up, LORA_SCALE)
    save_file(stored, folder / "lora" / "peft.safetensors", metadata={"format": "pt"})
    put_lora_outputs(out, "lora_peft", unet, text)
    check_lora_with_diffusers(out, folder, "lora_peft", [stored])

    # (b) the names of kohya-ss, with an alpha a module and convolutions.
    unet, text = copy.deepcopy(pipe.unet), copy.deepcopy(pipe.text_encoder)
    stored, seed = {}, 3000
    for part, prefix, names in (
        (unet, "lora_unet_", UNET_LINEAR + UNET_CONV),
        (text, "lora_te_text_model_", TEXT_LINEAR),
    ):
        for name in names:
            layer, seed = part.get_submodule(name), seed + 2
            rank, alpha = (2, 1.5) if layer.weight.ndim == 4 else (4, 2.0)
            down, up = lora_pair(layer, rank, seed)
            key = prefix + name.replace(".", "_")
            stored[f"{key}.lora_down.weight"], stored[f"{key}.lora_up.weight"] = down, up
            stored[f"{key}.alpha"] = torch.tensor(alpha)
            merge(layer, down, up, LORA_SCALE * alpha / rank)
    save_file(stored, folder / "lora" / "kohya.safetensors", metadata={"format": "pt"})
    put_lora_outputs(out, "lora_kohya", unet, text)
    check_lora_with_diffusers(out, folder, "lora_kohya", kohya_text_as_peft(stored))


def kohya_text_as_peft(stored):
    """diffusers 0.42 loses kohya's text encoder part under transformers 5, so only for the
    check it gets the names of (a), with alpha / rank multiplied in.
    """
    unet = {key: value for key, value in stored.items() if key.startswith("lora_unet_")}
    renamed = {}
    for key, value in stored.items():
        if key.startswith("lora_te_") and key.endswith(".lora_down.weight"):
            base = key.removesuffix(".lora_down.weight")
            name = next(n for n in TEXT_LINEAR if n.replace(".", "_") == base.removeprefix("lora_te_text_model_"))
            factor = stored[f"{base}.alpha"] / value.shape[0]
            renamed[f"text_encoder.text_model.{name}.lora_A.weight"] = value * factor
            renamed[f"text_encoder.text_model.{name}.lora_B.weight"] = stored[f"{base}.lora_up.weight"]
    return [unet, renamed]


def check_lora_with_diffusers(out, folder, name, parts):
    """Our merge agrees with load_lora_weights and fuse_lora."""
    pipe = load(StableDiffusionPipeline, folder)
    for stored in parts:
        pipe.load_lora_weights({key: value.float() for key, value in stored.items()})
        pipe.fuse_lora(lora_scale=LORA_SCALE)
        pipe.unload_lora_weights()
    embeds = torch.cat([out.tensors["text.embeds_empty"], out.tensors["text.embeds"]])
    fused = {
        "unet_out_t500": pipe.unet(out.tensors["unet.sample"], 500, embeds).sample,
        "text_embeds": pipe.text_encoder(out.tensors["text.ids"]).last_hidden_state,
    }
    plain = {"unet_out_t500": out.tensors["unet.out_t500"], "text_embeds": out.tensors["text.embeds"]}
    for part, value in fused.items():
        assert (value - out.tensors[f"{name}.{part}"]).abs().max() < 2e-5, (name, part)
        assert (value - plain[part]).abs().max() > 0.1, (name, part)


def load(kind, folder):
    options = {} if kind is StableDiffusionXLPipeline else {"safety_checker": None, "requires_safety_checker": False}
    pipe = kind.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True, **options)
    pipe.set_progress_bar_config(disable=True)
    for name, model in pipe.components.items():
        if isinstance(model, torch.nn.Module):
            check_loaded(model, folder / name)
    return pipe


def check_loaded(model, folder):
    """Every stored tensor reached the model, whatever its name became on the way."""
    stored = [tensor for path in folder.glob("*.safetensors") for tensor in load_file(path).values()]
    stored = [tensor.float() for tensor in stored if tensor.is_floating_point()]

    def prints(tensors):
        return sorted((tensor.numel(), float(tensor.double().sum())) for tensor in tensors)

    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    assert prints(stored) == prints(model.parameters()), folder


def sd15(out, folder):
    make_sd15(folder)
    pipe = load(StableDiffusionPipeline, folder)
    embeds, added = text_reference(out, pipe)
    unet_reference(out, pipe.unet, embeds, added)
    vae_reference(out, pipe.vae, tiled=True)
    sampler_reference(out, pipe, embeds, added, SAMPLERS)
    out.facts["timesteps"] = timestep_facts(pipe.scheduler.config)
    out.facts["prompts"] = tokenizer_facts(pipe.tokenizer)
    text_to_image_reference(out, pipe)
    image_to_image_reference(out, pipe)
    inpainting_reference(out, pipe)
    lora_reference(out, pipe, folder)
    pipe.unet = UNet2DConditionModel.from_pretrained(folder / "unet_inpainting", torch_dtype=torch.float32)
    inpainting_reference(out, pipe, "inpaint9")


def sd21(out, folder):
    make_sd21(folder)
    pipe = load(StableDiffusionPipeline, folder)
    embeds, added = text_reference(out, pipe)
    unet_reference(out, pipe.unet, embeds, added)
    vae_reference(out, pipe.vae, tiled=False)
    sampler_reference(out, pipe, embeds, added, SAMPLERS)


def sdxl(out, folder):
    make_sdxl(folder)
    pipe = load(StableDiffusionXLPipeline, folder)
    embeds, added = text_reference_sdxl(out, pipe)
    unet_reference(out, pipe.unet, embeds, added)
    vae_reference(out, pipe.vae, tiled=False)
    sampler_reference(out, pipe, embeds, added, ["ddim", "euler", "dpm_karras"])
    text_to_image_reference(out, pipe, ddim=False)


def main(root):
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for make in (sd15, sd21, sdxl):
        folder = root / make.__name__
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        out = Reference()
        with torch.no_grad():
            make(out, folder)
        out.save(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "tiny"))
