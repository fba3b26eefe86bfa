import numpy as np
import pytest

from ssp_jax.data import mask_store
from ssp_jax.errors import UserError


@pytest.fixture
def shards_of_three(monkeypatch):
    monkeypatch.setattr(mask_store, "CLIPS_PER_SHARD", 3)


def clips(counts=(1, 5, 10, 5, 1, 10, 5), size=8):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (count, size, size), dtype=np.uint8) for count in counts]


@pytest.mark.usefixtures("shards_of_three")
def test_masks_come_back_bit_by_bit(tmp_path):
    masks = clips()
    store = mask_store.open_store(tmp_path / "masks", {"model": "a"}, len(masks), 8)
    assert store.next_clip() == 0
    store.write(masks)
    assert store.next_clip() == len(masks)
    for clip in reversed(range(len(masks))):
        np.testing.assert_array_equal(store.read(clip), masks[clip])


@pytest.mark.usefixtures("shards_of_three")
def test_writing_goes_on_where_it_was_interrupted(tmp_path):
    masks = clips()

    def killed_at(number):
        yield from masks[:number]
        raise KeyboardInterrupt

    store = mask_store.open_store(tmp_path / "masks", {}, len(masks), 8)
    with pytest.raises(KeyboardInterrupt):
        store.write(killed_at(5))
    again = mask_store.open_store(tmp_path / "masks", {}, len(masks), 8)
    assert again.next_clip() == 3
    again.write(masks[3:])
    assert again.next_clip() == len(masks)
    np.testing.assert_array_equal(again.read(4), masks[4])


def test_missing_and_damaged_masks_are_named(tmp_path):
    store = mask_store.open_store(tmp_path / "masks", {}, 7, 8)
    with pytest.raises(UserError, match=r"00000\.array_record.*clip 2"):
        store.read(2)
    store.write(clips())
    (shard,) = tmp_path.glob("masks/*.array_record")
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(UserError, match="clip 2 cannot be read"):
        store.read(2)
