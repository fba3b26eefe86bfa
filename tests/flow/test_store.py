import dataclasses
import os
import pickle
import sys

import numpy as np
import pytest
from moving_clips import SIZES, encode

from ssp_jax.data.sources import ClipSource
from ssp_jax.errors import UserError
from ssp_jax.flow import __main__ as command
from ssp_jax.flow import store as flow_store
from ssp_jax.flow.estimators import DisFlow, Estimator, make_estimator
from ssp_jax.flow.store import add_flow, clip_flows, open_flow


@pytest.fixture
def shards_of_two(monkeypatch):
    monkeypatch.setattr(flow_store, "CLIPS_PER_SHARD", 2)


class Counting:
    """An estimator of flow (4, -2) pixels that says how often it was asked, and may be stopped."""

    def __init__(self, stop_at=None, name="dis", **settings):
        self.calls, self.stop_at = 0, stop_at
        self.estimator = Estimator(name, settings, 1, lambda: self)

    def __call__(self, first, second):
        self.calls += 1
        assert first.shape == second.shape
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        return np.full((*first.shape[:2], 2), (4, -2), np.float32)


def test_flow_comes_back_in_the_index_space_of_the_source(prepared):
    source = ClipSource([(prepared, "val"), (prepared, "train")])
    add_flow(source, make_estimator("dis"), size=48, progress=False)
    store = pickle.loads(pickle.dumps(open_flow(source, "dis")))
    assert store == open_flow(source, "dis")
    assert len({store, open_flow(source, "dis")}) == 1
    for index in reversed(range(len(source))):
        flows = store.read(index)
        assert flows.dtype == np.float32
        np.testing.assert_allclose(flows, clip_flows(source[index], DisFlow(), 48), atol=1.3e-4)
    sizes = [store.read(index).shape for index in range(4)]
    assert sizes == [(2, 48, 48, 2), (0, 32, 48, 2), (2, 48, 48, 2), (2, 32, 48, 2)]
    for index in (-1, len(source)):
        with pytest.raises(IndexError, match=f"{index} of 9"):
            store.read(index)
    # Nothing is estimated twice, and the data set is still one.
    again = Counting(**make_estimator("dis").settings)
    add_flow(source, again.estimator, size=48, progress=False)
    assert again.calls == 0


def test_vectors_are_in_units_of_the_shorter_side(prepared):
    source = ClipSource([(prepared, "train")])
    add_flow(source, Counting().estimator, size=1000, progress=False)
    for index in range(2):
        flows, (height, width) = open_flow(source, "dis").read(index), SIZES[index]
        assert flows.shape == (3, height, width, 2)  # never larger than the frames
        expected = np.broadcast_to(np.array([4, -2]) / min(height, width), flows.shape)
        np.testing.assert_allclose(flows, expected, atol=1.3e-4)


def test_a_clip_may_change_its_size(prepared):
    clip = ClipSource([(prepared, "train")])[0]
    other = encode(np.zeros((40, 70, 3), np.uint8)).getvalue()
    for changed in (1, 3):
        frames = list(clip.frames)
        frames[changed] = other
        flows = clip_flows(dataclasses.replace(clip, frames=tuple(frames)), Counting(), 48)
        assert flows.shape == (3, 48, 48, 2)


@pytest.mark.usefixtures("shards_of_two")
def test_adding_goes_on_where_it_was_stopped(prepared):
    source = ClipSource([(prepared, "train")])
    with pytest.raises(UserError, match=r"flow-dis/train: no flow.*--split=train --estimator=dis"):
        open_flow(source, "dis")
    with pytest.raises(KeyboardInterrupt):
        add_flow(source, Counting(stop_at=11).estimator, progress=False)  # in the fourth clip
    with pytest.raises(
        UserError, match=r"2 of 5 clips. To go on, run: .*flow --prepared="
    ) as error:
        open_flow(source, "dis")
    assert prepared in str(error.value)
    rest = Counting()
    add_flow(source, rest.estimator, progress=False)
    assert rest.calls == 3 * 3
    assert len(open_flow(source, "dis").read(4)) == 3


def test_flow_of_other_data_or_settings_is_refused(prepared):
    source = ClipSource([(prepared, "val_a")])
    add_flow(source, Counting(side=1).estimator, progress=False)
    other = Counting(side=2).estimator
    for estimator, size, differs in (
        (other, 112, "settings: {'side': 1} there, {'side': 2} asked for"),
        (Counting(side=1).estimator, 64, "size: 112 there, 64 asked for"),
    ):
        with pytest.raises(UserError, match="other settings") as error:
            add_flow(source, estimator, size=size, progress=False)
        assert differs in str(error.value)
    both = ClipSource([(prepared, "val")])
    add_flow(ClipSource([(prepared, "val_b")]), other, progress=False)
    with pytest.raises(UserError, match=r"val_b: not made like .*val_a"):
        open_flow(both, "dis")
    (shard,) = (f for f in os.listdir(prepared) if "val_a.array_record" in f)
    os.utime(os.path.join(prepared, shard), ns=(1, 1))
    for use in (
        lambda: open_flow(source, "dis"),
        lambda: add_flow(source, Counting(side=1).estimator, progress=False),
    ):
        with pytest.raises(UserError, match=r"val_a: made from other data.*Delete.*--split=val_a"):
            use()


def test_every_split_that_lacks_flow_is_named(prepared):
    with pytest.raises(UserError, match="--estimator=perceiver --weights=DIR") as error:
        open_flow(ClipSource([(prepared, "val")]), "perceiver")
    assert "val_a: no flow" in str(error.value)
    assert "val_b: no flow" in str(error.value)


def test_damaged_flow_and_damaged_notes_are_named(prepared):
    source = ClipSource([(prepared, "val_b")])
    add_flow(source, Counting().estimator, progress=False)
    folder = open_flow(source, "dis").parts[0].folder
    shard = folder / "00000.array_record"
    shard.write_bytes(shard.read_bytes()[:150])
    with pytest.raises(UserError, match=r"flow of clip 1 cannot be read.*Delete.*val_b and run"):
        open_flow(source, "dis").read(1)
    (folder / "made_from.json").write_text("{")
    with pytest.raises(UserError, match=r"made_from\.json: cannot be read"):
        open_flow(source, "dis")


def test_damaged_frames_and_endless_flow_are_named(prepared):
    with pytest.raises(UserError, match="clip14, frame 2: cannot be decoded"):
        add_flow(ClipSource([(prepared, "damaged")]), Counting().estimator, progress=False)
    bad = Estimator("dis", {}, 1, lambda: lambda a, b: np.full((*a.shape[:2], 2), np.nan))
    with pytest.raises(UserError, match=r"clip10: the flow from frame 0.*not finite"):
        add_flow(ClipSource([(prepared, "val_a")]), bad, progress=False)
    with pytest.raises(UserError, match="at least 16 pixels, got 0"):
        add_flow(ClipSource([(prepared, "val_a")]), Counting().estimator, size=0)


def test_the_command_adds_flow_and_tells_bad_input(prepared, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["flow", *arguments])
        status = command.main()
        return status, capsys.readouterr()

    status, said = call(f"--prepared={prepared}", "--split=val", "--split=train", "--size=32")
    assert status == 0
    assert "flow of 9 clips" in said.out
    assert "KB a clip" in said.out
    assert len(open_flow(ClipSource([(prepared, "val"), (prepared, "train")]), "dis").parts) == 3
    for arguments, message in (
        ((f"--prepared={prepared}x",), "not a prepared data set"),
        ((f"--prepared={prepared}", "--split=test"), "no split 'test'"),
        ((f"--prepared={prepared}", "--estimator=perceiver"), "needs --weights=DIR"),
        ((f"--prepared={prepared}",), "other settings (size: 32 there, 112 asked for)"),
    ):
        status, said = call(*arguments)
        assert status == 1
        assert message in said.err
        assert said.err.startswith("error: ")
        assert len(said.err.splitlines()) == 1
