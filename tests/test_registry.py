"""Names, files, tags: the zoo's models are timm models like any other."""
import copy
import pickle
import pkgutil
import sys
import types
import warnings

import pytest
import timm
import torch

import zoo
from zoo.analysis import result_files
from zoo.blocks.mixers import FocusedLinearAttention
from zoo.hosts import PVTv2
from zoo.models import flatten
from zoo.registry import FAMILIES, Variant, register_family, smallest_models


def test_listed_by_both():
    names = zoo.list_models()
    assert len(names) == sum(len(family.variants) for family in FAMILIES) + 1  # and zoo_hybrid
    assert set(names) <= set(timm.list_models())
    assert zoo.list_models('flatten_pvt_v2_*') == timm.list_models('flatten_pvt_v2_*')
    assert zoo.list_models(['flatten_*swin_tiny', 'flatten_*_b0']) == [
        'flatten_cswin_tiny', 'flatten_pvt_v2_b0', 'flatten_swin_tiny']
    assert zoo.list_models('nothing_*') == []
    assert 'resnet18' not in names
    assert zoo.list_models(pretrained=True) == [
        n for n in timm.list_models(pretrained=True) if n.split('.')[0] in names]


def test_filed_under_their_family():
    assert timm.list_models(module='flatten') == zoo.list_models('flatten_*')
    assert set(flatten.__all__) == set(zoo.list_models('flatten_*'))


def test_file_names_differ_from_timms():
    timm_files = {name.rsplit('.', 1)[-1] for name in sys.modules if name.startswith('timm.models.')}
    assert not timm_files & {module.name for module in pkgutil.iter_modules(zoo.models.__path__)}


def test_entrypoints_look_written_out():
    entry = timm.model_entrypoint('flatten_pvt_tiny')
    assert entry is flatten.flatten_pvt_tiny
    assert (entry.__module__, entry.__name__, entry.__qualname__) == ('zoo.models.flatten', *['flatten_pvt_tiny'] * 2)
    assert '77.8' in entry.__doc__
    assert pickle.loads(pickle.dumps(entry)) is entry


def test_tags():
    tagged = timm.list_models('flatten_swin_base*', include_tags=True)
    assert tagged == ['flatten_swin_base.in1k', 'flatten_swin_base.in1k_384']
    cfg = timm.get_pretrained_cfg('flatten_swin_tiny')
    assert (cfg.tag, cfg.crop_pct, cfg.crop_mode, cfg.interpolation) == ('in1k', 0.875, 'squash', 'bicubic')
    assert timm.get_pretrained_cfg('flatten_swin_base.in1k_384').crop_pct == 1.0


@pytest.mark.parametrize('family', FAMILIES, ids=lambda family: family.variants[0].name)
def test_smallest_models_come_first_in_their_tables(family):
    counts = result_files.counts()['rows']
    sizes = [next(row['parameters'] for tag, row in counts.items() if tag.partition('.')[0] == variant.name)
             for variant in family.variants if variant.args.get('img_size', 224) == 224]  # a CIFAR model may be smaller
    assert not sizes or sizes[0] <= 1.05 * min(sizes)  # another form of the first may hold a little less


def test_what_quick_tests_cover():
    every = smallest_models()
    assert {'flatten_pvt_tiny', 'flatten_pvt_v2_b0', 'flatten_swin_tiny', 'flatten_cswin_tiny'} <= set(every)
    assert len(every) == len(FAMILIES)
    quick = [family for family in FAMILIES if family.variants[0].name in smallest_models(each_host=False)]
    assert {family.module for family in quick} == {family.module for family in FAMILIES}
    assert {family.host for family in quick} == {family.host for family in FAMILIES}
    assert len(quick) < len(every)


def test_models_pickle_and_copy():
    model = timm.create_model('flatten_pvt_v2_b0', num_classes=5).eval()
    x = torch.randn(1, 3, 64, 64)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        torch.testing.assert_close(twin(x), model(x))


def scratch_module(name):
    module = types.ModuleType(f'scratch.{name}')
    module.__all__ = []
    sys.modules[module.__name__] = module
    return module.__name__


def test_a_taken_name_stays_with_its_owner(monkeypatch):
    monkeypatch.setattr(zoo.registry, 'FAMILIES', list(zoo.registry.FAMILIES))  # the others keep theirs
    owner = timm.model_entrypoint('pvt_v2_b0')
    row = Variant('pvt_v2_b0', dict(embed_dims=(32, 64, 160, 256)))
    with pytest.warns(UserWarning, match='pvt_v2_b0 is registered by another package already'):
        register_family(scratch_module('clash'), PVTv2, FocusedLinearAttention.from_context, [row], dict, flatten.CFG)
    assert timm.model_entrypoint('pvt_v2_b0') is owner
    assert 'pvt_v2_b0' not in zoo.list_models()


def test_unknown_argument_is_an_error():
    with warnings.catch_warnings(), pytest.raises(TypeError, match='not_an_argument'):
        timm.create_model('flatten_pvt_tiny', not_an_argument=1)


def test_weights_may_have_arguments_of_their_own():
    """By tag, in whatever form timm is given it; those of the user go first."""
    tag = 'in22k_ft_in1k_384_k11'
    cfg = timm.get_pretrained_cfg(f'dinat_large.{tag}')
    shallow = dict(depths=(1, 1, 1, 1), device='meta')
    for given in (tag, cfg, cfg.to_dict()):
        model = timm.create_model('dinat_large', pretrained_cfg=given, **shallow)
        assert model.stages[0].blocks[0].mixer.kernel_size == 11
    assert timm.create_model(f'dinat_large.{tag}', **shallow).stages[0].blocks[0].mixer.kernel_size == 11
    own = timm.create_model(f'dinat_large.{tag}', kernel_size=9, **shallow)
    assert own.stages[0].blocks[0].mixer.kernel_size == 9
    assert timm.create_model('dinat_large', **shallow).stages[0].blocks[0].mixer.kernel_size == 7
