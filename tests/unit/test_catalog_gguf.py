"""GGUF headers: true ones, split ones, and everything that can be wrong with one."""

import struct
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ogen.catalog import gguf
from ogen.errors import CatalogError
from ogen.fit import Settings, account

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from _truth import document, header, headers


class Bytes:
    def __init__(self, data, name="x.gguf"):
        self.data, self.name, self.asked = data, name, 0

    def read(self, offset, length):
        self.asked = max(self.asked, length)
        return self.data[offset : offset + length]


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def pair(key, kind, payload):
    return text(key) + struct.pack("<I", kind) + payload


def tensor(name, dims, kind=0):
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, 0)


def file(pairs=(), tensors=(), version=3, counts=None):
    n_tensors, n_pairs = counts or (len(tensors), len(pairs))
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs) + b"".join(pairs) + b"".join(tensors)


def test_every_header_has_the_sizes_that_llama_cpp_says():
    """Tensor bytes, bytes of each block and sliding window blocks of all headers."""
    checked = 0
    for record in document()["records"]:
        key = record["model"], record["quant"]
        if key not in headers():
            continue
        shape = header(*key).shape()
        assert shape.tensor_bytes == record["tensor_bytes"], key
        assert list(shape.block_bytes) == record["blocks"], key
        assert [i for i, w in enumerate(shape.windowed) if w] == record["swa_layers"], key
        assert shape.quant == record["quant"]
        checked += 1
    assert checked == len(headers()) == 92


def test_a_tokenizer_is_walked_over_and_not_kept():
    words = [text(f"word{n}") for n in range(20_000)]
    array = struct.pack("<IQ", 8, len(words)) + b"".join(words)
    scores = struct.pack("<IQ", 6, 20_000) + b"\0" * 80_000
    data = file([pair("t.tokens", 9, array), pair("t.scores", 9, scores), pair("k", 4, struct.pack("<I", 7))])
    found = gguf.parse(Bytes(data))
    assert found.metadata == {"t.tokens": gguf.Skipped(20_000), "t.scores": gguf.Skipped(20_000), "k": 7}
    assert found.size == len(data)


def test_big_endian_files_are_read():
    data = b"GGUF" + struct.pack(">IQQ", 3, 0, 1) + struct.pack(">Q", 1) + b"k" + struct.pack(">II", 4, 9)
    assert gguf.parse(Bytes(data)).metadata == {"k": 9}


def test_every_cut_of_a_header_is_an_error():
    data = headers()["llama3.2-3b", "Q4_K_M"]
    end = gguf.parse(Bytes(data)).size
    for length in [*range(700), *range(700, end, 61), end - 1]:
        with pytest.raises(CatalogError):
            gguf.parse(Bytes(data[:length]))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "ends within"),
        (b"ELF!" + bytes(40), "no GGUF"),
        (file(version=1), "version 1"),
        (file(counts=(0, 2**40)), "key-value pairs"),
        (file(counts=(2**40, 0)), "tensors"),
        (file([struct.pack("<Q", 2**60)]), "a text of"),
        (file([pair("k", 8, struct.pack("<Q", 2**30))]), "a text of"),
        (file([pair("k", 77, b"")]), "unknown type"),
        (file([pair("k", 9, struct.pack("<IQ", 8, 2**50))]), "items"),
        (file([pair("k", 9, struct.pack("<IQ", 4, 2**61))]), "longer than"),
        (file([pair("k", 9, struct.pack("<IQ", 9, 1) * 5)]), "nested too deep"),
        (file([pair("k", 9, struct.pack("<IQ", 55, 1))]), "unknown type"),
        (file([pair("k", 4, b"\0" * 4)] * 2), "given twice"),
        (file((), [tensor("a", (32,))] * 2), "one name"),
        (file((), [tensor("a", (32, 2), 99)]), "unknown type"),
        (file((), [tensor("a", (31, 2), 2)]), "impossible dimensions"),
        (file((), [tensor("a", (0, 2))]), "impossible dimensions"),
        (file((), [tensor("a", (2**40, 2**40))]), "impossible dimensions"),
        (file((), [tensor("a", (1,) * 5)]), "5 dimensions"),
    ],
)
def test_hostile_headers_are_clear_errors(data, says):
    with pytest.raises(CatalogError, match=says):
        gguf.parse(Bytes(data + bytes(64) if says != "ends within" else data))


def test_huge_claims_cost_no_memory():
    """A header of a few bytes that claims terabytes is refused before anything is reserved."""
    claims = [
        file([pair("k", 9, struct.pack("<IQ", 4, 2**40))]),
        file([pair("k", 8, struct.pack("<Q", 2**40))]),
        file([pair("k", 9, struct.pack("<IQ", 8, 7_000_000))]),
        file(counts=(131_072, 16_384)),
    ]
    tracemalloc.start()
    for data in claims:
        with pytest.raises(CatalogError):
            gguf.parse(Bytes(data))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 1024 * 1024


def split(tmp_path, parts, **changed):
    data = header("llama3.2-3b", "Q4_K_M")
    kinds = {"F32": 0, "Q4_K": 12, "Q6_K": 14}
    rows = [tensor(t.name, t.dims, kinds[t.type]) for t in data.tensors]
    cut = len(rows) // parts + 1
    for n in range(parts):
        mine = rows[n * cut : (n + 1) * cut]
        pairs = [
            pair("split.no", 2, struct.pack("<H", changed.get("no", n))),
            pair("split.count", 2, struct.pack("<H", parts)),
            pair("split.tensors.count", 5, struct.pack("<i", changed.get("count", len(rows)))),
        ]
        if n == 0:
            for key, value in data.metadata.items():
                if isinstance(value, str):
                    pairs.append(pair(key, 8, text(value)))
                elif isinstance(value, int):
                    pairs.append(pair(key, 4, struct.pack("<I", value)))
        (tmp_path / f"m-{n + 1:05d}-of-{parts:05d}.gguf").write_bytes(file(pairs, mine))
    return tmp_path / f"m-00001-of-{parts:05d}.gguf"


def test_a_split_model_is_read_as_one(tmp_path):
    whole = header("llama3.2-3b", "Q4_K_M").shape("m")
    assert gguf.read(split(tmp_path, 3)).shape("m") == whole


def test_split_models_that_do_not_belong_together(tmp_path):
    first = split(tmp_path, 3)
    (tmp_path / "m-00002-of-00003.gguf").unlink()
    with pytest.raises(CatalogError, match="no such file"):
        gguf.read(first)
    with pytest.raises(CatalogError, match="another part"):
        gguf.read(split(tmp_path, 3, no=1))
    with pytest.raises(CatalogError, match="belong to the model"):
        gguf.read(split(tmp_path, 2, count=999))
    renamed = tmp_path / "lonely.gguf"
    renamed.write_bytes((tmp_path / "m-00001-of-00003.gguf").read_bytes())
    with pytest.raises(CatalogError, match="one part of 3"):
        gguf.read(renamed)


def test_a_file_that_can_not_be_read_is_an_error(tmp_path):
    with pytest.raises(CatalogError, match="no such file"):
        gguf.read(tmp_path / "none.gguf")
    with pytest.raises(CatalogError, match="is a directory"):
        gguf.read(tmp_path)


def test_a_header_without_a_model_is_an_error():
    with pytest.raises(CatalogError, match="no architecture"):
        gguf.parse(Bytes(file())).shape()
    name = pair("general.architecture", 8, text("clip"))
    with pytest.raises(CatalogError, match="missing"):
        gguf.parse(Bytes(file([name]))).shape()
    blocks = pair("clip.block_count", 4, struct.pack("<I", 2**31))
    with pytest.raises(CatalogError, match="more than any model"):
        gguf.parse(Bytes(file([name, blocks]))).shape()


# --------------------------------------------------------------------------------------- mutations
@st.composite
def mutated(draw):
    """A true header with bytes changed, cut out, put in, or cut off, most of them near its start."""
    names = [("gpt-oss-20b", "MXFP4"), ("gemma3-1b", "Q4_K_M"), ("phi3-mini-4k", "Q4_K_M")]
    data = bytearray(headers()[draw(st.sampled_from(names))])
    for _ in range(draw(st.integers(1, 6))):
        reach = draw(st.sampled_from([64, 800, len(data)]))
        at = draw(st.integers(0, max(0, min(reach, len(data)) - 1)))
        what = draw(st.sampled_from(["flip", "set", "cut", "put", "word", "end"]))
        if what == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "set" and data:
            data[at] = draw(st.sampled_from([0, 1, 9, 127, 128, 255]))
        elif what == "cut":
            del data[at : at + draw(st.integers(1, 40))]
        elif what == "put":
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif what == "word":
            data[at : at + 8] = struct.pack(
                "<Q", draw(st.sampled_from([0, 1, 2**31, 2**32, 2**63, 2**64 - 1]))
            )
        else:
            del data[at:]
    return bytes(data)


def survives(data):
    """Either a header, a shape and an account, or a CatalogError; nothing else, and no big read."""
    source = Bytes(data)
    try:
        shape = gguf.parse(source).shape()
    except CatalogError:
        pass
    else:
        assert account(shape, Settings(4096, 2)).total_gpu_bytes > 0
    assert source.asked <= gguf.MAX_STRING


relaxed = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


@settings(max_examples=2500, deadline=None, suppress_health_check=relaxed)
@given(mutated())
def test_mutated_headers(data):
    survives(data)


@pytest.mark.soak
@settings(max_examples=100_000, deadline=None, suppress_health_check=relaxed, database=None)
@given(mutated())
def test_a_hundred_thousand_mutated_headers(data):
    survives(data)
