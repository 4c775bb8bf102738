"""A tiny random StableSR, and what the official code computes with it.

    python stable_sr.py STABLESR_DIR OUT_DIR

STABLESR_DIR is a checkout of github.com/IceClear/StableSR, whose modules are
imported from there (none of its code is here). What they import besides and
this does not need (pytorch_lightning, torchvision, taming, most of basicsr,
xformers ...) is replaced by empty stubs. Needed beside torch: einops,
omegaconf, numpy, PIL, safetensors, diffusers, and open_clip_torch for the text encoder
(its transformer only; `pip install --no-deps` will do).

The official classes run as they are. Only sizes that they hard-code are made
smaller: 32 groups of a norm, the 128 channels within SPADE, and the growth of
32 channels in the RRDB blocks.

In OUT_DIR lie a model folder as a user would have it,

* stablesr_tiny.safetensors: the model, by the published names,
* vqgan_cfw_tiny.ckpt: the autoencoder with feature wrapping, by torch.save,
* config.json: the sizes,

and reference.safetensors with the inputs and outputs of every stage (README.md
says which). All weights are rounded to f16 before they are used. In names.json
are the names that diffusers gives to tensors of a Stable Diffusion 1.x UNet, its
autoencoder, and a text encoder of OpenCLIP, with those of the original code.
"""

import contextlib
import functools
import importlib.abc
import importlib.machinery
import io
import json
import math
import re
import sys
import types
from pathlib import Path
from unittest import mock

import torch
from diffusers import AutoencoderKL as DiffusersAutoencoder  # noqa: F401, before the stubs
from diffusers.loaders import single_file_utils
from safetensors.torch import save_file

GROUPS, SPADE_CHANNELS, GROWTH = 2, 4, 1

# --------------------------------------------------------------------- the official modules


class Stub(types.ModuleType):
    """A module of which every name exists."""

    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return mock.MagicMock()


class StubFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds stubs for what is asked for below some packages and is not there."""

    PACKAGES = {
        "basicsr", "clip", "cv2", "distutils", "kornia", "matplotlib", "open_clip", "pytorch_lightning",
        "scipy", "sklearn", "taming", "torchvision", "tqdm", "transformers",
    }

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.PACKAGES:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return Stub(spec.name)

    def exec_module(self, module):
        if module.__name__ == "pytorch_lightning":
            module.LightningModule = torch.nn.Module


def package(name, folder):
    """A package whose own __init__ is not run."""
    module = types.ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module


official = Path(sys.argv[1])
open_clip = importlib.machinery.PathFinder.find_spec("open_clip")
package("open_clip", open_clip.submodule_search_locations[0])
sys.modules["torchvision"] = Stub("torchvision")
sys.modules["torchvision.ops"] = Stub("torchvision.ops")
sys.modules["torchvision.ops.misc"] = Stub("torchvision.ops.misc")
from open_clip.transformer import TextTransformer  # noqa: E402

del sys.modules["open_clip"]
sys.path.insert(0, str(official))
# Before the real ones: nothing of the training is needed, however much of it is installed.
sys.meta_path.insert(0, StubFinder())
sys.modules["xformers"] = None  # the plain attention
package("basicsr", official / "basicsr")
package("basicsr.archs", official / "basicsr" / "archs")
for real in ["rrdbnet_arch", "arch_util"]:
    name = f"basicsr.archs.{real}"
    spec = importlib.machinery.PathFinder.find_spec(name, [str(official / "basicsr" / "archs")])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if real == "rrdbnet_arch":
        continue
    spec.loader.exec_module(module)
module = sys.modules["basicsr.archs.rrdbnet_arch"]
module.__spec__.loader.exec_module(module)

from ldm.modules.diffusionmodules import util  # noqa: E402

util.normalization = lambda channels, _=None: util.GroupNorm32(GROUPS, channels)
from ldm.modules import attention, spade  # noqa: E402
from ldm.modules.diffusionmodules import model as autoencoder_modules  # noqa: E402
from ldm.modules.diffusionmodules import openaimodel  # noqa: E402


def normalize(channels, num_groups=GROUPS):
    return torch.nn.GroupNorm(GROUPS, channels, eps=1e-6, affine=True)


attention.Normalize = normalize
autoencoder_modules.Normalize = normalize
autoencoder_modules.Fuse_sft_block_RRDB = functools.partial(
    autoencoder_modules.Fuse_sft_block_RRDB, num_grow_ch=GROWTH
)
from ldm.models.autoencoder import AutoencoderKL, AutoencoderKLResi  # noqa: E402
from ldm.models.diffusion.ddpm import LatentDiffusionSRTextWT  # noqa: E402

# --------------------------------------------------------------------- sizes

UNET = dict(
    image_size=32, in_channels=4, model_channels=4, out_channels=4, num_res_blocks=2,
    attention_resolutions=[1], channel_mult=[1, 2], num_head_channels=2,
    use_spatial_transformer=True, use_linear_in_transformer=True, transformer_depth=1,
    context_dim=8, use_checkpoint=False, legacy=False, semb_channels=4,
)
STRUCTURE = dict(
    image_size=96, in_channels=4, model_channels=4, out_channels=4, num_res_blocks=2,
    attention_resolutions=[1], dropout=0, channel_mult=[1, 2], num_heads=2,
)
AUTOENCODER = dict(
    double_z=True, z_channels=4, resolution=32, in_channels=3, out_ch=3, ch=4,
    ch_mult=[1, 1, 1, 2], num_res_blocks=1, attn_resolutions=[], dropout=0.0,
)
TEXT = dict(context_length=77, vocab_size=12, width=8, heads=2, layers=3, output_dim=8)
TILE, TILE_OVERLAP = 8, 4

# What config.json of a StableSR folder says: the same, by the names of diffusers and transformers.
CONFIG = {
    "unet": {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [4, 8],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 2,
        "attention_head_dim": [2, 4],
        "cross_attention_dim": 8,
        "use_linear_projection": True,
        "norm_num_groups": GROUPS,
    },
    "text_encoder": {
        "vocab_size": 12,
        "hidden_size": 8,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
        "hidden_act": "gelu",
    },
    "vae": {
        "block_out_channels": [4, 4, 4, 8],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 1,
        "norm_num_groups": GROUPS,
        "sample_size": 32,
        "scaling_factor": 0.18215,
    },
    "structure_encoder": {
        "in_channels": 4,
        "model_channels": 4,
        "out_channels": 4,
        "channel_mult": [1, 2],
        "num_res_blocks": 2,
        "attention_resolutions": [1],
        "num_heads": 2,
        "norm_num_groups": GROUPS,
    },
    "feature_transform_channels": SPADE_CHANNELS,
    "feature_wrapping": {"blocks": 2, "growth": GROWTH},
    "tile": TILE,
    "tile_overlap": TILE_OVERLAP,
}


def randomize(module, generator):
    """Weights that keep the size of what passes through, in f16, with every zero replaced."""
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() >= 2:
                fan = parameter[0].numel()
                value = noise / math.sqrt(fan) * 1.2
            elif name.endswith("weight"):
                value = 1 + 0.2 * noise
            else:
                value = 0.2 * noise
            parameter.copy_(value.half().float())
    return module.eval()


def names(text):
    """What diffusers calls what the original code calls so, by diffusers' own conversion."""
    with torch.device("meta"), contextlib.redirect_stdout(io.StringIO()):
        unet = openaimodel.UNetModel(
            image_size=32, in_channels=4, model_channels=320, out_channels=4, num_res_blocks=2,
            attention_resolutions=[4, 2, 1], channel_mult=[1, 2, 4, 4], num_heads=8,
            use_spatial_transformer=True, transformer_depth=1, context_dim=768, legacy=False,
        )
        sizes = dict(
            double_z=True, z_channels=4, resolution=256, in_channels=3, out_ch=3, ch=128,
            ch_mult=[1, 2, 4, 4], num_res_blocks=2, attn_resolutions=[], dropout=0.0,
        )
        vae = AutoencoderKL(
            ddconfig=sizes, lossconfig={"target": "torch.nn.Identity"}, embed_dim=4
        )
    theirs = []

    def numbered(prefix, module):
        """Each tensor filled with its place among the names."""
        tensors = {}
        for name, tensor in module.state_dict().items():
            tensors[prefix + name] = torch.full([3] + [1] * (tensor.dim() - 1), len(theirs))
            theirs.append(prefix + name)
        return tensors

    unet_config = {"layers_per_block": 2}
    vae_config = {"down_block_types": [""] * 4, "up_block_types": [""] * 4}
    text_model = types.SimpleNamespace(config=types.SimpleNamespace(hidden_size=1))
    convert = single_file_utils
    open_clip_tensors = numbered("cond_stage_model.model.", text)
    # Its size would be taken for that of a third of the projections.
    del open_clip_tensors["cond_stage_model.model.text_projection"]
    parts = {
        "unet": convert.convert_ldm_unet_checkpoint(
            numbered("model.diffusion_model.", unet), unet_config
        ),
        "vae": convert.convert_ldm_vae_checkpoint(numbered("first_stage_model.", vae), vae_config),
        "text_encoder": convert.convert_open_clip_checkpoint(text_model, open_clip_tensors),
    }
    # Not all: of each block one, of the middle and of what stands alone every kind.
    kept = re.compile(
        r"(_blocks.*(conv1|proj_in|conv|conv_shortcut)"
        r"|mid_block.*0\.(?!transformer_blocks)[^.]*|mid_block.*to_(q|out\.0)"
        r"|layers\.1\..*|^[^.]*|^[^.]*\.(?!down|up)[^.]*|^text_model\.[^.]*\.[^.]*)\.weight$"
    )
    return {
        part: {
            ours: theirs[int(tensor.flatten()[0])].split(".", 2 if part != "vae" else 1)[-1]
            for ours, tensor in sorted(tensors.items())
            if kept.search(ours)
        }
        for part, tensors in parts.items()
    }


def main():
    out = Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(2305)
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()):
        unet = openaimodel.UNetModelDualcondV2(**UNET)
        structure = openaimodel.EncoderUNetModelWT(**STRUCTURE)
        loss = {"target": "torch.nn.Identity"}
        vae = AutoencoderKL(ddconfig=AUTOENCODER, lossconfig=loss, embed_dim=4)
        cfw = AutoencoderKLResi(ddconfig=AUTOENCODER, lossconfig=loss, embed_dim=4)
    for module in unet.modules():
        if isinstance(module, spade.SPADE):
            features = module.mlp_shared[0].in_channels
            channels = module.mlp_gamma.out_channels
            conv = functools.partial(torch.nn.Conv2d, kernel_size=3, padding=1)
            module.mlp_shared[0] = conv(features, SPADE_CHANNELS)
            module.mlp_gamma = conv(SPADE_CHANNELS, channels)
            module.mlp_beta = conv(SPADE_CHANNELS, channels)
    text = TextTransformer(**TEXT)
    for module in [unet, structure, vae, cfw, text]:
        randomize(module, generator)

    # The checkpoint, with what the published one holds besides.
    tensors = {}
    for prefix, module in [
        ("model.diffusion_model.", unet),
        ("structcond_stage_model.", structure),
        ("first_stage_model.", vae),
        ("cond_stage_model.model.", text),
    ]:
        for name, tensor in module.state_dict().items():
            tensors[prefix + name] = tensor.half().contiguous()
    betas = torch.linspace(0.00085**0.5, 0.0120**0.5, 1000, dtype=torch.float64)[:2] ** 2
    tensors["betas"] = betas.float()
    tensors["alphas_cumprod"] = torch.cumprod(1 - betas, 0).float()
    tensors["scale_factor"] = torch.tensor(0.18215)
    tensors["cond_stage_model.model.logit_scale"] = torch.tensor(4.6)
    tensors["model_ema.decay"] = torch.tensor(0.9999)
    tensors["model_ema.num_updates"] = torch.tensor(3, dtype=torch.int32)
    save_file(tensors, out / "stablesr_tiny.safetensors")
    state = {name: tensor.half() for name, tensor in cfw.state_dict().items()}
    state["loss.logvar"] = torch.zeros(())
    checkpoint = {
        "epoch": 11,
        "global_step": 117,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": state,
        "optimizer_states": [{"state": {0: {"step": 1, "exp_avg": torch.zeros(2)}}}],
        "lr_schedulers": [],
    }
    torch.save(checkpoint, out / "vqgan_cfw_tiny.ckpt")
    pairs = json.dumps(names(text), indent=0)
    (out / "names.json").write_text(pairs + "\n")
    (out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")

    reference = {}
    noise = functools.partial(torch.randn, generator=generator)
    with torch.no_grad():
        # The empty prompt as open_clip.tokenize gives it: start, end, zeros.
        ids = torch.zeros(1, 77, dtype=torch.long)
        ids[0, :2] = torch.tensor([TEXT["vocab_size"] - 2, TEXT["vocab_size"] - 1])
        h = text.token_embedding(ids) + text.positional_embedding
        for block in text.transformer.resblocks[:-1]:  # "penultimate"
            h = block(h, attn_mask=text.attn_mask)
        context = text.ln_final(h)
        reference["text"] = context

        latent, sample = noise(2, 4, 6, 8), noise(2, 4, 6, 8)
        reference |= {"latent": latent, "sample": sample}
        for t in [1, 500, 999]:
            time = torch.full((2,), t)
            features = structure(latent, time)
            for level, key in enumerate(features):
                reference[f"features_t{t}.{level}"] = features[key]
            both = context.repeat(2, 1, 1)
            reference[f"prediction_t{t}"] = unet(sample, time, both, struct_cond=features)

        # The prediction in tiles: the mean that the official loop returns is what stands for x_0 here.
        wide_latent, wide = noise(1, 4, 10, 14), noise(1, 4, 10, 14)
        whole = types.SimpleNamespace(
            parameterization="eps",
            structcond_stage_model=structure,
            apply_model=lambda x, t, c, struct, **_: unet(x, t, c, struct_cond=struct),
            predict_start_from_noise=lambda x, t, noise: noise,
            q_posterior=lambda x_start, **_: (x_start, None, None),
            betas=betas,
            configs=types.SimpleNamespace(
                model=types.SimpleNamespace(params=types.SimpleNamespace(channels=4))
            ),
        )
        weights = LatentDiffusionSRTextWT._gaussian_weights(whole, TILE, TILE, 1).float()
        tiled, *_ = LatentDiffusionSRTextWT.p_mean_variance_canvas(
            whole, wide, context.repeat(4, 1, 1), wide_latent, torch.full((4,), 500),
            clip_denoised=False, tile_size=TILE, tile_overlap=TILE_OVERLAP, batch_size=4,
            tile_weights=weights,
        )
        reference |= {"wide_latent": wide_latent, "wide": wide, "prediction_tiled_t500": tiled}

        pixels = torch.tanh(noise(1, 3, 16, 24))
        moments = vae.encode(pixels)
        reference |= {"pixels": pixels, "mean": moments.mean, "logvar": moments.logvar}
        z = noise(1, 4, 2, 3)
        reference |= {"z": z, "decoded": vae.decode(z)}
        _, wrapped = cfw.encode(pixels)
        for w in [0.0, 0.5, 1.0]:
            cfw.decoder.fusion_w = w
            reference[f"wrapped_w{w}"] = cfw.decode(z, wrapped)
    for name, tensor in reference.items():
        print(name, tuple(tensor.shape), f"rms {tensor.square().mean().sqrt():.3f}")
    save_file({k: v.float().contiguous() for k, v in reference.items()}, out / "reference.safetensors")
    for name, module in [("unet", unet), ("structure", structure), ("vae", vae), ("cfw", cfw)]:
        print(name, sum(p.numel() for p in module.parameters()))
    print(sum(f.stat().st_size for f in out.iterdir()), "bytes")


if __name__ == "__main__":
    main()
