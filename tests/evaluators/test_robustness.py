import pytest

from ssp_jax.data.sounds import negative_sounds
from ssp_jax.errors import UserError
from ssp_jax.evaluators.report import format_table
from ssp_jax.evaluators.robustness import g_miou, with_g_miou

SCORES = {"miou": 0.2, "fscore": 0.4, "activated": 0.05}


def test_g_miou_wants_both():
    assert g_miou(0.8, 0.2) == pytest.approx(0.8)
    assert g_miou(0.8, 0.8) == pytest.approx(2 * 0.8 * 0.2 / 1.0)
    # Segmenting nothing, or the same whatever sounds, is worth nothing.
    assert g_miou(0.0, 0.0) == g_miou(0.0, 1.0) == g_miou(1.0, 1.0) == 0


def test_results_gain_scores_by_sound_and_one_for_all():
    own = {"miou": 0.6, "fscore": 0.7, "activated": 0.1}
    gains = with_g_miou(own, {"noise": SCORES, "foreign": SCORES | {"miou": 0.4}})
    assert gains["noise"] == SCORES | {"g_miou": pytest.approx(2 * 0.6 * 0.8 / 1.4)}
    assert gains["foreign_sounds"]["g_miou"] == pytest.approx(0.6)
    assert gains["g_miou"] == pytest.approx(g_miou(0.6, 0.3))
    assert with_g_miou(own, {}) == {}
    table = format_table({"s4": own | gains, "ms3": own})
    lines = [line.split("  ") for line in table.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert ["this model", "60.0 / 70.0", "60.0 / 70.0"] in cells
    assert ["this model, white noise", "20.0 / 40.0"] in cells
    assert ["this model, white noise", "5.0 / 68.6"] in cells
    assert "silence" not in table
    assert "G-mIoU" not in format_table({"s4": own})


def test_sounds_come_by_name():
    assert negative_sounds("foreign, silence") == ["silence", "foreign"]
    assert negative_sounds("") == []
    with pytest.raises(UserError, match=r"negative_sounds='quiet': expected some of silence"):
        negative_sounds("quiet")
