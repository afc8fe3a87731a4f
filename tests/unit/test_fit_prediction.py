"""Ollama's own coarse prediction, and whom it evicts."""

from ogen.catalog import find_model
from ogen.fit import Settings, evicts, predicted_by_ollama

GIB = 2**30


def test_the_prediction_is_the_file_and_a_rough_cache():
    shape = find_model("llama3.1:8b")
    rough = 2 * 32 * 8 * 128 * 8192 * 2
    assert predicted_by_ollama(shape, Settings(8192)) == shape.tensor_bytes + rough
    assert predicted_by_ollama(shape, Settings(2048, 4)) == shape.tensor_bytes + rough
    capped = predicted_by_ollama(find_model("llama3:8b"), Settings(131072))
    assert capped == predicted_by_ollama(find_model("llama3:8b"), Settings(8192))


def test_two_models_that_would_fit_and_are_not_let_stay():
    """12 GiB: 5.6 GiB resident leave 5.9 GiB, of which only 80 % count."""
    second, settings = find_model("llama3.1:8b"), Settings(4096)
    assert not evicts(second, settings, 12 * GIB, [])
    assert evicts(second, settings, 12 * GIB, [int(5.6 * GIB)])
    assert not evicts(second, settings, 12 * GIB, [int(4.6 * GIB)])
    assert not evicts(second, Settings(4096, version="0.24.0"), 12 * GIB, [int(5.6 * GIB)])


def test_a_batch_that_ollama_chose_is_charged():
    shape, resident = find_model("llama3.2:3b"), [4 * GIB]
    predicted = predicted_by_ollama(shape, Settings(8192))
    total = resident[0] + 457 * 2**20 + int(predicted / 0.8) + 2**20
    assert not evicts(shape, Settings(8192, batch=512), total, resident)
    assert evicts(shape, Settings(8192), total, resident)
