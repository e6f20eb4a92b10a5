"""A new leaf that begins with the weights of another swarm's expert, because its owner said so."""

from collections.abc import Sequence

from node.choosing_start import Start
from node.jobs import OfferedWeights
from node.shards import Shard
from swarm.domain.errors import NotFoundError, VerificationError
from swarm.experts.factories import is_built_in
from swarm.experts.nets import build_net, net_reference
from swarm.experts.weights import warm_start
from swarm.modules.packing import ReadBlob, check_module


def imported_start(
    given: OfferedWeights,
    input_shape: Sequence[int],
    class_names: Sequence[str],
    read: ReadBlob,
    *,
    import_paths: Sequence[str],
) -> Start:
    """Return the given expert's net with its weights; rows of classes that it did not know are fresh,
    from torch's global generator.

    Raises VerificationError for other code than it was made with, or damaged weights, NotFoundError where
    they are gone.
    """
    for module in given.modules:
        check_module(module, read)
    reference = net_reference(given.net.factory, input_shape, len(class_names), import_paths)
    if not is_built_in(given.net.factory) and reference.code_digest != given.net.code_digest:
        raise VerificationError(
            f"net {given.net.factory[:80]}",
            found=f"code with digest {reference.code_digest[:12]}",
            expected=f"digest {given.net.code_digest[:12]}, which the imported expert was made with",
            remedy="install the version of the code that its owner used",
        )
    net = build_net(reference, import_paths)
    copied = warm_start(net, given.modules, read, given.class_names, class_names)
    if not copied:
        raise NotFoundError(
            f"start {given.manifest[:12]}",
            found="no tensor that fits these inputs and classes",
            expected="an expert for inputs of this shape",
            remedy="leave --start out",
        )
    return Start(
        net=net,
        reference=reference,
        borrowed_from=given.manifest,
        message=f"starts from manifest {given.manifest[:12]} of another swarm: {copied} tensors",
        is_noted=True,
    )


def unused_start(given: OfferedWeights | None, shards: Sequence[Shard]) -> tuple[str, ...]:
    """Return what to say where a start was given and no leaf is new."""
    if given is None or any(shard.existing is None for shard in shards):
        return ()
    return (f"manifest {given.manifest[:12]} was not used: every leaf goes on from its own weights",)
