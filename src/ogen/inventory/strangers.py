"""Words that people bring from elsewhere, and where they belong here."""

from __future__ import annotations

# By a key that tells the kind of map: what a foreign word should be there.
_BELONGS: dict[str, dict[str, str]] = {
    "address": {
        **dict.fromkeys(("ip", "host", "hostname", "ansible_host"), "'address' is where the host is reached"),
        "ansible_user": "write ssh: {user: …}",
        "user": "write ssh: {user: …}",
        "port": "write ssh: {port: …}",
        "cards": "the cards are listed under 'gpus'",
        "models": "models are placed by the plan; 'instances' pins them",
    },
    "from": {
        **dict.fromkeys(("model", "source", "image"), "'from' names the source of a model"),
        **dict.fromkeys(("quantization", "quantisation", "quant"), "write from: {Q4_K_M: …}"),
        "num_parallel": "'parallel' is how many requests are served at once",
        "kv_cache_type": "the type of the KV cache is 'kv_cache'",
        "tensor_split": "the parts of the cards are 'shares'",
        "hosts": "'on' names the hosts that a model may run on",
        "temperature": "write parameters: {temperature: …}",
        "env": "variables belong to hosts: write env: there, or under 'ollama'",
    },
    "strategy": {
        "port": "its port is 'listen'",
        "models": "all models are served; see 'routing' and 'pool'",
        **dict.fromkeys(
            ("upstream", "upstreams"), "the pools follow from the models; `ogen plan` shows them"
        ),
    },
    "hosts": {
        "vars": "settings stand directly in the group",
        "children": "a group's 'hosts' may hold '@group'",
        "defaults": "defaults stand at the top: ssh, ollama, monitoring, autofit, env",
    },
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
    for kind, words in _BELONGS.items():
        if kind in keys and word in words:
            return None, words[word]
    return None, None
