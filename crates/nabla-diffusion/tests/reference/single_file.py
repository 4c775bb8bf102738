"""The names of single-file checkpoints, SDXL LoRAs in these names, and the ids of CLIP's own vocabulary.

    pip install torch diffusers transformers accelerate safetensors peft regex ftfy open_clip_torch
    python single_file.py SCRIPTS BPE

* SCRIPTS: a folder with two scripts of the diffusers repository (folder `scripts`, Apache 2.0), which turn
  folders into single files: convert_diffusers_to_original_stable_diffusion.py and
  convert_diffusers_to_original_sdxl.py, both as of commit 58eb52c0;
* BPE: bpe_simple_vocab_16e6.txt.gz, which open_clip's tokenizer has too.

From the folders of tiny/ (see stable_diffusion.py) it writes

* tiny/single_file_names.json: of sd15, sd21 and sdxl what a single file calls the tensors, as rules: of all
  rules whose left side a name begins with, the longest says what to put instead of it. `[2]` behind a name
  is the last third of its rows, `^T` its transpose.
* tiny/sdxl/lora/original.safetensors: a LoRA with Kohya's names, as its scripts write for SDXL, and
  tiny/sdxl/lora/reference.safetensors: what UNet and text encoders then give (f32); and without it, the
  text with clip_skip=1.
* clip_tokenizer/published.json: ids by transformers' CLIPTokenizer with the published settings of SD 1.x
  and of SD 2.x, and where they agree with them (`"openai": true`), by open_clip's SimpleTokenizer.

The rules are checked: a file made by them is loaded by diffusers' from_single_file, which has the inverse
conversion, and every tensor is then that of the folder. (One thing the script for SDXL leaves as
transformers has it and the published file has transposed: the projection of the pooled text.)
"""

import copy
import gzip
import importlib.util
import json
import sys
import tempfile
from pathlib import Path

import stable_diffusion as made
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

HERE = Path(__file__).parent
TINY = HERE / "tiny"


def script(folder, name):
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def part(folder, name):
    """The tensors of a part, in today's names of diffusers."""
    tensors = {}
    for path in (TINY / folder / name).glob("*.safetensors"):
        tensors |= load_file(path)
    old = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    renamed = {}
    for key, value in tensors.items():
        for before, after in old.items():
            if name == "vae" and ".attentions.0." in key:
                key = key.replace(f".{before}.", f".{after}.")
        renamed[key] = value
    renamed.pop("text_model.embeddings.position_ids", None)
    return renamed


def numbered(tensors):
    """Of each tensor one whose numbers say which it is, in whose rows its parts can be found."""
    return {name: torch.full((3, 1), float(at)) for at, name in enumerate(tensors)}


def pairs(ours, theirs, prefix):
    """Our names and theirs, of tensors that have been converted."""
    names = list(ours)
    found = {}
    for name, value in theirs.items():
        rows = value.flatten()[::3].tolist()
        if len(rows) == 1:
            found[names[int(rows[0])]] = prefix + name
        else:
            found |= {names[int(row)]: f"{prefix}{name}[{at}]" for at, row in enumerate(rows)}
    assert set(found) == set(names)
    return found


def rules(found):
    """The common ends of both names left out."""
    short = {}
    for ours, theirs in found.items():
        left, right = ours.split("."), theirs.split(".")
        while len(left) > 1 and len(right) > 1 and left[-1] == right[-1]:
            left.pop(), right.pop()
        short[".".join(left)] = ".".join(right)
    # Rules that a shorter one makes needless go.
    for ours in sorted(short, key=len, reverse=True):
        rest = {k: v for k, v in short.items() if k != ours}
        if all(apply(rest, name) == theirs for name, theirs in found.items()):
            short = rest
    assert all(apply(short, name) == theirs for name, theirs in found.items())
    return short


def apply(short, name):
    starts = [left for left in short if name == left or name.startswith(left + ".")]
    if not starts:
        return name
    left = max(starts, key=len)
    return short[left] + name[len(left) :]


def convert(sd, xl, folder):
    """The names of each part, behind the part's own."""
    found = {}

    def add(name, tensors, conversion, prefix):
        ours = numbered(tensors)
        found.update({f"{name}.{k}": v for k, v in pairs(ours, conversion(ours), prefix).items()})

    scripts = xl if folder == "sdxl" else sd
    # The script for SD 1.x and 2.x has the VAE's first names.
    first = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def vae(tensors):
        if folder == "sdxl":
            return scripts.convert_vae_state_dict(tensors)
        named = {}
        for key, value in tensors.items():
            for after, before in first.items():
                if ".attentions.0." in key:
                    key = key.replace(f".{after}.", f".{before}.")
            named[key] = value
        return scripts.convert_vae_state_dict(named)

    add("unet", part(folder, "unet"), scripts.convert_unet_state_dict, "model.diffusion_model.")
    add("vae", part(folder, "vae"), vae, "first_stage_model.")
    text = part(folder, "text_encoder")
    if folder == "sd15":
        add("text_encoder", text, lambda t: t, "cond_stage_model.transformer.")
    if folder == "sd21":

        def open_clip(tensors):
            return sd.convert_text_enc_state_dict_v20({f"transformer.{k}": v for k, v in tensors.items()})

        add("text_encoder", text, open_clip, "cond_stage_model.model.")
    if folder == "sdxl":
        add("text_encoder", text, lambda t: t, "conditioner.embedders.0.transformer.")
        text = part(folder, "text_encoder_2")
        add("text_encoder_2", text, xl.convert_openclip_text_enc_state_dict, "conditioner.embedders.1.model.")
        name = "text_encoder_2.text_projection.weight"
        assert found[name] == "conditioner.embedders.1.model.text_projection.weight"
        found[name] = "conditioner.embedders.1.model.text_projection^T"
    return found


def single_file(folder, found):
    """The tensors of a folder in these names."""
    stored, thirds = {}, {}
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if not (TINY / folder / name).is_dir():
            continue
        for key, value in part(folder, name).items():
            theirs = found[f"{name}.{key}"]
            if theirs.endswith("^T"):
                stored[theirs.removesuffix("^T")] = value.T.contiguous()
            elif theirs.endswith("]"):
                thirds.setdefault(theirs[:-3], [None] * 3)[int(theirs[-2])] = value
            else:
                stored[theirs] = value
    return stored | {name: torch.cat(parts) for name, parts in thirds.items()}


def check_with_diffusers(folder, found):
    """diffusers' own conversion of the file gives the folder again."""
    kind = StableDiffusionXLPipeline if folder == "sdxl" else StableDiffusionPipeline
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "tiny.safetensors"
        save_file(single_file(folder, found), path)
        pipe = kind.from_single_file(str(path), config=str(TINY / folder), local_files_only=True)
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        module = getattr(pipe, name, None)
        if module is None:
            continue
        loaded = module.state_dict()
        if name == "text_encoder_2":
            # Of two encoders from_single_file tells one by its width, and these have the same.
            stored = single_file(folder, found)
            loaded = convert_open_clip_checkpoint(module, stored, "conditioner.embedders.1.model.")
        for key, value in part(folder, name).items():
            # transformers 5 leaves the outermost name out.
            there = loaded.get(key, loaded.get(key.removeprefix("text_model.")))
            assert torch.equal(there.float(), value.float()), (folder, name, key)


# ------------------------------------------------------------------------ LoRA

UNET = [
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k",
    "down_blocks.2.attentions.1.transformer_blocks.1.attn2.to_out.0",
    "mid_block.attentions.0.transformer_blocks.1.ff.net.0.proj",
    "up_blocks.0.attentions.2.proj_in",
    "up_blocks.1.attentions.0.transformer_blocks.0.ff.net.2",
    "down_blocks.1.resnets.0.conv1",
    "up_blocks.2.resnets.1.conv_shortcut",
    "down_blocks.0.downsamplers.0.conv",
    "up_blocks.1.upsamplers.0.conv",
]
TEXT = ["encoder.layers.0.self_attn.q_proj", "encoder.layers.1.mlp.fc1"]
SCALE = 0.8


def lora_reference(found):
    pipe = made.load(StableDiffusionXLPipeline, TINY / "sdxl")
    merged = {name: copy.deepcopy(getattr(pipe, name)) for name in ("unet", "text_encoder", "text_encoder_2")}
    stored, seed = {}, 5000
    for part, layers in (("unet", UNET), ("text_encoder", TEXT), ("text_encoder_2", TEXT)):
        for layer in layers:
            network = merged[part]
            module, seed = getattr(network, "text_model", network).get_submodule(layer), seed + 2
            rank, alpha = 2, 1.5
            down, up = made.lora_pair(module, rank, seed)
            if part == "unet":
                name = found[f"unet.{layer}.weight"].removeprefix("model.diffusion_model.").removesuffix(".weight")
                key = f"lora_unet_{name.replace('.', '_')}"
            else:
                number = {"text_encoder": 1, "text_encoder_2": 2}[part]
                key = f"lora_te{number}_text_model_{layer.replace('.', '_')}"
            stored[f"{key}.lora_down.weight"], stored[f"{key}.lora_up.weight"] = down, up
            stored[f"{key}.alpha"] = torch.tensor(alpha)
            made.merge(module, down, up, SCALE * alpha / rank)
    folder = TINY / "sdxl" / "lora"
    folder.mkdir(exist_ok=True)
    save_file(stored, folder / "original.safetensors", metadata={"format": "pt"})

    known = load_file(TINY / "sdxl" / "reference.safetensors")
    ids = {"text_encoder": known["text.ids"], "text_encoder_2": known["text.ids_2"]}

    def outputs(networks):
        text = known["text.embeds"]
        added = {"text_embeds": known["text.pooled"], "time_ids": torch.tensor([[96.0, 80, 4, 8, 64, 64]])}
        sample = known["unet.sample"][:1]
        values = {"unet": networks["unet"](sample, 500, text, added_cond_kwargs=added).sample}
        for name, tokens in ids.items():
            states = networks[name](tokens, output_hidden_states=True)
            values[name] = states.hidden_states[-2][:, :8]
        return {name: value.contiguous() for name, value in values.items()}

    expected = outputs(merged)
    plain = outputs({name: getattr(pipe, name) for name in merged})
    skipped = pipe.encode_prompt(made.PROMPT, do_classifier_free_guidance=False, clip_skip=1)[0]
    # diffusers 0.42 loses Kohya's text encoders under transformers 5: there the merge above is the reference.
    pipe.load_lora_weights({k: v.clone() for k, v in stored.items() if k.startswith("lora_unet_")})
    pipe.fuse_lora(components=["unet"], lora_scale=SCALE)
    fused = outputs({name: getattr(pipe, name) for name in merged})
    assert (fused["unet"] - expected["unet"]).abs().max() < 2e-5
    for name, value in expected.items():
        assert (value - plain[name]).abs().max() > 0.05, name
    time_ids = torch.tensor([[96.0, 80, 4, 8, 64, 64]])
    expected |= {"time_ids": time_ids, "clip_skip_1": skipped[:, :8].contiguous()}
    save_file(expected, folder / "reference.safetensors")


# ------------------------------------------------------------------- vocabulary

MORE = [
    "a cat",
    "masterpiece, best quality, 1girl, solo, looking at viewer, detailed background",
    "portrait of an old fisherman, oil on canvas, by Rembrandt van Rijn",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "Kyoto in autumn \U0001f341, cinematic lighting --ar 16:9",
]


def vocabulary(bpe):
    """vocab.json and merges.txt of the published tokenizer."""
    merges = gzip.open(bpe).read().decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    letters = list(made.byte_alphabet().values())
    tokens = letters + [letter + "</w>" for letter in letters]
    tokens += ["".join(merge.split()) for merge in merges] + ["<|startoftext|>", "<|endoftext|>"]
    return {token: at for at, token in enumerate(tokens)}, merges


def published_ids(bpe):
    # The package itself needs torchvision, its tokenizer does not.
    place = Path(importlib.util.find_spec("open_clip").origin).parent
    openai = script(place, "tokenizer").SimpleTokenizer(bpe_path=str(bpe))
    vocab, merges = vocabulary(bpe)
    # open_clip calls the two marks otherwise.
    assert len(vocab) == 49408 and list(vocab)[:-2] == list(openai.encoder)[:-2]
    prompts = made.PROMPTS + MORE
    rows = [{"prompt": prompt} for prompt in prompts]
    for name, pad in (("sd1", "<|endoftext|>"), ("sd2", "!")):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            made.write_tokenizer(folder, pad)
            (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
            (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
            tokenizer = CLIPTokenizer.from_pretrained(folder)
        for row in rows:
            row[name] = tokenizer(row["prompt"], truncation=True, max_length=77).input_ids
    for row in rows:
        same = openai.encode(row["prompt"])[:75] == row["sd1"][1:-1]
        row["openai"] = same
        if row["sd2"] == row["sd1"]:
            row.pop("sd2")
    assert sum(row["openai"] for row in rows) >= 35, sum(row["openai"] for row in rows)
    text = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (HERE / "clip_tokenizer" / "published.json").write_text(f"[\n{text}\n]\n", encoding="utf-8")
    print([row["prompt"] for row in rows if not row["openai"]])


def main(scripts, bpe):
    torch.set_num_threads(1)
    sd = script(scripts, "convert_diffusers_to_original_stable_diffusion")
    xl = script(scripts, "convert_diffusers_to_original_sdxl")
    # The numbers that stand for tensors are not to be reshaped.
    sd.reshape_weight_for_sd = xl.reshape_weight_for_sd = lambda weight: weight
    names = {}
    for folder in ("sd15", "sd21", "sdxl"):
        found = convert(sd, xl, folder)
        check_with_diffusers(folder, found)
        names[folder] = rules(found)
        if folder == "sdxl":
            with torch.no_grad():
                lora_reference(found)
    (TINY / "single_file_names.json").write_text(json.dumps(names, indent=0) + "\n")
    published_ids(bpe)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
