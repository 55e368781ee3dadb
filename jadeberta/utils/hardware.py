"""Peak rates, memory and power of the GPUs that the project knows, from the vendors' data sheets; the one table of such figures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DevicePeaks:
    """Peak rates of one kind of GPU."""

    flops: float
    """Dense bf16 tensor peak, FLOP/s; fp16 for V100, which has no bf16."""
    memory_bytes_per_s: float
    """Memory bandwidth, bytes/s."""
    ring_bytes_per_s: float
    """Effective rate of an NVLink ring within a node, bytes/s: 80% of the data sheet's rate in one direction; for A100 the rate in
    NCCL's tuning table (src/graph/tuning.cc)."""
    memory_bytes: float
    """Memory of the smallest model that is sold for servers."""
    board_w: float
    """Largest power of the GPU alone (SXM), W."""
    server_w: float
    """Largest power of the vendor's server with eight of them (DGX), divided by eight, W."""


PEAKS = {
    # Cards for PCIe: lower peaks, NVLink between two of them alone, so 80% of PCIe 5.0 x16 in one direction. There is no DGX with
    # them: the host's share of the power is the SXM server's.
    "H200 NVL": DevicePeaks(835.5e12, 4.8e12, 51e9, 141e9, 600.0, 600 + 575),
    "H100 NVL": DevicePeaks(835.5e12, 3.9e12, 51e9, 94e9, 400.0, 400 + 575),
    "H100 PCIe": DevicePeaks(756e12, 2.0e12, 51e9, 80e9, 350.0, 350 + 575),
    "H200": DevicePeaks(989e12, 4.8e12, 360e9, 141e9, 700.0, 10_200 / 8),
    "H100": DevicePeaks(989e12, 3.35e12, 360e9, 80e9, 700.0, 10_200 / 8),
    "A100": DevicePeaks(312e12, 1.555e12, 235e9, 40e9, 400.0, 6_500 / 8),  # memory of the model with 40 GB
    "V100": DevicePeaks(125e12, 0.9e12, 120e9, 16e9, 300.0, 3_500 / 8),
}
"""Peaks by a part of the device's name, such as "A100" in "NVIDIA A100-SXM4-40GB"."""


def find_peaks(device_name: str) -> DevicePeaks | None:
    """Peaks of a device by its full name; None where the device is not in the table, as for CPUs."""
    return next((peaks for part, peaks in PEAKS.items() if part in device_name), None)


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 peak of a device, FLOP/s; None where the device is not in the table."""
    peaks = find_peaks(device_name)
    return None if peaks is None else peaks.flops
