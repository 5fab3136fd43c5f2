"""LoRA training of llama-shaped decoders on CPUs, with forward and backward pass written by hand.

Exact in float32: same loss and gradient as transformers + peft (a test compares them). Faster because it leaves out
work that cannot change the result:

* rows are packed one after the other, so no product is spent on padding;
* the words in which all prompts of a micro-batch begin (usually the system prompt) are computed once, not per row;
* the vocabulary head, and the last layer after its attention, run only where an answer token is predicted;
* projections of the same input are one product; frozen weights get no gradient; adapters live in one flat buffer.

It also needs neither transformers nor peft, whose import alone takes five seconds.

    support.py   which models and settings qualify     weights.py    frozen weights from safetensors
    packing.py   rows as one packed micro-batch        kernels.py    norm, rotation, gate: forward and backward
    products.py  frozen products, exact or in 8 bits   projection.py with LoRA beside them
    attention.py attention over shared prefix and own words
    native.py, kernels.cpp  the same kernels compiled, one pass each
    head.py      loss on answer tokens                 decoder.py    all layers      learner.py  what the loop sees
"""
