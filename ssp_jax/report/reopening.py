"""Clips as a finished run sees them: its stages opened again, to predict these few."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ssp_jax.errors import UserError
from ssp_jax.evaluation_folder import read_evaluation
from ssp_jax.mask_prompts import prompt_by
from ssp_jax.report.clips import View, clip_views
from ssp_jax.report.record import Record
from ssp_jax.run import open_stages
from ssp_jax.run_facts import run_config
from ssp_jax.stage_training import trained_params

_LOG = logging.getLogger(__name__)


def reopened_views(
    workdir: Path, records: Mapping[str, Record], wanted: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, View]]:
    """Test set -> uid -> what `clip_views` gives, for the clips that are wanted of each.

    Raises:
      UserError: the prepared data are not where the run had them, the run is not finished or of
        another version of this project; see `open_stages`.
    """
    config = run_config(workdir)
    if read_evaluation(workdir) is not None:
        raise UserError(
            f"{workdir}: an evaluation, which holds no weights to predict with; compare the runs "
            "themselves, or without clips: --clips=0"
        )
    try:
        if not Path(config.prepared_dir).is_dir():
            raise UserError(
                f"{workdir}: its prepared data are not in {config.prepared_dir!r}; give the "
                "command in the folder where the run was started"
            )
        views = {}
        for name, uids in wanted.items():
            _LOG.info("%s: predicting %d clips of %s", workdir, len(uids), name)
            views[name] = _views(workdir, config.copy_and_resolve_references(), records[name], uids)
        return views
    except (AttributeError, KeyError) as error:
        raise UserError(
            f"{workdir}/config.json: of another version of this project ({error.args[0]})"
        ) from error


def _views(workdir: Path, config, record: Record, uids: Sequence[str]) -> dict[str, View]:
    config.stages = record["stage"]
    stages = open_stages(config, workdir)
    stage = stages[record["stage"]]
    if stage.stage.prompt.source == "stage1":
        prompt_by(stages["avs"], trained_params(stages["avs"]), stage, uses=())
    index = {uid: number for number, uid in enumerate(stage.data.source(record["words"]).table.uid)}
    clips = [index[uid] for uid in uids if uid in index]
    views = clip_views(stage, trained_params(stage), record["words"], clips)
    return {view["uid"]: view for view in views.values()}
