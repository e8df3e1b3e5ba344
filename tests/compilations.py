"""How often anything was compiled in this process, as JAX itself reports it."""

import jax

_heard: list[str] = []


def _listen(event: str, *_, **__) -> None:
    if "backend_compile" in event:
        _heard.append(event)


jax.monitoring.register_event_duration_secs_listener(_listen)


def compilations() -> int:
    """So many since the first import."""
    return len(_heard)
