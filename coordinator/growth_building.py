"""Growth, put together over the gate's parts."""

from collections.abc import Callable
from dataclasses import dataclass

from coordinator.config import CoordinatorConfig, CoordinatorFolder
from coordinator.contributions import ContributionFiles
from coordinator.envelope_files import EnvelopeFiles
from coordinator.federation import Federation
from coordinator.federation_regions import NovelRegions
from coordinator.gate_keeper import GateKeeper
from coordinator.gate_making import GateMaker, MakerParts
from coordinator.gate_records import GateRecords
from coordinator.growth import Growth
from coordinator.growth_book import GrowthBook
from coordinator.growth_changes import ChangeParts, GrowthChanges
from coordinator.growth_lineage import LineageRegistry
from coordinator.growth_making import GrowthParts
from coordinator.growth_policy import GrowthPolicies, PolicyParts
from coordinator.growth_return import ReturningOwners
from coordinator.growth_settings import GrowthSettings
from coordinator.growth_split import ExactSplits
from coordinator.growth_trial import GrowthTrial
from swarm.registry.store import MetadataStore


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthBuilder:
    """What growth is made of: `changes` before the keeper, which carries them out, `growth` after it."""

    config: CoordinatorConfig
    making: MakerParts
    maker: GateMaker
    records: GateRecords
    contributions: ContributionFiles
    store: MetadataStore
    registry: LineageRegistry
    clock: Callable[[], float]

    def changes(self) -> GrowthChanges:
        """Return what takes proposals into the gate. Reads the proposals' files."""
        making, folder = self.making, CoordinatorFolder(self.config.home.coordinator)
        return GrowthChanges(
            ChangeParts(
                book=GrowthBook(EnvelopeFiles(folder.proposals), making.journal),
                records=self.records,
                publication=making.publication,
                specifications=making.specifications,
                contributions=self.contributions,
                maker=self.maker,
                trial=GrowthTrial(self.maker, making),
                splits=ExactSplits(self.contributions, making.heads),
                clock=self.clock,
            )
        )

    def returning(self, changes: GrowthChanges) -> ReturningOwners:
        """Return the way back of owners that were retired."""
        return ReturningOwners(
            book=changes.book,
            records=self.records,
            publication=self.making.publication,
            specifications=self.making.specifications,
            contributions=self.contributions,
            maker=self.maker,
        )

    def growth(
        self, changes: GrowthChanges, returning: ReturningOwners, keeper: GateKeeper, federation: Federation
    ) -> tuple[Growth, GrowthPolicies]:
        """Return what answers people and nodes, and what proposes of its own accord."""
        making, config = self.making, self.config
        folder = CoordinatorFolder(config.home.coordinator)
        settings = GrowthSettings(folder.growth_policy, config.growth)
        growth = Growth(
            GrowthParts(
                book=changes.book,
                changes=changes,
                keeper=keeper,
                publication=making.publication,
                records=self.records,
                specifications=making.specifications,
                heads=making.heads,
                live=making.live,
                store=self.store,
                journal=making.journal,
                registry=self.registry,
                settings=settings,
                clock=self.clock,
            ),
            patience_s=config.growth_patience_s,
        )
        policies = GrowthPolicies(
            PolicyParts(
                growth=growth,
                returning=returning,
                keeper=keeper,
                book=changes.book,
                settings=settings,
                publication=making.publication,
                records=self.records,
                specifications=making.specifications,
                heads=making.heads,
                live=making.live,
                find_regions=NovelRegions(federation).find,
                clock=self.clock,
            ),
            every_s=config.growth_every_s,
            criterion=config.growth_criterion,
            stale_after_s=config.growth_stale_after_s,
            started_at=self.clock(),
        )
        growth.on_policy = policies.notice_gate
        return growth, policies
