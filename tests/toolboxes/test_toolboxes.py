"""Changes by the toolboxes to a config for a test; none of them is imported."""
import pytest
from mmengine.config import Config

from repvit_mm.errors import ConfigError
from repvit_mm.toolboxes import toolbox_of
from repvit_mm.toolboxes.detection import Detection


class TestTestTimeAugmentation:
    @pytest.mark.parametrize(('scope', 'kind'), [
        ('mmdet', 'DetTTAModel'), ('mmseg', 'SegTTAModel'), ('mmpretrain', 'AverageClsScoreTTA')])
    def test_mirrors_by_default(self, scope, kind):
        pipeline = [dict(type='Load'), dict(type='Pack', meta_keys=('img_id',))]
        loader = dict(dataset=dict(type='RepeatDataset', dataset=dict(type='D', pipeline=pipeline)))
        cfg = Config(dict(default_scope=scope, model=dict(type='M'), test_dataloader=loader))
        toolbox_of(cfg).enable_tta(cfg)
        assert cfg.model.type == kind and cfg.model.module == dict(type='M')
        first, last = cfg.test_dataloader.dataset.dataset.pipeline
        assert first.type == 'Load' and last.type == 'TestTimeAug'
        assert [flip.prob for flip in last.transforms[0]] == [0., 1.]
        assert ('flip' in last.transforms[1][0].meta_keys) == (scope == 'mmdet')

    def test_the_config_goes_first(self):
        cfg = Config(dict(default_scope='mmseg', model=dict(type='M'), tta_model=dict(type='Own', a=1),
                          tta_pipeline=[dict(type='Mine')], test_dataloader=dict(dataset=dict(pipeline=[]))))
        toolbox_of(cfg).enable_tta(cfg)
        assert cfg.model == dict(type='Own', a=1, module=dict(type='M'))
        assert cfg.test_dataloader.dataset.pipeline == [dict(type='Mine')]

    def test_masks_cannot_be_merged(self):
        model = dict(roi_head=dict(mask_head=dict(type='FCNMaskHead')))
        with pytest.raises(ConfigError, match='predicts masks'):
            Detection().enable_tta(Config(dict(model=model, test_dataloader={})))


def test_a_config_without_a_toolbox_is_left_alone():
    cfg = Config(dict(train_dataloader=dict(dataset=dict(type='Unknown')), model=dict(head=dict(num_classes=3))))
    toolbox_of(cfg).adapt_config(cfg, ['train_dataloader'])
    assert toolbox_of(cfg).classes_of(cfg.train_dataloader.dataset) is None


def test_dump_needs_a_pickle():
    cfg = Config(dict(default_scope='mmdet', test_evaluator=dict(type='CocoMetric')))
    with pytest.raises(ConfigError, match=r'\.pkl'):
        toolbox_of(cfg).dump_predictions(cfg, 'out.json')
