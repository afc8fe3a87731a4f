"""Where settings go: Modelfile or unit."""

from ogen.fit import Settings, modelfile_parameters, unit_environment


def test_the_engine_keeps_its_own_choices():
    assert modelfile_parameters(Settings(8192), None) == {"num_ctx": 8192}
    assert modelfile_parameters(Settings(8192, batch=256), 20) == {
        "num_ctx": 8192,
        "num_batch": 256,
        "num_gpu": 20,
    }


def test_settings_of_the_server():
    settings = Settings(8192, 2, kv_cache="q8_0", kv_on_host=True, experts_on_host=7, margin=600 * 2**20)
    assert unit_environment(settings) == {
        "OLLAMA_CONTEXT_LENGTH": "8192",
        "OLLAMA_NUM_PARALLEL": "2",
        "OLLAMA_FLASH_ATTENTION": "1",
        "OLLAMA_KV_CACHE_TYPE": "q8_0",
        "LLAMA_ARG_FIT_TARGET": "600",
        "LLAMA_ARG_KV_OFFLOAD": "0",
        "LLAMA_ARG_N_CPU_MOE": "7",
    }


def test_several_cards():
    row = unit_environment(Settings(8192, split="row"), 2, (3.0, 1.0))
    assert (row["LLAMA_ARG_SPLIT_MODE"], row["LLAMA_ARG_TENSOR_SPLIT"]) == ("row", "3,1")
    assert row["OLLAMA_SCHED_SPREAD"] == "1"
    assert "LLAMA_ARG_SPLIT_MODE" not in unit_environment(Settings(8192), 2)


def test_earlier_versions_have_no_levers():
    settings = Settings(8192, kv_on_host=True, experts_on_host=3, split="row", version="0.24.0")
    assert not any(key.startswith("LLAMA_ARG") for key in unit_environment(settings, 2, (1.0, 1.0)))
