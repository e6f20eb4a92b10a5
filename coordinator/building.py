"""The coordinator's parts, put together over a store and a registry."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from coordinator.addresses import Endpoints
from coordinator.admission import Admission
from coordinator.answer_trail import AnswerTrail
from coordinator.aside import AsideContributions
from coordinator.bearer_tokens import BearerTokens
from coordinator.config import CoordinatorConfig, CoordinatorFolder
from coordinator.contribution_intake import ContributionIntake
from coordinator.contributions import ContributionFiles
from coordinator.envelope_files import EnvelopeFiles
from coordinator.federation import Federation
from coordinator.fence_marks import FenceMarks
from coordinator.gate_candidates import Candidates
from coordinator.gate_files import GateFiles
from coordinator.gate_keeper import GateKeeper, GateParts
from coordinator.gate_making import GateMaker, MakerParts
from coordinator.gate_publication import GatePublication
from coordinator.gate_records import GateRecords
from coordinator.gate_retention import GateRetention
from coordinator.gate_trials import TrialRound
from coordinator.growth import Growth
from coordinator.growth_building import GrowthBuilder
from coordinator.growth_lineage import LineageRegistry
from coordinator.growth_policy import GrowthPolicies
from coordinator.heads import Heads
from coordinator.inference import Inference
from coordinator.intended import Intended
from coordinator.join_tokens import JoinTokens
from coordinator.journal import Journal
from coordinator.judgements import Judgements
from coordinator.live_nodes import LiveNodes
from coordinator.may_return import MayReturn
from coordinator.members import Members
from coordinator.membership import Membership, MembershipParts
from coordinator.older_gates import OlderGates
from coordinator.open_inference.serving import OpenInference
from coordinator.open_inference.single_expert import SingleExpert
from coordinator.open_inference.statistics import Statistics
from coordinator.profile_files import ProfileFiles
from coordinator.profiles import Profiles
from coordinator.replicas import Replicas
from coordinator.revocations import Revocations
from coordinator.root_expert import RootExpert
from coordinator.solver_process import Solver
from coordinator.specifications import Specifications
from coordinator.status import StatusView
from coordinator.token_book import TokenBook
from coordinator.token_claims import TokenClaims
from coordinator.trunk_loading import trunk_loader
from swarm.answering.call_times import CallTimes
from swarm.answering.expert_calls import ExpertCalls
from swarm.answering.feature_service import FeatureService
from swarm.answering.front_door import FrontDoor, GuardedInference
from swarm.answering.query_queue import QueryQueue
from swarm.answering.rate_limits import RateLimits
from swarm.answering.routing import Router
from swarm.answering.vouching import SignedAnswers
from swarm.domain.errors import NotReadyError, SwarmError, UnreachableError
from swarm.domain.ids import Digest, ExpertId
from swarm.domain.inference import SocketBytes
from swarm.domain.membership import Event
from swarm.modules.blobs import BlobFiles
from swarm.registry.store import MetadataStore
from swarm.trust.ca import CertificateAuthority
from swarm.trust.identity import Identity

REBUILD_EVENT = "registry.rebuild"
"""The registry asks everybody to bring what they keep."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinator:
    """The parts of one coordinator; `membership`, `keeper`, `router` and `growth` implement the ports."""

    membership: Membership
    keeper: GateKeeper
    router: GuardedInference
    door: FrontDoor
    trail: AnswerTrail
    open_inference: OpenInference
    growth: Growth
    policies: GrowthPolicies
    federation: Federation
    admission: Admission
    members: Members
    revocations: Revocations
    specifications: Specifications
    heads: Heads
    live: LiveNodes
    tokens: JoinTokens
    bearer_tokens: BearerTokens
    journal: Journal
    publication: GatePublication
    retention: GateRetention
    features: FeatureService
    root: RootExpert
    registry: LineageRegistry
    replicas: Replicas
    blobs: BlobFiles
    store: MetadataStore

    async def synchronise(self) -> None:
        """Bring the store and this coordinator to the same; UnreachableError while the store is away."""
        is_lost = await self.store.specification() is None
        await self.members.synchronise()
        await self.revocations.synchronise()
        await self.tokens.synchronise()
        await self.heads.refresh()
        await self.keeper.synchronise()
        # The last: leases are granted, and versions taken back, only in a store that has one.
        await self.specifications.synchronise()
        await self.keeper.follow_gate()
        await self.membership.finish_leaves()
        await self.keeper.drop_withdrawn()
        await self.journal.catch_up()
        await self.membership.expect_back()
        await self._publish_calmly(everything=is_lost)
        self.retention.notice_gate()

    async def on_event(self, event: Event) -> None:
        """Follow one event of the store and pass it on to the nodes."""
        await self.heads.on_event(event)
        if event.kind == REBUILD_EVENT:
            await self.synchronise()
            await self._publish_calmly(everything=True)
        self.live.announce(event=event)
        if event.kind == "expert.withdrawn":
            self.keeper.notice_withdrawal()
        elif expert := dict(event.fields).get("expert"):
            self.keeper.notice_head(ExpertId(expert))

    async def publish_late(self) -> None:
        """Give the registry what it lacks of the trunk, the active gate and, in a while, its root."""
        trunk = self._trunk_blobs()
        here = [blob for blob in trunk if self.blobs.has(blob)]
        for blob in await self.registry.missing(here):
            await self.registry.publish_blob(blob, await asyncio.to_thread(self.blobs.open_verified, blob))
        await self.publication.publish_arrays()
        self.root.notice_gate()

    async def warm(self) -> None:
        """Load the trunk ahead of the first query, fetching its blobs where they are not here."""
        try:
            for blob in self.blobs.missing(self._trunk_blobs()):
                await asyncio.to_thread(self.blobs.put, await self.registry.fetch_blob(blob))
            await self.features.warm()
        except SwarmError as error:
            log.error("trunk.not_loaded", reason=str(error))

    async def close(self) -> None:
        """Stop; changes under way end before the nodes' streams do, so that none is judged by nobody."""
        await self.growth.stop()
        await self.keeper.stop()
        await self.retention.stop()
        await self.root.stop()
        await self.membership.close()
        await self.features.close()

    async def put_back(self) -> None:
        """Give a registry that lost its store or its blobs what the coordinator keeps: trunk, the arrays of
        every gate in reach, the root's versions. What cannot be given now is given by the next call."""
        await self.publish_late()
        await self.publication.publish_kept_arrays()
        await self.root.put_back()

    async def _publish_calmly(self, *, everything: bool = False) -> None:
        try:
            await (self.put_back() if everything else self.publish_late())
        except (UnreachableError, NotReadyError) as error:
            log.warning("registry.away", reason=str(error))

    def _trunk_blobs(self) -> list[Digest]:
        return [Digest(blob) for blob in sorted(self.admission.trunk_blobs())]


async def build(
    *,
    config: CoordinatorConfig,
    ca: CertificateAuthority,
    identity: Identity,
    store: MetadataStore,
    registry: LineageRegistry,
    endpoints: Endpoints,
    clock: Callable[[], float],
    socket_bytes: Callable[[], SocketBytes],
    certificate_days: Callable[[], float],
) -> Coordinator:
    """Return a coordinator in the state that its folder holds; store and registry may be away."""
    folder = CoordinatorFolder(config.home.coordinator)
    signer, keyring = identity.required_signer(), identity.keyring()
    blobs = await asyncio.to_thread(BlobFiles, folder.blobs)
    members = Members(keyring, store, EnvelopeFiles(folder.records))
    revocations = Revocations(keyring, signer, store, EnvelopeFiles(folder.revocations), clock)
    specifications = Specifications(
        keyring, signer, store, EnvelopeFiles(folder.specifications), Intended(folder.intended_specification)
    )
    journal = Journal(store, clock)
    heads = Heads(store, members, EnvelopeFiles(folder.heads), EnvelopeFiles(folder.tombstones))
    await heads.load()
    live = LiveNodes(clock)
    publication = GatePublication(
        store=store,
        registry=registry,
        files=GateFiles(
            EnvelopeFiles(folder.gates), blobs, keyring, lambda: specifications.current.value.trunk
        ),
        intended=Intended(folder.intended_gate),
        signer=signer,
        clock=clock,
        announce=lambda envelope: live.announce(gate=envelope),
    )
    await publication.load()
    contributions = await asyncio.to_thread(ContributionFiles, folder.contributions)
    gates = publication.files
    aside = AsideContributions(contributions, heads, lambda digest: gates.first_with(digest) > 0)
    await asyncio.to_thread(aside.load)
    solver = Solver(folder.solver, folder.contributions, folder.blobs)
    root = RootExpert(
        active=lambda: publication.active,
        specification=lambda: specifications.current.value,
        heads=heads,
        solver=solver,
        registry=registry,
        blobs=blobs,
        signer=signer,
        clock=clock,
        kept=EnvelopeFiles(folder.own_versions),
    )
    candidates = Candidates(
        heads=heads,
        specifications=specifications,
        publication=publication,
        solver=solver,
        top_k=config.gate_top_k,
    )
    gate_is_new: list[Callable[[], None]] = [root.notice_gate]
    judgements = await asyncio.to_thread(lambda: Judgements(EnvelopeFiles(folder.judgements)))
    making = MakerParts(
        heads=heads,
        live=live,
        journal=journal,
        specifications=specifications,
        publication=publication,
        candidates=candidates,
        trials=TrialRound(live),
        judgements=judgements,
        activated=lambda: _notice(gate_is_new),
    )
    maker = GateMaker(making)
    records = GateRecords(store, journal, contributions, publication)
    growing = GrowthBuilder(
        config=config,
        making=making,
        maker=maker,
        records=records,
        contributions=contributions,
        store=store,
        registry=registry,
        clock=clock,
    )
    changes = await asyncio.to_thread(growing.changes)
    returning = growing.returning(changes)
    changing = asyncio.Lock()
    intake = ContributionIntake(
        store=store,
        members=members,
        heads=heads,
        specifications=specifications,
        contributions=contributions,
        aside=aside,
        solver=solver,
        records=records,
        maker=maker,
        growth=changes,
        changing=changing,
    )
    keeper = GateKeeper(
        GateParts(
            heads=heads,
            specifications=specifications,
            contributions=contributions,
            aside=aside,
            publication=publication,
            records=records,
            intake=intake,
            maker=maker,
            judgements=judgements,
            growth=changes,
            returning=returning,
            changing=changing,
        )
    )
    log_file = config.home.run / "federation.log"
    federation = Federation(live, lambda: specifications.current.value, log_file)
    growth, policies = growing.growth(changes, returning, keeper, federation)
    gate_is_new.append(policies.notice_gate)
    retention = GateRetention(
        files=gates,
        contributions=contributions,
        changing=changing,
        kept=config.gate_versions_kept,
        beside=MayReturn(
            aside=aside,
            book=changes.book,
            returning=returning,
            publication=publication,
            specifications=specifications,
            heads=heads,
        ).named,
    )
    gate_is_new.append(retention.notice_gate)
    try:
        await keeper.follow_gate(at_start=True)
    except SwarmError as error:  # a damaged file of a contribution or gate: queries are answered all the same
        log.error("growth.not_in_step", reason=str(error))
    times = CallTimes()
    replicas = Replicas(
        live=live,
        heads=heads,
        active=lambda: keeper.active,
        times=times,
        replicas=config.replicas,
        grace_s=config.replica_grace_s,
    )
    token_book = await asyncio.to_thread(TokenBook, folder.token_book)
    admission = Admission(
        ca=ca,
        store=store,
        members=members,
        revocations=revocations,
        specifications=specifications,
        journal=journal,
        claims=TokenClaims(book=token_book, store=store, clock=clock),
        coordinator_record=identity.record,
        endpoints=endpoints,
        clock=clock,
    )
    tokens = JoinTokens(store, signer, ca.pin, endpoints, folder.tokens, clock, token_book)
    bearer_tokens = await asyncio.to_thread(BearerTokens, folder.bearer_tokens, signer, clock)
    status = StatusView(
        store=store,
        members=members,
        revocations=revocations,
        specifications=specifications,
        heads=heads,
        live=live,
        keeper=keeper,
        replicas=replicas,
        started_at=clock(),
        clock=clock,
        socket_bytes=socket_bytes,
        certificate_days=certificate_days,
    )
    membership = Membership(
        MembershipParts(
            store=store,
            members=members,
            revocations=revocations,
            specifications=specifications,
            heads=heads,
            live=live,
            keeper=keeper,
            admission=admission,
            tokens=tokens,
            bearer_tokens=bearer_tokens,
            journal=journal,
            fences=await asyncio.to_thread(FenceMarks, folder.fences),
            status=status,
            signer=signer,
            clock=clock,
        )
    )
    calls = ExpertCalls(live, times, replicas.wait_for)
    features = FeatureService(trunk_loader(specifications, blobs, config.import_paths))
    older = OlderGates(
        gates,
        lambda leaf: heads.is_withdrawn(leaf.expert) or revocations.is_revoked(leaf.owner),
        withdrawn=lambda: (heads.withdrawn, keyring.revoked),
    )
    router = Router(
        active=lambda: keeper.active,
        specification=lambda: specifications.current.value,
        heads=heads,
        features=features,
        calls=calls,
        older=older.get,
    )
    inference = Inference(
        active=lambda: keeper.active,
        specification=lambda: specifications.current.value,
        features=features,
        router=router,
        profiles=Profiles(
            files=await asyncio.to_thread(ProfileFiles, folder.profiles),
            contributions=contributions,
            aside=aside,
            solver=solver,
            trunk=lambda: specifications.current.value.trunk,
        ),
    )
    trail = AnswerTrail(folder.audit, config.audit_days, clock)
    door = FrontDoor(QueryQueue(), RateLimits(config.query_rate, dict(config.query_rates)), trail)
    signed = SignedAnswers(inference, identity.id, identity.swarm, signer, clock)
    guarded = GuardedInference(signed, door)
    return Coordinator(
        membership=membership,
        keeper=keeper,
        router=guarded,
        door=door,
        trail=trail,
        open_inference=OpenInference(
            router=signed,
            experts=SingleExpert(calls, lambda: specifications.current.value),
            heads=heads,
            active=lambda: keeper.active,
            older=older,
            specification=lambda: specifications.current.value,
            statistics=Statistics(clock),
            door=door,
        ),
        growth=growth,
        policies=policies,
        federation=federation,
        admission=admission,
        members=members,
        revocations=revocations,
        specifications=specifications,
        heads=heads,
        live=live,
        tokens=tokens,
        bearer_tokens=bearer_tokens,
        journal=journal,
        publication=publication,
        retention=retention,
        features=features,
        root=root,
        registry=registry,
        replicas=replicas,
        blobs=blobs,
        store=store,
    )


def _notice(listeners: Sequence[Callable[[], None]]) -> None:
    for listener in listeners:
        listener()
