"""What an unpacked adapter says with transformers and PEFT alone: `python -I peft_says.py BASE FOLDER PROMPTS.json`.

Prints a list of {"prompt": token ids, "tokens": token ids, "logprobs": …, "text": …}, one per prompt; "logprobs": for
each token the log probabilities of those that were likeliest, by their id.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

MAX_TOKENS = 12
LIKELIEST = 20


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
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=MAX_TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        tokens = out.sequences[0, ids.shape[1] :].tolist()
        likeliest = torch.cat(out.logits).double().log_softmax(-1).topk(LIKELIEST)
        pairs = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
        logprobs = [dict(zip(*one, strict=True)) for one in pairs]
        said = tokenizer.decode(tokens, skip_special_tokens=True)
        found.append({"prompt": ids[0].tolist(), "tokens": tokens, "logprobs": logprobs, "text": said})
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    if find_spec("gpu_worker"):
        sys.exit("run it with -I: nothing of this project may be in reach")
    main(*sys.argv[1:])
