"""Which ggml type each tensor gets when llama.cpp quantises a model to a mixture such as Q4_K_M.

The rules are those seen in the headers that llama.cpp's own quantiser wrote in a dry run (no
importance matrix); tests hold this function equal to all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import CatalogError
from .tensors import Tensor

_PLAIN = {
    "F32": "F32",
    "F16": "F16",
    "BF16": "BF16",
    "Q8_0": "Q8_0",
    "Q6_K": "Q6_K",
    "Q5_0": "Q5_0",
    "Q5_1": "Q5_1",
    "Q4_0": "Q4_0",
    "Q4_1": "Q4_1",
    "Q5_K_M": "Q5_K",
    "Q5_K_S": "Q5_K",
    "Q4_K_M": "Q4_K",
    "Q4_K_S": "Q4_K",
    "Q3_K_L": "Q3_K",
    "Q3_K_M": "Q3_K",
    "Q3_K_S": "Q3_K",
    "Q2_K": "Q2_K",
    "MXFP4": "Q8_0",  # as ggml-org publishes it
    "MXFP4_BF16": "BF16",  # as the Ollama library does
}
#: best first: the order in which people give up quality
QUANTS = (
    "F32", "BF16", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "MXFP4", "Q4_K_M", "Q4_1",
    "Q4_K_S", "Q4_0", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K",
)  # fmt: skip
_UNQUANTISED = ("ffn_gate_inp", "ssm_conv1d", "shortconv", "position_embd", "token_types", "_norm")
#: rows that are no multiple of 256 can't have a K type
_SHORT_ROWS = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


@dataclass(frozen=True, slots=True)
class _Model:
    quant: str
    blocks: int
    values: int  # tensors that hold values: attn_v or a fused attn_qkv
    gqa: int
    experts: int
    tied: bool
    is_70b: bool


def quantise(
    tensors: Iterable[Tensor], quant: str, *, blocks: int, gqa: int = 1, experts: int = 0
) -> tuple[Tensor, ...]:
    """The tensors with the types of the mixture `quant`; raises CatalogError for one not known."""
    if quant not in _PLAIN:
        raise CatalogError(f"no mixture called {quant!r}", hint=f"known: {', '.join(_PLAIN)}")
    tensors = tuple(tensors)
    names = {t.name for t in tensors}
    values = sum(1 for n in names if n.endswith(("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight")))
    model = _Model(
        quant, blocks, values, gqa, experts, "output.weight" not in names, blocks == 80 and gqa == 8
    )
    seen = 0
    result = []
    for tensor in tensors:
        is_value = tensor.name.endswith(("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight"))
        result.append(Tensor(tensor.name, tensor.dims, _type(tensor, model, seen)))
        seen += is_value
    return tuple(result)


def _type(tensor: Tensor, model: _Model, seen: int) -> str:
    """The type of one tensor; `seen` counts the value tensors before it."""
    name, quant = tensor.name, model.quant
    if len(tensor.dims) < 2 or not name.endswith("weight") or any(part in name for part in _UNQUANTISED):
        return "F32"
    if quant.startswith("MXFP4") and "_exps." in name:
        return "MXFP4"
    wanted = _PLAIN[quant]
    if wanted in ("F32", "F16", "BF16", "Q8_0"):
        return wanted
    role = name.split(".")[2] if name.startswith("blk.") else name.split(".")[0]
    if role == "output" or (role == "token_embd" and model.tied):
        wanted = "Q6_K"
    elif role in ("attn_v", "attn_qkv", "attn_kv_b"):
        wanted = _value(model, seen, wanted)
    elif role == "attn_k" and model.experts == 8:
        wanted = "Q8_0"
    elif role.startswith("ffn_down"):
        wanted = _down(model, int(name.split(".")[1]), wanted)
    elif role == "attn_output":
        wanted = _attention_output(model, wanted)
    return _SHORT_ROWS.get(wanted, wanted) if tensor.dims[0] % 256 else wanted


def _more_bits(i: int, n: int) -> bool:
    """The first and last eighth of the blocks, and every third between them."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def _value(model: _Model, seen: int, wanted: str) -> str:
    quant = model.quant
    if quant == "Q2_K":
        wanted = "Q4_K" if model.gqa >= 4 else "Q3_K"
    elif quant == "Q3_K_M":
        wanted = "Q5_K" if seen < 2 else "Q4_K"
    elif quant == "Q3_K_L":
        wanted = "Q5_K"
    elif quant in ("Q4_K_M", "Q5_K_M") and _more_bits(seen, model.values):
        wanted = "Q6_K"
    elif quant == "Q4_K_S" and seen < 4:
        wanted = "Q5_K"
    if model.is_70b and wanted in ("Q3_K", "Q4_K"):
        wanted = "Q5_K"
    return "Q8_0" if model.experts == 8 else wanted


def _down(model: _Model, block: int, wanted: str) -> str:
    quant, n = model.quant, model.blocks
    if quant == "Q2_K":
        return "Q3_K"
    if quant == "Q3_K_M":
        return "Q5_K" if block < n // 16 else "Q4_K"
    if quant == "Q3_K_L":
        return "Q5_K"
    if quant in ("Q4_K_M", "Q5_K_M") and _more_bits(block, n):
        return "Q6_K"
    if quant == "Q4_K_S" and block < n // 8:
        return "Q5_K"
    return wanted


def _attention_output(model: _Model, wanted: str) -> str:
    quant = model.quant
    if model.experts == 8 and quant in ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M"):
        return "Q5_K"
    return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(quant, wanted)
