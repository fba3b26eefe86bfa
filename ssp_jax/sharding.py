"""Where arrays live: one mesh, one rule for batches, one for the train state."""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding

from ssp_jax.batch import AVBatch
from ssp_jax.devices import add_threads
from ssp_jax.errors import UserError

# Smaller arrays are cheaper to copy to every device than to gather before each use.
_FSDP_MIN_SIZE = 2**14


def make_mesh(*, data: int = 0, fsdp: int = 1) -> Mesh:
    """Devices as a (data, fsdp) mesh; batches are split over both axes.

    Auto axes: with explicit ones (jax's default) window reshapes and the vmapped Hungarian fail.

    Of devices in several slices, between which the network is slower (TPU multislice; GPUs as far
    as JAX groups them), `fsdp` stays within one as far as it fits, and `data` goes over all.

    Args:
      data: 0 takes all devices. With fewer than there are, the others stay idle.
      fsdp: number of devices that share one copy of the state.

    Raises:
      UserError: there are not so many devices, or all processes' devices cannot take part.
    """
    add_threads()
    devices = jax.device_count()
    if fsdp < 1 or data < 0 or (devices % fsdp and not data):
        raise UserError(
            f"config.mesh.fsdp={fsdp}: expected a divisor of the number of devices, {devices}"
        )
    data = data or devices // fsdp
    if data * fsdp > devices or (data * fsdp < devices and jax.process_count() > 1):
        raise UserError(
            f"config.mesh: data={data} times fsdp={fsdp} are {data * fsdp} devices, but there are "
            f"{devices}" + (", in several processes" if jax.process_count() > 1 else "")
        )
    axes, types = ("data", "fsdp"), (AxisType.Auto,) * 2
    chosen = jax.devices()[: data * fsdp]
    if (slices := _count_slices(chosen)) > 1:
        return Mesh(_over_slices(chosen, slices, fsdp), axes, axis_types=types)
    return jax.make_mesh((data, fsdp), axes, axis_types=types, devices=chosen)


def _count_slices(devices: Sequence[jax.Device]) -> int:
    # Devices of a CPU have no such number.
    return len({getattr(device, "slice_index", 0) for device in devices})


def _over_slices(devices: Sequence[jax.Device], slices: int, fsdp: int) -> np.ndarray:
    """The devices of equal slices as (data, fsdp)."""
    of_slice = len(devices) // slices
    inner = math.gcd(fsdp, of_slice)
    outer = fsdp // inner
    return mesh_utils.create_hybrid_device_mesh(
        (of_slice // inner, inner),
        (slices // outer, outer),
        devices,
        allow_split_physical_axes=True,  # as `jax.make_mesh` does where it has to
    )


def check_batch_size(size: int, mesh: Mesh, key: str = "batch_size") -> None:
    """Refuse a batch of `size` frames, over all processes, that the mesh cannot share equally.

    Args:
      key: what the config calls the size, for the message.

    Raises:
      UserError: the frames do not divide over the devices.
    """
    if size % mesh.size:
        fitting = max(count for count in range(1, mesh.size) if not size % count)
        raise UserError(
            f"{key}={size}: so many frames do not divide over {mesh.size} devices. Choose a "
            f"multiple of {mesh.size}, or use fewer devices: --config.mesh.data={fitting} "
            "--config.mesh.fsdp=1"
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Frames (the leading axis) split over all devices."""
    return NamedSharding(mesh, jax.P(("data", "fsdp")))


def on_mesh(mesh: Mesh):
    """Within, while a step is traced, what the compiler cannot split finds the mesh.

    As the kernels of ssp_jax/models/deformable_kernels.py, by `jax.sharding.get_abstract_mesh()`.
    """
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


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
    check_batch_size(batch.frames.shape[0] * jax.process_count(), mesh)
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def own_rows(placed: AVBatch, tree):
    """This process's frames of what was computed from a batch on the devices, as NumPy arrays.

    They are those of its host batch, in its order.
    """

    def rows(array: jax.Array) -> np.ndarray:
        if array.is_fully_addressable:
            return jax.device_get(array)
        split = jax.device_put(array, placed.valid.sharding)
        shards = sorted(split.addressable_shards, key=lambda shard: shard.index[0].start)
        return np.concatenate(jax.device_get([shard.data for shard in shards]))

    return jax.tree.map(rows, tree)


def all_rows(placed: AVBatch, tree):
    """The frames of all processes; each has to ask."""
    if not placed.valid.is_fully_addressable:
        tree = jax.device_put(tree, replicated(placed.valid.sharding.mesh))
    return jax.device_get(tree)
