"""What can be set, once: flag > environment (`SWARM_*`) > the home's TOML file > default.

The TOML file is `swarm.toml` in the founder's home (a node's own is read by `node.config`). Redis's
address may hold a password, so it comes from the environment or a flag only.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    ByteSize,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from swarm.config import (
    COORDINATOR_HTTP_PORT,
    COORDINATOR_JOIN_PORT,
    COORDINATOR_PORT,
    GATE_VERSIONS_KEPT,
    LOOPBACK,
    REGISTRY_PORT,
    SwarmHome,
)
from swarm.domain.collection import KeptAncestors, RetentionPolicy
from swarm.domain.errors import UsageError
from swarm.domain.growth import Criterion, GrowthPolicy

SECRETS = ("redis_url",)
_FLAGS = {
    "registry_port": "--port",
    "coordinator_port": "--port",
    "registry_blobs": "--blobs",
    "import_paths": "--import-path",
    "log_json": "--log-json",
}
"""Where a flag is not named as its setting."""


def _whole_bytes(value: Any, read: ValidatorFunctionWrapHandler) -> ByteSize:
    """Read a size; refuse one below 0, and one that is not 0 but below a byte."""
    size: ByteSize = read(value)
    number = re.match(r"[\s0.]*[1-9]", str(value))
    if size < 0 or (size == 0 and number):
        raise ValueError("0, or a byte at least")
    return size


def _table(value: Any) -> Any:
    """Read a table that a variable says in JSON, or as nothing at all."""
    try:
        return (json.loads(value) if value.strip() else {}) if isinstance(value, str) else value
    except json.JSONDecodeError:
        raise ValueError("a table in JSON") from None


class Settings(BaseSettings):
    """Every setting of the services and of the command, with its default."""

    model_config = SettingsConfigDict(env_prefix="SWARM_", extra="forbid", frozen=True)

    listen: str = "127.0.0.1"
    """The address that services listen on; `0.0.0.0` for other machines."""
    join_port: int = Field(default=COORDINATOR_JOIN_PORT, ge=0, le=65535)
    coordinator_port: int = Field(default=COORDINATOR_PORT, ge=0, le=65535)
    registry_port: int = Field(default=REGISTRY_PORT, ge=0, le=65535)
    http_listen: str = LOOPBACK
    """Where inference over HTTP listens: on another address than loopback over TLS and with bearer tokens.
    Empty: nowhere."""
    http_port: int = Field(default=COORDINATOR_HTTP_PORT, ge=0, le=65535)
    loopback_port: int | None = Field(default=None, ge=0, le=65535)
    """Inference over gRPC without TLS, for this machine only; not unless a port is named."""
    redis_url: str = ""
    """`unix:///path/redis.sock` or `redis://host:6379/0`; empty: that of `swarm redis` in this home."""
    registry_blobs: str = ""
    """`s3://BUCKET/PREFIX` (credentials from AWS_*) or a folder, relative to this home; empty:
    `registry/blobs`."""
    advertise: str = ""
    """The host that other machines reach this one by; empty: the host that they joined through."""
    gate_top_k: int = Field(default=2, ge=1, le=64)
    """How many experts a new gate asks about a query."""
    gate_versions_kept: int = Field(default=GATE_VERSIONS_KEPT, ge=1, le=1_000_000)
    """Of so many of the newest gate versions all arrays are kept: to roll back to them, or ask by them."""
    query_rate: float = Field(default=0.0, ge=0)
    """About how many rows a second each caller may ask in the long run; 0: as many as it likes."""
    query_rates: Annotated[dict[str, float], NoDecode, BeforeValidator(_table)] = Field(default_factory=dict)
    """The rates of those named, as `{"client/ada": 100}`; 0: no limit for that one. Empty: none."""
    audit_days: int = Field(default=30, ge=0, le=3650)
    """For so many days the coordinator keeps who was answered what; 0: it does not write that down."""
    registry_node_quota: Annotated[ByteSize, WrapValidator(_whole_bytes)] = ByteSize(0)
    """What each node may fill in the registry, as `20GB` or a number of bytes; 0: no limit."""
    registry_direct_io: bool = False
    """Large uploads go past the page cache: in a virtual machine that gives unused memory back."""
    registry_keep_versions: int = Field(default=RetentionPolicy().keep_versions, ge=0, le=1_000_000)
    """Of so many of the newest versions of each expert the weights stay; 0: of all."""
    registry_keep_ancestors: KeptAncestors = RetentionPolicy().keep_ancestors
    """Of which ancestors of heads the weights stay besides: other experts' (`borrowed`), `all`, or `none`."""
    growth: GrowthPolicy = "manual"
    """Who proposes that the gate grows: people only, or the coordinator too (`conservative`, `eager`)."""
    growth_every_s: float = Field(default=300.0, gt=0)
    """How often the coordinator looks for what to propose."""
    growth_criterion: Criterion = "loss"
    """Which leaf is split: that of the largest summed validation loss, or the most used one (`usage`)."""
    growth_stale_after_s: float = Field(default=7 * 86_400.0, gt=0)
    """An owner without a lease for so long is proposed to be retired."""
    growth_patience_s: float = Field(default=120.0, gt=0)
    """An owner that is away for so long, or does not take its proposal up, ends it."""
    replicas: int = Field(default=2, ge=1, le=16)
    """On so many nodes, the owner counted, the modules of each leaf are to be loaded."""
    replica_grace_s: float = Field(default=30.0, ge=0)
    """A node that is gone for so long is replaced as holder of others' experts."""
    import_paths: tuple[str, ...] = ()
    """Folders that lead the trunk's `package.module` name to its file."""
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    log_json: bool = True
    timeout_s: float = Field(default=30.0, gt=0)
    """How long the command waits for one answer."""


def load_settings(home: Path, **flags: Any) -> Settings:
    """Return the settings of a home; a flag that is None was not given.

    Raises UsageError naming the setting and where the wrong value came from.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    file = SwarmHome(home).settings

    class HomeSettings(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            toml = TomlConfigSettingsSource(settings_cls, toml_file=file)
            refuse_secrets(toml.toml_data, file)
            return init_settings, env_settings, toml

    try:
        return HomeSettings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        known = name in Settings.model_fields
        raise UsageError(
            f"setting {name}",
            found=f"{first.get('input')!r}" if known else "a setting that is not known here",
            expected=_wanted(first["msg"]) if known else f"one of {', '.join(Settings.model_fields)}",
            remedy=f"correct {', '.join(_spellings(name, flags))}, or {name} in {file}",
        ) from None
    except ValueError as error:  # a TOML file that is not TOML
        raise UsageError(str(file), found=str(error), expected="TOML") from None


def _wanted(said: str) -> str:
    """Return what pydantic says of a wrong value, as what was expected instead."""
    told = said.removeprefix("Input should be ").removeprefix("Value error, ").partition(", unable to ")[0]
    return told if told != said else f"another value: {said}"


def _spellings(name: str, flags: Mapping[str, Any]) -> list[str]:
    """Return how a command's user may have said a setting: by its flag, where it has one, or the variable."""
    flag = [_FLAGS.get(name, f"--{name.replace('_', '-')}")] if name in flags else []
    return [*flag, f"SWARM_{name.upper()}"]


def refuse_secrets(data: dict[str, Any], file: Path) -> None:
    """Raise UsageError when a TOML file holds what may be a secret."""
    for name in SECRETS:
        if name in data:
            raise UsageError(
                f"{name} in {file}",
                found="a setting that may hold a password, in a TOML file",
                expected="secrets in the environment only",
                remedy=f"remove it there and set SWARM_{name.upper()}",
            )
