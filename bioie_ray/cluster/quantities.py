"""Amounts as Kubernetes writes them."""

from __future__ import annotations


def resources(cpus: str, cpu_limit: str, memory: str, ephemeral: str) -> dict[str, dict[str, str]]:
    """Requests and limits of a container: the same but for CPUs, which may be used beyond the request."""
    fixed = {"memory": memory, "ephemeral-storage": ephemeral}
    return {"requests": {"cpu": cpus, **fixed}, "limits": {"cpu": cpu_limit, **fixed}}


def show_cpus(cpus: float) -> str:
    """CPUs, in thousandths where they are no whole number."""
    return show_number(cpus) if float(cpus).is_integer() else f"{round(cpus * 1000)}m"


def show_bytes(size: int) -> str:
    """Bytes in the largest binary unit that keeps them whole, else in MiB rounded up."""
    for unit, power in (("Gi", 30), ("Mi", 20)):
        if size % 2**power == 0:
            return f"{size >> power}{unit}"
    return f"{-(-size >> 20)}Mi"


def show_number(value: float) -> str:
    """A number without trailing zeros."""
    return f"{value:g}"
