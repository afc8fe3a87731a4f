"""What exporters of card figures call them: each dialect's expressions for the names that ogen records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

CARDS_JOB = "ogen-cards"  # the scrape of an exporter beside the node_exporter
MIB = 1024 * 1024

Figure = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Dialect:
    """`port`: the exporter's own; None: the monitor's figures, which come with the node_exporter's."""

    name: str
    exporter: str
    port: int | None
    series: Mapping[str, str]  # recorded figure → expression with the labels host, group, gpu, uuid


def _figures(used: str, total: str, utilization: str, temperature: str, power: str) -> dict[str, str]:
    return {
        "memory_used:bytes": used,
        "memory_total:bytes": total,
        "utilization:ratio": utilization,
        "temperature:celsius": temperature,
        "power:watts": power,
    }


def _ogen() -> dict[str, str]:
    return _figures(
        "ogen_gpu_memory_used_bytes",
        "ogen_gpu_memory_total_bytes",
        "ogen_gpu_utilization_ratio",
        "ogen_gpu_temperature_celsius",
        "ogen_gpu_power_watts",
    )


def _dcgm() -> dict[str, str]:
    """DCGM counts in MiB and percent, and calls the UUID `UUID`."""

    def named(expr: str) -> str:
        return f'label_replace({expr}, "uuid", "$1", "UUID", "(.*)")'

    return _figures(
        named(f"DCGM_FI_DEV_FB_USED * {MIB}"),
        named(f"(DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE) * {MIB}"),
        named("DCGM_FI_DEV_GPU_UTIL / 100"),
        named("DCGM_FI_DEV_GPU_TEMP"),
        named("DCGM_FI_DEV_POWER_USAGE"),
    )


def _nvidia_smi() -> dict[str, str]:
    """nvidia_gpu_exporter has base units; the index is a figure there, and UUIDs lack their `GPU-`."""
    index = 'count_values by (host, uuid) ("gpu", nvidia_smi_index)'

    def named(metric: str) -> str:
        joined = f"{metric} * on (host, uuid) group_left (gpu) {index}"
        return f'label_replace({joined}, "uuid", "GPU-$1", "uuid", "([0-9a-f]{{8}}-.*)")'

    return _figures(
        named("nvidia_smi_memory_used_bytes"),
        named("nvidia_smi_memory_total_bytes"),
        named("nvidia_smi_utilization_gpu_ratio"),
        named("nvidia_smi_temperature_gpu"),
        named("nvidia_smi_power_draw_watts"),
    )


def _nvitop() -> dict[str, str]:
    """nvitop-exporter counts in MiB and percent, and calls the index `index`."""

    def named(expr: str) -> str:
        return f'label_replace({expr}, "gpu", "$1", "index", "(.*)")'

    return _figures(
        named(f"gpu_memory_used_MiB * {MIB}"),
        named(f"gpu_memory_total_MiB * {MIB}"),
        named("gpu_utilization_Percentage / 100"),
        named("gpu_temperature_C"),
        named("gpu_power_usage_W"),
    )


DIALECTS: Mapping[str, Dialect] = {
    "ogen": Dialect("ogen", "ogen's monitor, through the node_exporter's textfile collector", None, _ogen()),
    "dcgm": Dialect("dcgm", "NVIDIA's dcgm-exporter", 9400, _dcgm()),
    "nvidia-smi": Dialect("nvidia-smi", "nvidia_gpu_exporter", 9835, _nvidia_smi()),
    "nvitop": Dialect("nvitop", "nvitop-exporter", 8000, _nvitop()),
}
