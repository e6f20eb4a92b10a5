"""The policy of growth, as it was set last: at run time, or by another setting at a start."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import structlog
from pydantic import TypeAdapter, ValidationError

from swarm.domain.growth import GrowthPolicy
from swarm.domain.tensors import FORBID_UNKNOWN
from swarm.trust.key_files import write_file

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """`configured` was the setting at the start under which `policy` was chosen."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    policy: GrowthPolicy
    configured: GrowthPolicy


class GrowthSettings:
    """What was set at run time stays over restarts, until a start is configured otherwise than before."""

    def __init__(self, path: Path, configured: GrowthPolicy) -> None:
        self._path, self._configured = path, configured
        self._policy = configured
        try:
            kept = TypeAdapter(_Kept).validate_json(path.read_bytes())
        except FileNotFoundError:
            return
        except ValidationError as error:
            log.error("growth.policy_damaged", path=str(path), reason=str(error)[:200])
            return
        if kept.configured == configured:
            self._policy = kept.policy

    @property
    def policy(self) -> GrowthPolicy:
        return self._policy

    def set(self, policy: GrowthPolicy) -> None:
        """Change the policy, durably."""
        kept = _Kept(policy=policy, configured=self._configured)
        write_file(self._path, TypeAdapter(_Kept).dump_json(kept), 0o600)
        self._policy = policy
