"""What a GGUF file says in llama.cpp, by its own tokenizer and chat template.

`python llamacpp_says.py FILE PROMPTS.json` prints what `peft_says.py` prints.
"""

import http.client
import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import xllamacpp

MAX_TOKENS = 12
LIKELIEST = 20


def asked(address: str, route: str, body: dict[str, Any]) -> Any:
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("POST", route, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        if response.status != http.client.OK:
            raise SystemExit(f"llama.cpp answered {response.status} to {route}: {content[:300]!r}")
        return json.loads(content)
    finally:
        connection.close()


def main(file: str, prompts: str) -> None:
    settings = xllamacpp.CommonParams()
    settings.model.path = file
    settings.n_ctx = 512
    settings.n_parallel = 1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    # by itself it keeps and multiplies 16 bits in attention, which decides between answers that are nearly as likely
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.warmup = False
    settings.ui = False
    settings.verbosity = -1
    settings.port = 0
    server = xllamacpp.Server(settings)
    address = urlsplit(server.listening_address).netloc
    found = []
    for prompt in json.loads(Path(prompts).read_text(encoding="utf-8")):
        messages = [{"role": "user", "content": prompt}]
        text = asked(address, "/apply-template", {"messages": messages})["prompt"]
        ids = asked(address, "/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]
        order = {"n_predict": MAX_TOKENS, "temperature": 0.0, "n_probs": LIKELIEST, "cache_prompt": False}
        answer = asked(address, "/completion", {"prompt": ids, "return_tokens": True, **order})
        steps = answer["completion_probabilities"]
        logprobs = [{one["id"]: one["logprob"] for one in step["top_logprobs"]} for step in steps]
        chat = asked(
            address, "/v1/chat/completions", {"messages": messages, "max_tokens": MAX_TOKENS, "temperature": 0}
        )
        said = chat["choices"][0]["message"]["content"]
        found.append({"prompt": ids, "tokens": answer["tokens"], "logprobs": logprobs, "text": said})
    sys.stdout.write("\n" + json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # its threads do not end by themselves


if __name__ == "__main__":
    main(*sys.argv[1:])
