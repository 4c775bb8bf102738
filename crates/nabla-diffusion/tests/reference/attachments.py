"""What people attach to a Stable Diffusion, on the tiny models, and what the original code computes with it.

    python attachments.py OUT_DIR [WEBUI_DIR]

makes the files in OUT_DIR (tiny/attachments) from the tiny models beside this script; see tiny/README.md.
WEBUI_DIR is a checkout of AUTOMATIC1111/stable-diffusion-webui, version 1.10.1, whose modules for prompts are
run unchanged; without it, the values for prompts are left as they are. Everything else is from diffusers,
transformers, peft and lycoris-lora. Nothing is read from the network.
"""

import shutil
import sys
import types
from pathlib import Path
from unittest import mock

import diffusers
import numpy as np
import peft
import torch
import transformers
from diffusers import (
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from stable_diffusion import HEIGHT, PROMPT, WIDTH, Reference, load, normal, randomise, write_json
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

TINY = Path(__file__).parent / "tiny"

# ----------------------------------------------------------------------- prompts

LONG = "a photograph of a cat, " * 9 + "(red:1.4) (((house)))"
PROMPTS = [
    "a photo",
    "a (red) house, [blue] sky",
    r"a \(cat\) and (a [dog]:0.7) on (the table",
    LONG,
    "a house (on a hill:1.3) BREAK at night, [the moon]",
    "a cat " * 60,
]


def webui(folder):
    """The modules of the program that deal with prompts, with stubs for all others."""
    sys.path.insert(0, str(folder))
    options = types.SimpleNamespace(emphasis="Original", comma_padding_backtrack=20)
    for name, attributes in {
        "lark": {"Lark": mock.MagicMock()},
        "modules.devices": {"device": "cpu"},
        "modules.shared": {"opts": options},
        "modules.sd_hijack": {},
    }.items():
        sys.modules[name] = types.SimpleNamespace(**attributes, StableDiffusionModelHijack=None)
    package = types.ModuleType("modules")
    package.__path__ = [str(folder / "modules")]
    sys.modules["modules"] = package
    for name in ("devices", "shared", "sd_hijack"):
        setattr(package, name, sys.modules[f"modules.{name}"])
    import modules.sd_hijack_clip as clip

    return clip, options


def webui_encoder(clip, tokenizer, encoder, hidden):
    """The program's encoder of prompts around one of our text encoders."""

    class Encoder(clip.FrozenCLIPEmbedderWithCustomWordsBase):
        def tokenize(self, texts):
            return tokenizer(texts, truncation=False, add_special_tokens=False).input_ids

        def encode_with_transformers(self, tokens):
            out = encoder(input_ids=tokens, output_hidden_states=True)
            z = out.hidden_states[-2] if hidden else out.last_hidden_state
            z.pooled = getattr(out, "text_embeds", torch.zeros(1))
            return z

    hijack = mock.MagicMock()
    hijack.embedding_db.find_embedding_at_position = lambda tokens, position: (None, None)
    made = Encoder(None, hijack)
    made.comma_token = tokenizer.get_vocab().get(",</w>")
    made.id_start, made.id_end = tokenizer.bos_token_id, tokenizer.eos_token_id
    made.id_pad = tokenizer.pad_token_id
    return made


def prompts(out, folder):
    clip, options = webui(folder)
    out.facts["prompts"] = PROMPTS
    for name, kind in (
        ("sd15", StableDiffusionPipeline),
        ("sd21", StableDiffusionPipeline),
        ("sdxl", StableDiffusionXLPipeline),
    ):
        pipe = load(kind, TINY / name)
        xl = name == "sdxl"
        parts = [(pipe.tokenizer, pipe.text_encoder)]
        parts += [(pipe.tokenizer_2, pipe.text_encoder_2)] if xl else []
        encoders = [webui_encoder(clip, *part, hidden=xl) for part in parts]
        for number, prompt in enumerate(PROMPTS):
            for label, emphasis in (("original", "Original"), ("no_norm", "No norm")):
                options.emphasis = emphasis
                states = []
                for encoder in encoders:
                    chunks, _ = encoder.tokenize_line(prompt)
                    zs = [encoder.process_tokens([c.tokens], [c.multipliers]) for c in chunks]
                    states.append(torch.hstack(zs))
                key = f"{name}.{number}.{label}"
                text = torch.cat(states, dim=-1)
                # A token's vector is told by two channels.
                out.put(key, text[..., [0, -1]])
            if xl:
                out.put(f"{name}.{number}.pooled", zs[0].pooled)


# -------------------------------------------------------------------- embeddings


def embeddings(out, folder):
    folder.mkdir(parents=True)
    one, two = 0.5 * normal(40, 16), 0.5 * normal(41, 2, 16)
    save_file({"<cat-toy>": one}, folder / "learned_embeds.safetensors")
    torch.save({"<two-toys>": two}, folder / "learned_embeds.bin")
    webui = {"string_to_token": {"*": 265}, "string_to_param": {"*": two}, "name": "style", "step": 10}
    torch.save(webui, folder / "webui.pt")
    original = {
        "string_to_token": {"*": torch.tensor(265)},
        "string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(two)}),
    }
    torch.save(original, folder / "original.pt")
    save_file({"emb_params": two}, folder / "webui.safetensors")
    save_file(
        {"clip_l": 0.5 * normal(42, 2, 16), "clip_g": 0.5 * normal(43, 2, 16)},
        folder / "xl.safetensors",
    )
    pipe = load(StableDiffusionPipeline, TINY / "sd15")
    pipe.load_textual_inversion(folder / "learned_embeds.safetensors")
    pipe.load_textual_inversion(folder / "webui.pt", token="<style>")
    text = "a <cat-toy> on a table in <style>"
    out.facts["embeddings"] = text
    embeds, _ = pipe.encode_prompt(text, "cpu", 1, False)
    out.put("embeddings.sd15", embeds)
    xl = load(StableDiffusionXLPipeline, TINY / "sdxl")
    tensors = load_file(folder / "xl.safetensors")
    for part, key in (("", "clip_l"), ("_2", "clip_g")):
        encoder, tokenizer = getattr(xl, f"text_encoder{part}"), getattr(xl, f"tokenizer{part}")
        xl.load_textual_inversion({"<xl>": tensors[key]}, text_encoder=encoder, tokenizer=tokenizer)
    # With the published eos_token_id of 2, transformers pools at the largest id, which is the learned word's.
    for module in xl.text_encoder_2.modules():
        if hasattr(module, "eos_token_id"):
            module.eos_token_id = xl.tokenizer_2.eos_token_id
    embeds, _, pooled, _ = xl.encode_prompt("a house in <xl>", device="cpu")
    out.put("embeddings.sdxl", embeds)
    out.put("embeddings.sdxl_pooled", pooled)


# ----------------------------------------------------------------------- lycoris

LINEAR = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"  # 8 x 16
CONV = "down_blocks.1.resnets.0.conv1"  # 8 x 4 x 3 x 3
NORM = "mid_block.resnets.0.norm1"
STRENGTH = 0.7


def drawn(module, seed):
    """Random numbers for every parameter of a change."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(module.named_parameters()):
            if "dora_scale" in name:
                weight.mul_(1.0 + 0.3 * torch.rand(weight.shape, generator=noise))
            else:
                weight.copy_(0.4 * torch.randn(weight.shape, generator=noise))
    return module


def lycoris(out, folder):
    from lycoris.modules.full import FullModule
    from lycoris.modules.ia3 import IA3Module
    from lycoris.modules.locon import LoConModule
    from lycoris.modules.loha import LohaModule
    from lycoris.modules.lokr import LokrModule
    from lycoris.modules.norms import NormModule

    folder.mkdir(parents=True)
    unet = load(StableDiffusionPipeline, TINY / "sd15").unet
    both = {"lora_dim": 2, "alpha": 1.5}
    whole = {"lora_dim": 10000, "alpha": 3.0, "full_matrix": True}
    cases = {
        "loha": (LohaModule, [LINEAR, CONV], both, STRENGTH),
        "loha_tucker": (LohaModule, [CONV], both | {"use_tucker": True}, STRENGTH),
        "lokr": (LokrModule, [LINEAR, CONV], both | {"factor": 2}, STRENGTH),
        "lokr_both": (LokrModule, [LINEAR], both | {"lora_dim": 1, "factor": 4, "decompose_both": True}, STRENGTH),
        "lokr_whole": (LokrModule, [LINEAR, CONV], whole | {"factor": 4}, STRENGTH),
        "lokr_tucker": (LokrModule, [CONV], both | {"lora_dim": 1, "factor": 2, "use_tucker": True}, STRENGTH),
        "locon_tucker": (LoConModule, [CONV], both | {"use_tucker": True}, STRENGTH),
        "full": (FullModule, [LINEAR, CONV], {}, STRENGTH),
        "norm": (NormModule, [NORM], {}, STRENGTH),
        "ia3": (IA3Module, [LINEAR, CONV], {}, STRENGTH),
        "ia3_input": (IA3Module, [LINEAR, CONV], {"train_on_input": True}, STRENGTH),
        # At a strength of 1: see magnitude.rs.
        "dora": (LoConModule, [LINEAR, CONV], both | {"weight_decompose": True}, 1.0),
        "dora_input": (LoConModule, [LINEAR, CONV], both | {"weight_decompose": True, "wd_on_out": False}, 1.0),
        "dora_loha": (LohaModule, [LINEAR, CONV], both | {"weight_decompose": True}, 1.0),
        "dora_lokr": (LokrModule, [LINEAR, CONV], both | {"factor": 2, "weight_decompose": True}, 1.0),
    }
    out.facts["lycoris"] = {}
    for seed, (name, (kind, layers, options, strength)) in enumerate(cases.items()):
        tensors = {}
        out.facts["lycoris"][name] = {"strength": strength, "layers": layers}
        for layer in layers:
            prefix = "lora_unet_" + layer.replace(".", "_")
            module = drawn(kind(prefix, unet.get_submodule(layer), 1.0, **options), 60 + seed)
            stored = module.state_dict()
            if hasattr(module, "custom_state_dict") and module.custom_state_dict() is not None:
                stored = module.custom_state_dict()
            if kind is FullModule:
                stored = {"diff": module.weight - module.org_weight if not module.is_diff else module.weight}
                if module.bias is not None:
                    stored["diff_b"] = module.bias
            tensors |= {f"{prefix}.{key}": value.detach().clone() for key, value in stored.items()}
            if kind in (LohaModule, LokrModule):
                # As it is trained: merging multiplies by the scale twice (findings/lycoris-merges-scale-twice.sh).
                base = unet.get_submodule(layer).weight
                diff = module.get_weight(base.shape)
                weight = module.apply_weight_decompose(base + diff, strength) if module.wd else base + strength * diff
                bias = None
            else:
                weight, bias = module.get_merged_weight(multiplier=strength)
            out.put(f"lycoris.{name}.{layer}.weight", weight)
            if bias is not None:
                out.put(f"lycoris.{name}.{layer}.bias", bias)
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / f"{name}.safetensors")

    # DoRA by PEFT.
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=[LINEAR, CONV], use_dora=True)
    model = peft.get_peft_model(unet, config)
    noise = torch.Generator().manual_seed(90)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_magnitude" in key:
                weight.mul_(1.0 + 0.3 * torch.rand(weight.shape, generator=noise))
            elif "lora_" in key:
                weight.copy_(0.4 * torch.randn(weight.shape, generator=noise))
    stored = peft.get_peft_model_state_dict(model)
    stored = {key.replace("base_model.model.", "unet."): value.contiguous() for key, value in stored.items()}
    for layer in (LINEAR, CONV):
        stored[f"unet.{layer}.alpha"] = torch.tensor(3.0)
    save_file(stored, folder / "dora_peft.safetensors")
    merged = model.merge_and_unload()
    out.facts["lycoris"]["dora_peft"] = {"strength": 1.0, "layers": [LINEAR, CONV]}
    for layer in (LINEAR, CONV):
        out.put(f"lycoris.dora_peft.{layer}.weight", merged.get_submodule(layer).weight)


# ------------------------------------------------------------------- controlnets


def original_name(name):
    """A ControlNet's tensor in the original code, for two blocks a level."""
    parts = name.split(".")
    resnet = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
    rest = lambda start: ".".join(parts[start:])
    match parts[0]:
        case "conv_in":
            return f"input_blocks.0.0.{rest(1)}"
        case "time_embedding":
            return f"time_embed.{0 if parts[1] == 'linear_1' else 2}.{rest(2)}"
        case "controlnet_down_blocks":
            return f"zero_convs.{parts[1]}.0.{rest(2)}"
        case "controlnet_mid_block":
            return f"middle_block_out.0.{rest(1)}"
        case "controlnet_cond_embedding":
            number = {"conv_in": 0, "conv_out": 14}.get(parts[1])
            if number is None:
                return f"input_hint_block.{2 * int(parts[2]) + 2}.{rest(3)}"
            return f"input_hint_block.{number}.{rest(2)}"
        case "mid_block":
            if parts[1] == "attentions":
                return f"middle_block.1.{rest(3)}"
            return f"middle_block.{2 * int(parts[2])}.{resnet[parts[3]]}.{rest(4)}"
    level, kind, number = int(parts[1]), parts[2], int(parts[3])
    block = 1 + 3 * level + number
    match kind:
        case "resnets":
            return f"input_blocks.{block}.0.{resnet[parts[4]]}.{rest(5)}"
        case "attentions":
            return f"input_blocks.{block}.1.{rest(4)}"
        case "downsamplers":
            return f"input_blocks.{3 + 3 * level}.0.op.{rest(5)}"
    raise ValueError(name)


def controls(out, folder):
    for name, kind in (("sd15", StableDiffusionPipeline), ("sdxl", StableDiffusionXLPipeline)):
        pipe = load(kind, TINY / name)
        made = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 4, 6, 8))
        net = randomise(made, 100)
        net.save_pretrained(folder / name, safe_serialization=True)
        net = ControlNetModel.from_pretrained(folder / name)
        reference = Reference()
        reference.tensors = load_file(TINY / name / "reference.safetensors")
        text = torch.cat([
            torch.zeros_like(reference.tensors["text.embeds"]) if name == "sdxl" else reference.tensors["text.embeds_empty"],
            reference.tensors["text.embeds"],
        ])
        added = {}
        if name == "sdxl":
            sizes = torch.tensor([[96.0, 80.0, 4.0, 8.0, 64.0, 128.0]]).repeat(2, 1)
            added = {"text_embeds": reference.tensors["unet.text_embeds"], "time_ids": sizes}
        x = reference.tensors["unet.sample"][:, :, :8]
        # Whole pixels, as a PNG has them.
        picture = torch.rand((1, 3, 64, 128), generator=torch.Generator().manual_seed(101))
        picture = out.put(f"control.{name}.picture", (picture * 255).round() / 255)
        for label, guess in (("plain", False), ("guess", True)):
            down, middle = net(
                x, 500, encoder_hidden_states=text, controlnet_cond=picture.repeat(2, 1, 1, 1),
                conditioning_scale=0.7, guess_mode=guess, added_cond_kwargs=added, return_dict=False,
            )
            predicted = pipe.unet(
                x, 500, text, added_cond_kwargs=added,
                down_block_additional_residuals=down, mid_block_additional_residual=middle,
            ).sample
            out.put(f"control.{name}.{label}", predicted)
    # A whole run, with a network that acts only in the middle of it.
    net = ControlNetModel.from_pretrained(folder / "sd15")
    plain = load(StableDiffusionPipeline, TINY / "sd15")
    pipe = StableDiffusionControlNetPipeline(**plain.components, controlnet=[net, net])
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    start = out.put("control.run.start", normal(102, 1, 4, HEIGHT // 8, WIDTH // 8))
    pictures = [torch.rand((1, 3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(s)) for s in (103, 104)]
    for number, picture in enumerate(pictures):
        out.put(f"control.run.picture_{number}", picture)
    common = {
        "prompt": PROMPT,
        "image": pictures,
        "height": HEIGHT,
        "width": WIDTH,
        "latents": start,
        "num_inference_steps": 6,
        "output_type": "latent",
        "controlnet_conditioning_scale": [0.8, 0.5],
        "control_guidance_start": [0.2, 0.0],
        "control_guidance_end": [0.7, 1.0],
    }
    out.put("control.run.latents", pipe(**common).images)
    out.put("control.run.guessed", pipe(**common, guess_mode=True).images)
    # The names of the original code.
    weights = load_file(folder / "sd15" / "diffusion_pytorch_model.safetensors")
    renamed = {f"control_model.{original_name(name)}": weight for name, weight in weights.items()}
    assert len(renamed) == len(weights)
    path = folder / "original.safetensors"
    save_file(renamed, path)
    back = ControlNetModel.from_single_file(str(path), config=str(folder / "sd15")).state_dict()
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in weights)
    path.unlink()
    write_json(folder / "original_names.json", {name: original_name(name) for name in sorted(weights)})


# -------------------------------------------------------------------- ip-adapter


def projections(unet, seed, width):
    """`ip_adapter.…` for every attention to the text, in the order of the processors."""
    found, number = {}, 1
    for name in unet.attn_processors:
        if not name.endswith("attn2.processor"):
            continue
        layer = unet.get_submodule(name.removesuffix(".processor"))
        for part, shift in (("to_k_ip", 0), ("to_v_ip", 1)):
            shape = (layer.to_k.out_features, width)
            found[f"ip_adapter.{number}.{part}.weight"] = normal(seed + number + shift, *shape) / width**0.5
        number += 2
    return found


def resampler(seed, states, width, inner, output):
    """`image_proj.…` of the plus form."""
    shapes = {
        "latents": (1, 3, width),
        "proj_in.weight": (width, states),
        "proj_in.bias": (width,),
        "proj_out.weight": (output, width),
        "proj_out.bias": (output,),
        "norm_out.weight": (output,),
        "norm_out.bias": (output,),
    }
    for layer in range(4):
        shapes |= {
            f"layers.{layer}.0.norm1.weight": (width,),
            f"layers.{layer}.0.norm1.bias": (width,),
            f"layers.{layer}.0.norm2.weight": (width,),
            f"layers.{layer}.0.norm2.bias": (width,),
            f"layers.{layer}.0.to_q.weight": (inner, width),
            f"layers.{layer}.0.to_kv.weight": (2 * inner, width),
            f"layers.{layer}.0.to_out.weight": (width, inner),
            f"layers.{layer}.1.0.weight": (width,),
            f"layers.{layer}.1.0.bias": (width,),
            f"layers.{layer}.1.1.weight": (4 * width, width),
            f"layers.{layer}.1.3.weight": (width, 4 * width),
        }
    made = {}
    for number, (name, shape) in enumerate(shapes.items()):
        value = normal(seed + number, *shape)
        if len(shape) == 1:
            value = 0.2 * value + (1.0 if "norm" in name or ".1.0." in name and "weight" in name else 0.0)
        else:
            value = value / shape[-1] ** 0.5
        made[f"image_proj.{name}"] = value
    return made


def ip_adapters(out, folder):
    encoder = folder / "image_encoder"
    encoder.mkdir(parents=True)
    config = CLIPVisionConfig(
        hidden_size=12, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        image_size=28, patch_size=14, projection_dim=10, hidden_act="gelu",
    )
    vision = randomise(CLIPVisionModelWithProjection(config), 120)
    vision.save_pretrained(encoder, safe_serialization=True)
    vision = CLIPVisionModelWithProjection.from_pretrained(encoder)
    CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28).save_pretrained(folder / "feature_extractor")
    picture = out.put("ip.picture", torch.rand((1, 3, 28, 28), generator=torch.Generator().manual_seed(121)))
    processor = CLIPImageProcessor()
    mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in (processor.image_mean, processor.image_std))
    pixels = (picture - mean) / deviation
    seen = vision(pixels, output_hidden_states=True)
    out.put("ip.embedding", seen.image_embeds)
    out.put("ip.penultimate", seen.hidden_states[-2])
    unseen = vision(torch.zeros_like(pixels), output_hidden_states=True)
    text_width = 16
    files = {
        "plain": {
            "image_proj.proj.weight": normal(130, 4 * text_width, 10) / 10**0.5,
            "image_proj.proj.bias": 0.1 * normal(131, 4 * text_width),
            "image_proj.norm.weight": 1 + 0.2 * normal(132, text_width),
            "image_proj.norm.bias": 0.1 * normal(133, text_width),
        },
        "plus": resampler(140, 12, 16, 128, text_width),
    }
    tensors = load_file(TINY / "sd15" / "reference.safetensors")
    text = torch.cat([tensors["text.embeds_empty"], tensors["text.embeds"]])
    for seed, (name, projection) in enumerate(files.items()):
        pipe = load(StableDiffusionPipeline, TINY / "sd15")
        stored = projection | projections(pipe.unet, 200 + 100 * seed, text_width)
        path = folder / f"{name}.safetensors"
        save_file({key: value.contiguous() for key, value in stored.items()}, path)
        pipe.load_ip_adapter(str(folder), subfolder="", weight_name=path.name, image_encoder_folder=None, low_cpu_mem_usage=False)
        pipe.set_ip_adapter_scale(0.6)
        if name == "plain":
            embeds = torch.stack([torch.zeros_like(seen.image_embeds), seen.image_embeds])
        else:
            embeds = torch.stack([unseen.hidden_states[-2], seen.hidden_states[-2]])
        predicted = pipe.unet(
            tensors["unet.sample"], 500, text, added_cond_kwargs={"image_embeds": [embeds]}
        ).sample
        out.put(f"ip.{name}", predicted)
        plain = tensors["unet.out_t500"]
        assert (predicted - plain).abs().max() > 0.05
    shutil.rmtree(folder / "feature_extractor")


# ------------------------------------------------------------------------- taesd


def taesd(out, folder):
    made = AutoencoderTiny(
        encoder_block_out_channels=(4, 4, 4, 4), decoder_block_out_channels=(6, 6, 6, 6),
        num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(2, 1, 2, 1),
    )
    made = randomise(made, 150)
    made.save_pretrained(folder, safe_serialization=True)
    made = AutoencoderTiny.from_pretrained(folder)
    latent = out.put("taesd.latent", 2 * normal(151, 2, 4, 5, 8))
    out.put("taesd.picture", made.decode(latent).sample)


def main(root, checkout):
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    out = Reference()
    with torch.no_grad():
        for name, make in {
            "embeddings": embeddings, "lycoris": lycoris, "control": controls, "ip": ip_adapters, "taesd": taesd,
        }.items():
            shutil.rmtree(root / name, ignore_errors=True)
            make(out, root / name)
        out.save(root)
        if checkout:
            texts = Reference()
            prompts(texts, checkout)
            (root / "prompts").mkdir(exist_ok=True)
            texts.save(root / "prompts")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
