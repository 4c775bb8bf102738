"""What CLIPTokenizer of transformers makes of folders that say their special tokens differently.

    python clip_tokenizer.py

reads tiny/sd21/tokenizer (see stable_diffusion.py) and writes clip_tokenizer/:

* tokenizer.json and tokenizer_config.json, as transformers 5 saves a tokenizer;
* cases.json: changes of the two configurations, and the ids that follow.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

from transformers import CLIPTokenizer

HERE = Path(__file__).parent
START, END = "<|startoftext|>", "<|endoftext|>"
TEXTS = ["a cat! <|ENDOFTEXT|> HI!", "the <thing> of a Horse", "caf\u00e9!!", ""]


def token(content, normalized, special=True):
    flags = {"lstrip": False, "rstrip": False, "single_word": False}
    return {"content": content, "normalized": normalized, "special": special} | flags


MARKS = {"632": token(START, True), "633": token(END, True)}
NAMES = {"bos_token": START, "eos_token": END, "unk_token": END}
CASES = {
    "the map's filling holds": ({"pad_token": END}, {}),
    "the map's filling holds the other way round": ({}, {"pad_token": END}),
    "only the map has a filling": ({"pad_token": None}, {}),
    "the configuration's filling holds where it lists its tokens": (
        {"pad_token": END, "added_tokens_decoder": MARKS | {"0": token("!", False)}},
        {},
    ),
    "names and a list": (NAMES | {"pad_token": END, "added_tokens_decoder": MARKS}, {"pad_token": END}),
    "a token of its own": (
        NAMES | {"pad_token": "!", "added_tokens_decoder": MARKS | {"634": token("<thing>", False, False)}},
        {},
    ),
}


def main():
    source, out = HERE / "tiny/sd21/tokenizer", HERE / "clip_tokenizer"
    shutil.rmtree(out, ignore_errors=True)
    CLIPTokenizer.from_pretrained(source).save_pretrained(out)
    # Where it was made is of no interest.
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in config.items() if "local" not in k}, indent=2) + "\n")
    cases = []
    for name, changes in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)
            files = {}
            for file, change in zip(("tokenizer_config.json", "special_tokens_map.json"), changes):
                values = json.loads((source / file).read_text()) | change
                files[file] = {key: value for key, value in values.items() if value is not None}
                (Path(folder) / file).write_text(json.dumps(files[file]))
            tokenizer = CLIPTokenizer.from_pretrained(folder)
            ids = [tokenizer(text, padding="max_length", max_length=12).input_ids for text in TEXTS]
        cases.append({"name": name, "files": files, "ids": ids})
    path = out / "cases.json"
    path.write_text(json.dumps({"texts": TEXTS, "cases": cases}, ensure_ascii=False, indent=1) + "\n")


main()
