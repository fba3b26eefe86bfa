"""Where arrays live: one mesh, one rule for batches, one for the train state."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from ssp_jax.batch import AVBatch
from ssp_jax.errors import UserError

# Smaller arrays are cheaper to copy to every device than to gather before each use.
_FSDP_MIN_SIZE = 2**14


def make_mesh(fsdp: int = 1) -> Mesh:
    """All devices as a (data, fsdp) mesh; batches are split over both axes.

    Auto axes: with explicit ones (jax's default) window reshapes and the vmapped Hungarian fail.

    Raises:
      UserError: the number of devices is not a multiple of `fsdp`.
    """
    devices = jax.device_count()
    if fsdp < 1 or devices % fsdp:
        raise UserError(
            f"config.mesh.fsdp={fsdp}: expected a divisor of the number of devices, {devices}"
        )
    return jax.make_mesh((devices // fsdp, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Frames (the leading axis) split over all devices."""
    return NamedSharding(mesh, jax.P(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same values on every device."""
    return NamedSharding(mesh, jax.P())


def state_sharding(mesh: Mesh, tree):
    """Sharding of every leaf of a state (arrays or shapes): replicated, or split over `fsdp`.

    With fsdp > 1 each large array is split along its longest axis that divides.
    """
    shards = mesh.shape["fsdp"]

    def rule(leaf):
        if shards > 1 and leaf.size >= _FSDP_MIN_SIZE:
            for axis in np.argsort(leaf.shape)[::-1]:
                if leaf.shape[axis] % shards == 0:
                    return NamedSharding(mesh, jax.P(*[None] * int(axis), "fsdp"))
        return replicated(mesh)

    return jax.tree.map(rule, tree)


def put_batch(mesh: Mesh, batch: AVBatch) -> AVBatch:
    """This host's share of a batch (numpy) as part of the global one, on the devices.

    Raises:
      UserError: the frames do not divide over the devices.
    """
    slots = batch.frames.shape[0] * jax.process_count()
    if slots % mesh.size:
        raise UserError(
            f"config.batch_size={slots} frames do not divide over {mesh.size} devices: "
            "choose a multiple of the number of devices"
        )
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
