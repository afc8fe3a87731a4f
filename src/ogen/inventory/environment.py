"""Environment variables of instances: those that are ogen's to set, and what Ollama makes of the others.

Read from Ollama's envconfig at 0.33.0-rc2; a variable's fate depends on the host's version.
"""

from __future__ import annotations

# Variables that ogen itself sets, and the key that says the same.
OWNED: dict[str, str] = {
    "OLLAMA_HOST": "the port follows from the card's number; write ollama: {first_port: …}",
    "OLLAMA_MODELS": "write ollama: {models_dir: …}",
    "OLLAMA_NUM_PARALLEL": "write parallel: N in the model",
    "OLLAMA_CONTEXT_LENGTH": "write context: N in the model",
    "OLLAMA_FLASH_ATTENTION": "write ollama: {flash_attention: true}",
    "OLLAMA_KV_CACHE_TYPE": "write kv_cache: q8_0 in the model or under ollama",
    "OLLAMA_KEEP_ALIVE": "write keep_alive: in the model or under ollama",
    "OLLAMA_LOAD_TIMEOUT": "write ollama: {load_timeout: 5m}",
    "OLLAMA_MAX_QUEUE": "write ollama: {max_queue: N}",
    "OLLAMA_MAX_LOADED_MODELS": "it follows from the models of the instance and their residency",
    "OLLAMA_NOPRUNE": "ogen sets it: instances share their models",
    "OLLAMA_VULKAN": "ogen sets it by the card's vendor, so that no card comes back as a Vulkan device",
    "OLLAMA_SCHED_SPREAD": "write split: or gpus_per_replica: in the model",
    "CUDA_VISIBLE_DEVICES": "the cards are listed under gpus",
    "CUDA_DEVICE_ORDER": "ogen sets it; cards count in nvidia-smi's order",
    "ROCR_VISIBLE_DEVICES": "the cards are listed under gpus",
    "HIP_VISIBLE_DEVICES": "the cards are listed under gpus",
    "GPU_DEVICE_ORDINAL": "the cards are listed under gpus",
    "GGML_VK_VISIBLE_DEVICES": "the cards are listed under gpus",
    "NVIDIA_VISIBLE_DEVICES": "the cards are listed under gpus",
    "LLAMA_ARG_SPLIT_MODE": "write split: in the model",
    "LLAMA_ARG_TENSOR_SPLIT": "write shares: in the model",
    "LLAMA_ARG_KV_OFFLOAD": "write low_vram: true in the model",
    "LLAMA_ARG_NO_KV_OFFLOAD": "write low_vram: true in the model",
    "LLAMA_ARG_FIT_TARGET": "write reserve: in the card",
    "LLAMA_ARG_N_CPU_MOE": "the plan decides it; see concessions of the model",
    "LLAMA_ARG_CPU_MOE": "the plan decides it; see concessions of the model",
    "HOME": "each instance has its own",
    "CUDA_CACHE_PATH": "each instance has its own",
    "XDG_CACHE_HOME": "each instance has its own",
    "XDG_CONFIG_HOME": "each instance has its own",
    "XDG_DATA_HOME": "each instance has its own",
    "TMPDIR": "each instance has its own",
}

# Ollama takes any text that is no boolean for true: "no" switches these on.
BOOLEANS = frozenset(
    {
        "OLLAMA_AUTH",
        "OLLAMA_DEBUG_LOG_REQUESTS",
        "OLLAMA_GO_TEMPLATE",
        "OLLAMA_IGPU_ENABLE",
        "OLLAMA_INTEL_GPU",
        "OLLAMA_MULTIUSER_CACHE",
        "OLLAMA_NEW_ENGINE",
        "OLLAMA_NOHISTORY",
        "OLLAMA_NO_CLOUD",
    }
)
BOOLEAN_TEXTS = frozenset(["1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"])

# Variables that Ollama does not read any more: since which version, and what to do instead.
GONE: dict[str, tuple[str, str]] = {
    "OLLAMA_NEW_ENGINE": ("0.30.0", "there is one engine now; remove it"),
    "OLLAMA_MULTIUSER_CACHE": ("0.30.0", "remove it"),
    "OLLAMA_GPU_OVERHEAD": ("0.30.0", "it reserves nothing any more; write reserve: in the card"),
    "OLLAMA_INTEL_GPU": ("0.13.0", "remove it"),
    "OLLAMA_TMPDIR": ("0.5.0", "remove it; nothing is unpacked at start any more"),
    "OLLAMA_RUNNERS_DIR": ("0.4.0", "remove it"),
    "OLLAMA_MAX_VRAM": ("0.2.0", "write reserve: in the card"),
}

RISKY: dict[str, str] = {
    "OLLAMA_DEBUG_LOG_REQUESTS": "it writes every prompt to a file in the temporary folder",
    "OLLAMA_ORIGINS": "it only concerns browsers; who may ask is 'allow' and 'keys' of the balancer",
}

KNOWN = (
    frozenset(OWNED)
    | BOOLEANS
    | frozenset(GONE)
    | frozenset(RISKY)
    | frozenset(
        {
            "OLLAMA_DEBUG",
            "OLLAMA_LLM_LIBRARY",
            "OLLAMA_REMOTES",
            "OLLAMA_EDITOR",
            "OLLAMA_MAX_TRANSFER_STREAMS",
        }
    )
)


def owned(name: str) -> str | None:
    """Where to say it instead, if the variable is ogen's to set."""
    if name.startswith("OGEN_"):
        return "names with OGEN_ are ogen's"
    return OWNED.get(name)
