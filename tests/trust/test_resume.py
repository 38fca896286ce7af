"""A resumed training ends with the weights, to the bit, that it has without the interruption."""
import pytest
from mmengine.config import Config
from resume_runs import different, leave_checkpoint, make_config, states_of, train


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """Keep the config's text out of the checkpoints, whose formatting takes longer than an iteration."""
    monkeypatch.setattr(Config, 'pretty_text', '')


@pytest.mark.slow
@pytest.mark.parametrize(('toolbox', 'iteration', 'workers'), [
    ('mmdet', 6, 2),  # inside of the second epoch
    ('mmseg', 6, 1), ('mmpretrain', 4, 0)])
def test_a_resumed_training_ends_as_if_it_had_not_been_interrupted(toolbox, iteration, workers, tmp_path):
    cfg = make_config(toolbox, tmp_path / 'data')
    whole, resumed = tmp_path / 'whole', tmp_path / 'resumed'
    train(cfg, whole, **{'default_hooks.checkpoint.max_keep_ckpts': -1})
    leave_checkpoint(whole / f'iter_{iteration}.pth', resumed)
    train(cfg, resumed, resume=True, seed=None, **{'train_dataloader.num_workers': workers})
    end = states_of(whole / 'iter_8.pth')
    assert not different(end, states_of(resumed / 'iter_8.pth'))
    assert len(different(end, states_of(whole / f'iter_{iteration}.pth'))) > 50, 'there was something to train'
