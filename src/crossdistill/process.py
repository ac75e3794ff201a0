"""This process as the system sees it."""

from pathlib import Path


def peak_memory_of_process() -> int:
    """Bytes: the most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():
        # Of this program alone: what `getrusage` reports begins at the peak of the process that started it.
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    import resource

    # macOS reports bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
