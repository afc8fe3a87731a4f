"""Rules for models: where they come from, what they need, what their Modelfile holds."""

from __future__ import annotations

from typing import Any

from .rules_hosts import KV_CACHE, key

Rules = dict[str, Any]

TOKENS: Rules = {"type": "integer", "min": 4, "max": 16_777_216}

MESSAGE: Rules = {
    "role": key("Who says it.", type="string", required=True, allowed=["system", "user", "assistant"]),
    "content": key("What is said.", type="string", required=True, check_with="text"),
}

PARAMETERS: Rules = {
    "num_keep": key("Tokens of the prompt that are kept when the context is full.", type="integer", min=-1),
    "seed": key("The seed of the random numbers; -1 for a new one each time.", type="integer"),
    "num_predict": key("The most tokens of an answer; -1 for no limit.", type="integer", min=-2),
    "top_k": key("Choose among the k likeliest tokens.", type="integer", min=0),
    "top_p": key("Choose among tokens with this joint probability.", type="number", min=0, max=1),
    "min_p": key(
        "Leave out tokens less likely than this part of the likeliest.", type="number", min=0, max=1
    ),
    "typical_p": key("Locally typical sampling; 1 is off.", type="number", min=0, max=1),
    "repeat_last_n": key(
        "How far back repetitions are looked for; -1 for the whole context.", type="integer", min=-1
    ),
    "temperature": key(
        "How freely tokens are chosen; 0 is the likeliest always.", type="number", min=0, max=100
    ),
    "repeat_penalty": key(
        "How strongly repetitions are avoided; 1 is not at all.", type="number", min=-100, max=100
    ),
    "presence_penalty": key("Avoid tokens that occurred.", type="number", min=-100, max=100),
    "frequency_penalty": key("Avoid tokens the more they occurred.", type="number", min=-100, max=100),
    "num_thread": key("Threads on the CPU; 0 leaves it to Ollama.", type="integer", min=0, max=1024),
    "draft_num_predict": key("Tokens that a draft model guesses ahead.", type="integer", min=0, max=1024),
    "stop": key(
        "Texts that end an answer.",
        type="list",
        form="many",
        minlength=1,
        schema={"type": "string", "minlength": 1, "check_with": "text"},
    ),
}

CONCESSIONS = ["quantisation", "kv_cache", "context", "batch", "experts", "gpu_layers", "kv_on_host"]

SOURCE: Rules = {
    "quant": {"type": "string", "check_with": "quant"},
    "ref": {"type": "string", "required": True, "check_with": "ref"},
}

MIRROR: Rules = {
    "host": key(
        "The host that loads each model once, and gives it to the others.", type="string", check_with="name"
    ),
    "port": key(
        "Its port for that, open while a rollout runs; default: 11432.", type="integer", min=1024, max=65535
    ),
    "folder": key(
        "A folder inside the project in the layout of Ollama's store: models are sent from there over SSH.",
        type="string",
        check_with="inside",
    ),
    "fallback": key(
        "`origin`: where the mirror can't be had, hosts ask the registries themselves; default: none.",
        type="string",
        allowed=["none", "origin"],
    ),
}

MODEL: Rules = {
    "from": key(
        "A library tag, hf.co/…, or a GGUF file ./x.gguf; a list or a map of quantisations, best first.",
        type="list",
        form="sources",
        required=True,
        minlength=1,
        schema={"type": "dict", "schema": SOURCE},
    ),
    "context": key(
        "Tokens per slot: a number, or what is wanted and the least that will do.",
        type="dict",
        form="context",
        schema={
            "want": key("What is wanted.", required=True, **TOKENS),
            "at_least": key("The least that will do, where memory is short.", **TOKENS),
        },
    ),
    "parallel": key("Requests that one instance serves at once.", type="integer", min=1, max=256),
    "replicas": key(
        "How many instances serve it: a number, or `fill` for every card that is left over.",
        type=["integer", "string"],
        min=1,
        max=100_000,
        check_with="fill",
    ),
    "on": key(
        "The hosts that it may run on: names, globs, groups; default: all.",
        type="list",
        form="many",
        minlength=1,
        schema={"type": "string", "check_with": "pattern"},
    ),
    "aliases": key(
        "Further names that clients use, e.g. gpt-4o-mini.",
        type="list",
        form="many",
        schema={"type": "string", "check_with": "alias"},
    ),
    "card": key(
        "The model's card in the catalog, where the tag does not tell it.",
        type="string",
        check_with="card_name",
    ),
    "batch": key("Tokens that are processed at once.", type="integer", min=1, max=65536),
    "batch_at_least": key(
        "The least batch that will do, where memory is short.", type="integer", min=1, max=65536
    ),
    "kv_cache": key("The type of the KV cache.", type="string", allowed=KV_CACHE),
    "kv_cache_at_least": key(
        "The smallest type that will do, where memory is short.", type="string", allowed=KV_CACHE
    ),
    "num_gpu": key(
        "How many layers go on the card; -1 leaves it to Ollama.", type="integer", min=-1, max=10_000
    ),
    "gpu_layers_at_least": key(
        "The least layers on the card that will do, where memory is short.", type="integer", min=0, max=10_000
    ),
    "low_vram": key("Keep the KV cache in host memory.", type="boolean"),
    "main_gpu": key(
        "The card that does the small work, counted within the instance.", type="integer", min=0, max=63
    ),
    "use_mmap": key("`false` reads the file instead of mapping it.", type="boolean"),
    "split": key(
        "How the model is divided over several cards.", type="string", allowed=["layer", "row", "tensor"]
    ),
    "shares": key(
        "The parts of the model that the cards of an instance get, e.g. [3, 1].",
        type="list",
        minlength=2,
        maxlength=64,
        schema={"type": "number", "min": 0, "max": 1_000_000},
    ),
    "gpus_per_replica": key(
        "Cards per instance; default: as few as it takes.", type="integer", min=1, max=64
    ),
    "concessions": key(
        "What is given up first where memory is short, in order.",
        type="list",
        schema={"type": "string", "allowed": CONCESSIONS},
    ),
    "system": key("The system prompt.", type="string", check_with="text"),
    "template": key(
        "The prompt template (Go's), instead of the model's own.", type="string", check_with="text"
    ),
    "adapter": key(
        "A LoRA adapter: a GGUF file in the project's folder.", type="string", check_with="inside"
    ),
    "license": key("The licence's text.", type="string", check_with="text"),
    "messages": key(
        "A conversation that every chat begins with.", type="list", schema={"type": "dict", "schema": MESSAGE}
    ),
    "parameters": key("Parameters of the Modelfile.", type="dict", schema=PARAMETERS),
    "keep_alive": key(
        "How long it stays loaded: a time such as 30m, -1 for ever.",
        type="string",
        form="whole",
        check_with="keep_alive",
    ),
    "residency": key(
        "`on_demand`: it takes turns on its card with others.",
        type="string",
        allowed=["resident", "on_demand"],
    ),
    "autofit": key(
        "Whether the host chooses its configuration by the memory that is free; default: as the host says.",
        type="boolean",
    ),
    "hours": key(
        "When it is kept in memory, by the host's clock: mon-fri 08:00-18:00; default: always.",
        type="list",
        form="many",
        minlength=1,
        maxlength=14,
        schema={"type": "string", "check_with": "hours"},
    ),
    "embedding": key("It computes embeddings only.", type="boolean"),
}
