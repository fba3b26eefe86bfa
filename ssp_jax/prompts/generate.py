"""Texts of all clips from a multimodal model (method 4.4), any function that answers questions."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ssp_jax.data.sources import Clip, ClipSource
from ssp_jax.errors import UserError
from ssp_jax.prompts.texts import KEYS, Texts, read_text_file, write_text_file
from tfds_builders.pictures import decoded_picture

# The model's answer to a question about frames of one video, in order.
Answer = Callable[[Sequence[Image.Image], str], str]

_SAVE_EVERY = 20  # clips
_GIVE_UP = 10  # failures in a row


class TextMaker:
    """Asks a model about clips and keeps what it answers in a file, going on where that ends."""

    def __init__(
        self,
        path: str | Path,
        model: str,
        num_frames: int,
        wordings: Mapping[str, str],
    ):
        """Open the file of texts, or make the folder of a new one.

        Args:
          path: of the file, see `write_text_file`.
          model: its name, as the file tells it.
          num_frames: of each clip that the model is shown, evenly chosen.
          wordings: the questions for A1 ('scene') and A2 ('sounding'); the latter has A1 in the
            place of '{scene}'.

        Raises:
          UserError: unusable wordings; the file is damaged, or of another model, number of frames
            or wordings.
        """
        if sorted(wordings) != sorted(KEYS) or not all(w.strip() for w in wordings.values()):
            raise UserError(f"wordings: expected a question each for {' and '.join(KEYS)}")
        if "{scene}" not in wordings["sounding"]:
            raise UserError(
                "wording of 'sounding': has no '{scene}', the place of the first answer: "
                f"{wordings['sounding']!r}"
            )
        if num_frames < 1:
            raise UserError(f"frames: {num_frames}, expected 1 or more")
        self.path, self.num_frames, self.wordings = Path(path), num_frames, dict(wordings)
        self._facts = {"model": model, "frames": num_frames, "wordings": self.wordings}
        self.texts: dict[str, Texts] = {}
        if self.path.exists():
            self.texts, facts = read_text_file(self.path)
            differing = [
                f"{key}: {facts.get(key)!r} there, {value!r} now"
                for key, value in self._facts.items()
                if facts.get(key) != value
            ]
            if differing:
                raise UserError(
                    f"{self.path}: its texts are made otherwise. {'; '.join(differing)}. Name a "
                    "new file, or go on as it was begun"
                )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: its folder cannot be made ({error})") from error

    def run(self, source: ClipSource, answer: Answer) -> dict[str, str]:
        """Ask about every clip of a source that has no texts yet.

        The file is written every 20 clips and at the end, be it an interruption.

        Returns:
          Why clips were left without texts, by uid.

        Raises:
          UserError: 10 clips in a row failed, or the file cannot be written.
        """
        failed, in_a_row = {}, 0
        todo = [i for i, uid in enumerate(source.table.uid) if uid not in self.texts]
        try:
            for number, index in enumerate(tqdm(todo, desc="texts", unit="clip")):
                uid = source.table.uid[index]
                try:
                    frames = choose_frames(source[index], self.num_frames)
                    self.texts[uid] = self._ask(answer, frames)
                    in_a_row = 0
                except Exception as error:  # a model's code may raise anything
                    failed[uid] = f"{type(error).__name__}: {str(error)[:300]}"
                    in_a_row += 1
                if in_a_row == _GIVE_UP:
                    raise UserError(
                        f"{in_a_row} clips in a row failed, the last with {failed[uid]}. What was "
                        f"answered before is in {self.path}; the same command goes on"
                    )
                if (number + 1) % _SAVE_EVERY == 0:
                    self._save()
        finally:
            self._save()
        return failed

    def _ask(self, answer: Answer, frames: Sequence[Image.Image]) -> Texts:
        scene = answer(frames, self.wordings["scene"]).strip()
        if not scene:
            raise ValueError("the answer about the scene is empty")
        question = self.wordings["sounding"].replace("{scene}", scene)
        return scene, answer(frames, question).strip()

    def _save(self) -> None:
        write_text_file(self.path, self.texts, self._facts)


def choose_frames(clip: Clip, count: int) -> list[Image.Image]:
    """`count` frames, evenly from the first to the last, as RGB; all where there are no more.

    Raises:
      UserError: an image cannot be decoded.
    """
    count = min(count, len(clip.frames))
    images = []
    for second in np.linspace(0, len(clip.frames) - 1, count).round().astype(int):
        try:
            images.append(decoded_picture(clip.frames[second]).convert("RGB"))
        except ValueError as error:
            raise UserError(
                f"{clip.where}: clip {clip.uid}, frame {second}: cannot be decoded ({error})"
            ) from error
    return images
