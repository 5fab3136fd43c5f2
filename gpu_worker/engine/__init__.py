"""Serving engine: an OpenAI-shaped HTTP server around continuous batching of one base model and many LoRA adapters.

    sequence   what one request wants and how far it has come
    scheduler  which tokens of which sequences run in the next step
    runner     runs a step: token ids in, logits out
    core       the loop that ties the three together, without threads or sockets
    loop       the core in its own thread, for a server
    server     HTTP: parsing, streaming, errors, metrics

Pure: no Django and no settings. Logs carry ids and numbers, never the text of a prompt or an answer.
"""
