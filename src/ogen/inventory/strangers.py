"""Words that people bring from elsewhere, and where they belong here."""

from __future__ import annotations

_BELONGS = {
    # hosts
    "ip": "'address' is where the host is reached",
    "host": "'address' is where the host is reached",
    "hostname": "'address' is where the host is reached",
    "ansible_host": "'address' is where the host is reached",
    "ansible_user": "write ssh: {user: …}",
    "cards": "the cards are listed under 'gpus'",
    "overrides": "write gpus: {1: {…}}",
    # models
    "model": "'from' names the source of a model",
    "source": "'from' names the source of a model",
    "quantization": "write from: {Q4_K_M: …}",
    "quantisation": "write from: {Q4_K_M: …}",
    "num_parallel": "'parallel' is how many requests are served at once",
    "kv_cache_type": "the type of the KV cache is 'kv_cache'",
    "tensor_split": "the parts of the cards are 'shares'",
    "vars": "settings stand directly in the group or host",
    "children": "a group's 'hosts' may hold '@group'",
    "port": "the port is 'listen' of a balancer, 'port' of an instance or 'ssh: {port: …}'",
    "upstream": "the pools follow from the models; `ogen plan` shows them",
    "upstreams": "the pools follow from the models; `ogen plan` shows them",
    "fail_timout": "did you mean 'fail_timeout'?",
}

# Modelfile parameters that have a place of their own, or none any more (Ollama's parser, 2026).
_PARAMETERS = {
    "num_ctx": ("the context is a setting of the model", "write context: N beside 'from'"),
    "num_batch": ("the batch is a setting of the model", "write batch: N beside 'from'"),
    "num_gpu": ("num_gpu is a setting of the model", "write num_gpu: N beside 'from'"),
    "main_gpu": ("main_gpu is a setting of the model", "write main_gpu: N beside 'from'"),
    "use_mmap": ("use_mmap is a setting of the model", "write use_mmap: false beside 'from'"),
    "low_vram": (
        "Ollama drops the parameter low_vram since 0.7.0",
        "write low_vram: true beside 'from': ogen gives it its effect",
    ),
    **{
        word: (f"Ollama accepts the parameter {word} and drops it", "remove it: it has no effect")
        for word in (
            "f16_kv",
            "logits_all",
            "vocab_only",
            "use_mlock",
            "penalize_newline",
            "mirostat",
            "mirostat_tau",
            "mirostat_eta",
        )
    },
    **{
        word: (
            f"Ollama does not know the parameter {word} any more",
            "remove it: the model would not be created",
        )
        for word in (
            "num_gqa",
            "rope_frequency_base",
            "rope_frequency_scale",
            "numa",
            "embedding_only",
            "tfs_z",
        )
    },
}


def stranger(word: str, keys: set[str]) -> tuple[str | None, str | None]:
    """(message, hint) for a key that is unknown among `keys`; (None, None) where nothing is known of it."""
    if "repeat_penalty" in keys and word in _PARAMETERS:
        return _PARAMETERS[word]
    return None, _BELONGS.get(word)
