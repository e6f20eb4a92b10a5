"""What a leaf's training begins with, where its parent was trained to other weights while it was split."""

from collections.abc import Sequence

from torch import nn

from node.growth.net_training import loss
from node.jobs import OfferedWeights
from swarm.domain.manifests import NetReference
from swarm.experts.flops import forward_flops
from swarm.experts.nets import build_net
from swarm.experts.samples import Samples
from swarm.experts.weights import warm_start
from swarm.modules.packing import ReadBlob


def better_start(
    own: nn.Module,
    offered: OfferedWeights,
    reference: NetReference,
    class_names: Sequence[str],
    validation: Samples,
    read: ReadBlob,
    import_paths: Sequence[str] = (),
) -> tuple[nn.Module, str, int]:
    """Return the net to begin with, why, and the FLOPs: the offered weights where they have the lower loss on
    the leaf's own validation samples, else its own. Where there are none to judge by: its own, and no word.
    """
    if not len(validation):
        return own, "", 0
    other = build_net(reference, import_paths)
    warm_start(other, offered.modules, read, offered.class_names, class_names)
    flops = 2 * len(validation) * forward_flops(own, reference.input_shape)
    here, there = loss(own, validation), loss(other, validation)
    assert here is not None and there is not None
    taken = "starts from" if there < here else "does better without"
    note = (
        f"{taken} what its parent was trained to meanwhile: validation loss {there:.4f},"
        f" with its own weights {here:.4f}"
    )
    return (other if there < here else own), note, flops
