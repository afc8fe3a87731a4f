"""Model cards: tags, quantisations, what is not known, and cards of one's own."""

import math
import sys
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import pytest

from ogen.catalog import cards, find_model, layout, stored, tag_names
from ogen.errors import OgenError

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from _truth import document, header, headers


def test_there_are_enough_from_small_to_large():
    sizes = [card.params for card in cards()]
    assert len(sizes) >= 60
    assert sum(card.shape().is_moe for card in cards()) >= 6
    assert min(sizes) < 0.3
    assert max(sizes) > 100
    names = Counter(card.name for card in cards())
    assert max(names.values()) == 1


@pytest.mark.parametrize("card", cards(), ids=lambda card: card.name)
def test_the_tensor_table_has_the_published_count_of_parameters(card):
    found = sum(math.prod(tensor.dims) for tensor in layout.tensors(card.sizes)) / 1e9
    assert found == pytest.approx(card.params, rel=0.005)


@pytest.mark.parametrize("card", cards(), ids=lambda card: card.name)
def test_quantisations_that_are_offered_have_shapes(card):
    sizes = [card.shape(quant).tensor_bytes for quant in (*card.quants()[::6], card.default)]
    assert card.default in card.quants()
    assert card.source
    assert all(size > 0 for size in sizes)
    assert sizes[0] == max(sizes)


def test_shapes_are_those_of_the_headers_that_llama_cpp_wrote():
    """Hyperparameters, and the type of every tensor, by the rules of mixture.py."""
    for model, quant in headers():
        from_card, from_file = find_model("", quant, model), header(model, quant).shape(model)
        for item in fields(from_file):
            if item.name != "source":
                assert getattr(from_card, item.name) == getattr(from_file, item.name), (
                    model,
                    quant,
                    item.name,
                )


def test_file_sizes_are_those_of_published_files():
    """Within half a percent: the tokenizer is in the file and not in the tensors; Q4_0 files vary more."""
    for model, sizes in document()["file_bytes"].items():
        for quant, size in sizes.items():
            name = {"llama3-70b": "llama3.1-70b"}.get(model, model)
            shape = find_model("", quant, name)
            assert shape.tensor_bytes / size == pytest.approx(1, abs=0.006), (model, quant)


def test_no_tag_belongs_to_two_cards():
    seen = {}
    for card in cards():
        for tag, _ in card.tags:
            assert seen.setdefault(tag, card.name) == card.name
    assert len(tag_names()) > 1000


@pytest.mark.parametrize(
    ("ref", "name", "quant"),
    [
        ("llama3.1", "llama3.1-8b", "Q4_K_M"),
        ("llama3.1:8b-instruct-q8_0", "llama3.1-8b", "Q8_0"),
        ("LLAMA3.1:8B-INSTRUCT-Q4_K_M", "llama3.1-8b", "Q4_K_M"),
        ("library/qwen2.5-coder:32b-instruct-q5_K_M", "qwen2.5-32b", "Q5_K_M"),
        ("llama3.2:1b-instruct-fp16", "llama3.2-1b", "F16"),
        ("gpt-oss:20b", "gpt-oss-20b", "MXFP4_BF16"),
        ("hf.co/someone/Meta-Llama-3.1-8B-Instruct-GGUF:Q6_K", "llama3.1-8b", "Q6_K"),
        ("hf.co/someone/gemma-3-27b-it-GGUF:Q4_K_M", "gemma3-27b", "Q4_K_M"),
    ],
)
def test_references(ref, name, quant):
    found = find_model(ref)
    assert (found.name, found.quant) == (name, quant)


def test_quantisation_and_card_can_be_given():
    assert find_model("llama3.1:8b", "q6_k").quant == "Q6_K"
    assert find_model("my-own-tune:v2-q5_K_M", card="qwen3-8b").quant == "Q5_K_M"
    assert find_model("my-own-tune:v2", "Q3_K_M", "qwen3-8b").name == "qwen3-8b"


def test_an_unknown_model_names_the_ways_to_add_it():
    with pytest.raises(OgenError, match="nothing is known") as caught:
        find_model("lama3.1:8b")
    assert "llama3.1:8b" in caught.value.hint
    for way in ("ogen catalog add", "from:", "card:"):
        assert way in caught.value.hint
    with pytest.raises(OgenError, match="no card called"):
        find_model("x", card="nonesuch")
    with pytest.raises(OgenError, match="not known as"):
        find_model("llama3.1:8b", "Q9_X")


def test_the_library_gpt_oss_has_the_size_that_it_shows():
    """Attention and embeddings in BF16 around MXFP4 experts: 13.8 GB and 65 GB, as the library says."""
    assert find_model("gpt-oss:20b").tensor_bytes / 1e9 == pytest.approx(13.8, abs=0.1)
    assert find_model("gpt-oss:120b").tensor_bytes / 1e9 == pytest.approx(65.2, abs=0.3)


# ----------------------------------------------------------------------------------- cards of one's own
def keep(folder, shape):
    path = folder / stored.FOLDER / stored.file_name(f"{shape.name}-{shape.quant}")
    path.parent.mkdir(exist_ok=True)
    path.write_text(stored.dump(shape))
    return path


def test_a_card_of_ones_own_is_found_under_its_tags(tmp_path):
    for quant in ("Q4_K_M", "Q8_0"):
        shape = replace(find_model("gemma3:4b", quant), name="mine", tags=(f"mine:{quant}", "gemma3:4b"))
        path = keep(tmp_path, shape)
        assert stored.load(path) == shape
        assert len(path.read_bytes()) < 2500
    assert find_model("mine:q8_0", folder=tmp_path).quant == "Q8_0"
    assert find_model("gemma3:4b", folder=tmp_path).name == "mine"
    assert find_model("x", "Q8_0", "mine", folder=tmp_path).quant == "Q8_0"
    assert find_model("gemma3:4b").name == "gemma3-4b"


def test_a_changed_card_is_seen(tmp_path):
    shape = replace(find_model("qwen3:0.6b"), name="mine", tags=("mine",))
    path = keep(tmp_path, shape)
    assert find_model("mine", folder=tmp_path).vocab == shape.vocab
    path.unlink()
    keep(tmp_path, replace(shape, quant="Q8_0"))
    assert find_model("mine", folder=tmp_path).quant == "Q8_0"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("blocks: 28", "blocks: 29"),
        ("blocks: 28", "blocks: -1"),
        ("tied: true", "tied: perhaps"),
        ("vocab: 151936", "vocab: many"),
        ("kv_heads: [28, 8]", "kv_heads: [28]"),
        ("kv_heads: [28, 8]", "kv_heads: [9999999, 8]"),
        ("window: 0", "windows: 0"),
    ],
)
def test_mistakes_on_a_card_have_a_place(tmp_path, old, new):
    path = keep(tmp_path, replace(find_model("qwen3:0.6b"), tags=("mine",)))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(OgenError) as caught:
        find_model("mine", folder=tmp_path)
    assert caught.value.where is not None


def test_gguf_files_stay_inside_of_the_project(tmp_path):
    project, outside = tmp_path / "project", tmp_path / "outside.gguf"
    project.mkdir()
    outside.write_bytes(headers()["qwen3-8b", "Q4_K_M"])
    (project / "in.gguf").write_bytes(headers()["qwen3-8b", "Q8_0"])
    assert find_model("./in.gguf", folder=project).quant == "Q8_0"
    (project / "link.gguf").symlink_to(outside)
    for ref in ("../outside.gguf", str(outside), "link.gguf"):
        with pytest.raises(OgenError, match="outside of the project"):
            find_model(ref, folder=project)
