"""Tiny models with random weights, and what transformers computes with them.

accelerate, gguf 0.19.0, torch 2.15.0, transformers 5.24.0:  python3 tiny_models.py     (writes beside itself)
"""

import json
import pathlib

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

here = pathlib.Path(__file__).parent
torch.manual_seed(2)
ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])

# BERT, as a folder.
config = BertConfig(
    vocab_size=19,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=24,
    max_position_embeddings=16,
    initializer_range=0.5,
)
model = BertModel(config, add_pooling_layer=False).eval()
with torch.no_grad():
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.5)
    hidden = model(ids, output_hidden_states=True).hidden_states
folder = here / "tiny_bert"
state = {k: v.contiguous() for k, v in model.state_dict().items() if "position_ids" not in k}
save_file(state, folder / "model.safetensors")
(folder / "config.json").write_text(json.dumps(config.to_diff_dict() | {"model_type": "bert"}) + "\n")
mean = hidden[-1].mean(1)
values = {
    "ids": ids[0].tolist(),
    "hidden": [h[0].flatten().tolist() for h in hidden],
    "embedding": (mean / mean.norm(dim=1, keepdim=True))[0].tolist(),
}
(here / "tiny_bert.json").write_text(json.dumps(values) + "\n")

# Llama, as a GGUF file.
config = LlamaConfig(
    vocab_size=23,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=32,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
    tie_word_embeddings=True,
    initializer_range=0.5,
)
model = LlamaForCausalLM(config).eval()
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
    out = model(ids, output_hidden_states=True)


def neighbours(weight, heads):
    """Rows of the two halves of a head, one beside the other."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


path = here / "tiny_llama.gguf"
writer = gguf.GGUFWriter(path, "llama")
writer.add_vocab_size(23)
writer.add_context_length(64)
writer.add_embedding_length(32)
writer.add_feed_forward_length(32)
writer.add_block_count(2)
writer.add_head_count(4)
writer.add_head_count_kv(2)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_rope_freq_base(5000.0)
# A vocabulary of bytes: letters, a space, and two merges.
letters = list("abcdefghijklmnop") + ["Ġ", "1", "2"]
tokens = ["<|endoftext|>", *letters, "ab", "Ġa", "abc"]
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("smollm")
writer.add_token_list(tokens)
writer.add_token_types([3] + [1] * (len(tokens) - 1))
writer.add_token_merges(["a b", "Ġ a", "ab c"])
names = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
weights = {k.removeprefix("model."): v.numpy() for k, v in model.state_dict().items()}
writer.add_tensor("token_embd.weight", weights["embed_tokens.weight"])
writer.add_tensor("output_norm.weight", weights["norm.weight"])
for block in range(2):
    for name, short in names.items():
        weight = weights[f"layers.{block}.{name}.weight"]
        if short in ("attn_q", "attn_k"):
            weight = neighbours(weight, 4 if short == "attn_q" else 2)
        writer.add_tensor(f"blk.{block}.{short}.weight", np.ascontiguousarray(weight))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

# transformers reads the file back as the same model, so the order of the rows is the published one.
again = LlamaForCausalLM.from_pretrained(here, gguf_file="tiny_llama.gguf", config=config).eval()
with torch.no_grad():
    difference = (again(ids).logits - out.logits).abs().max().item()
assert difference < 1e-4, difference
values = {
    "ids": ids[0].tolist(),
    "stream": [h[0].flatten().tolist() for h in out.hidden_states[:-1]],
    "logits": out.logits[0].flatten().tolist(),
}
(here / "tiny_llama.json").write_text(json.dumps(values) + "\n")
