"""The files in which a node keeps an order that it carries out, and why one failed."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog
from pydantic import TypeAdapter, ValidationError

from swarm.domain.errors import SwarmError, VerificationError
from swarm.domain.growth import GrowthOrder, checked_options
from swarm.rpc.convert.growth import proposal_id

ORDER_FILE, FAILED_FILE = "order.json", "failed.json"
_DAMAGED = "order.damaged"
_ORDER = TypeAdapter(GrowthOrder)
_log = structlog.get_logger(__name__)


def order_fields(order: GrowthOrder) -> dict[str, Any]:
    """Return an order as JSON can keep it; regions lie beside it (`node.growth.adding`)."""
    return {name: each for name, each in asdict(order).items() if name != "regions"}


def order_file(folder: Path) -> Path:
    """Return where a proposal's folder keeps its order, set aside or not."""
    damaged = folder / _DAMAGED
    return damaged if damaged.exists() else folder / ORDER_FILE


def kept_order(folder: Path) -> GrowthOrder:
    """Return the order that a proposal's folder keeps; VerificationError where it was damaged."""
    try:
        order = _ORDER.validate_json(order_file(folder).read_bytes())
        checked_options(order.kind, order.options)
    except ValidationError as error:
        found = f"a damaged file: {error.errors()[0]['msg']}"
    except SwarmError as error:
        found = f"a damaged file: {error}"
    except OSError as error:
        found = f"a file that cannot be read: {error.strerror or type(error).__name__}"
    else:
        if order.proposal == folder.name:
            return order
        found = f"that of {order.proposal[:40]!a}"
    raise VerificationError(
        f"order of {folder.name}",
        found=found,
        expected="an order as it was taken",
        remedy="propose it again",
    )


def set_aside(folder: Path) -> None:
    """Rename an order that cannot be read: whoever looks for orders under way does not meet it."""
    with suppress(OSError):
        (folder / ORDER_FILE).rename(folder / _DAMAGED)


def orders_in(orders: Path) -> Iterator[GrowthOrder]:
    """Yield the orders under way that can be read."""
    for path in orders.glob(f"*/{ORDER_FILE}"):
        with suppress(VerificationError):
            yield kept_order(path.parent)


def is_proposal(name: str) -> bool:
    """Say whether a folder's name can be asked after; another one is left as it is."""
    with suppress(SwarmError):
        return bool(proposal_id(name))
    return False


def kept_reason(folder: Path) -> str:
    """Return why a proposal failed before a restart, as far as that can still be read."""
    try:
        kept = json.loads((folder / FAILED_FILE).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        _log.error("growth.damaged", proposal=folder.name, file=FAILED_FILE, reason=str(error)[:200])
        kept = None
    reason = kept.get("reason") if isinstance(kept, dict) else None
    return reason if isinstance(reason, str) and reason else "a failure; the record of why is damaged"
