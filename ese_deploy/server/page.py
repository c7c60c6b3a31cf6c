"""The page at ``/``, and the status that it shows."""

from functools import cache
from importlib.resources import files

from ese_deploy import __version__
from ese_deploy.server.http import Answer, Call, json_answer
from ese_deploy.server.service import Service

__all__ = ["page", "status"]

# The page loads nothing from elsewhere, and nobody may frame it.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@cache
def _html() -> bytes:
    return (files("ese_deploy.server") / "page.html").read_bytes()


async def page(service: Service, call: Call) -> Answer:
    """``GET /``."""
    headers = {"content-security-policy": _POLICY, "x-content-type-options": "nosniff", "cache-control": "no-cache"}
    return Answer(_html(), content_type="text/html; charset=utf-8", headers=headers)


async def status(service: Service, call: Call) -> Answer:
    """``GET /status``: each target with its quality, what it has answered, and the queue of this process."""
    targets = [
        {
            "name": target.name,
            "model": target.model,
            "target": target.label,
            "depth": target.entry.depth,
            "dim": target.entry.dim,
            "dtype": target.entry.dtype,
            "space": target.entry.space,
            "warm_ms": round(target.lane.warm_seconds * 1000, 3),
            "agreement": next((one.value for one in target.entry.quality if one.metric == "agreement"), None),
            **service.metrics.summary(target.name),
        }
        for target in service.catalog.targets
    ]
    scheduler = service.scheduler
    return json_answer(
        {
            "version": __version__,
            "targets": targets,
            "aliases": service.catalog.aliases,
            "queue": {
                "texts": scheduler.waiting_texts,
                "tokens": scheduler.waiting_tokens,
                "limit_tokens": service.settings.limits.queue_tokens,
            },
            "in_flight": service.in_flight,
            "draining": service.draining,
        }
    )
