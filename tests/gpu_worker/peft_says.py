"""What an unpacked adapter says with transformers and PEFT alone: `python -I peft_says.py BASE FOLDER PROMPTS.json`.

Prints a list of {"prompt": token ids, "tokens": token ids, "text": …}, one per prompt.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

MAX_TOKENS = 12


def main(base: str, folder: str, prompts: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder).eval()
    found = []
    for prompt in json.loads(Path(prompts).read_text(encoding="utf-8")):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
        )
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=MAX_TOKENS, do_sample=False
        )
        tokens = out[0, ids.shape[1] :].tolist()
        said = tokenizer.decode(tokens, skip_special_tokens=True)
        found.append({"prompt": ids[0].tolist(), "tokens": tokens, "text": said})
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    if find_spec("gpu_worker"):
        sys.exit("run it with -I: nothing of this project may be in reach")
    main(*sys.argv[1:])
