"""``mm_compat``: operators by torchvision, checkpoints that run nothing, and what is said when something is missing."""
import os
import pickle
import sys
from types import ModuleType

import pytest

pytest.importorskip('mmdet')

import mmcv
import numpy as np
import torch
from mmcv.ops import RoIAlign, batched_nms, nms, roi_align, soft_nms
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader

from zoo.dense import mm_compat

COMPILED = not isinstance(sys.modules['mmcv._ext'], mm_compat.Operators)


@pytest.fixture(autouse=True)
def careful():
    mm_compat.install()
    yield
    mm_compat.install()


# --- operators


def test_nms_by_hand():
    """The second box overlaps the first by 0.6 (0.64 counted in pixels), the third by nothing."""
    boxes = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 5.4], [20., 20., 30., 30.]])
    scores = torch.tensor([0.5, 0.9, 0.7])
    dets, kept = nms(boxes, scores, 0.62)
    assert kept.tolist() == [1, 2, 0] and dets[:, 4].tolist() == pytest.approx([0.9, 0.7, 0.5])
    assert nms(boxes, scores, 0.59)[1].tolist() == [1, 2]
    assert nms(boxes, scores, 0.62, offset=1)[1].tolist() == [1, 2]
    dets, kept = batched_nms(boxes, scores, torch.tensor([0, 1, 0]), dict(type='nms', iou_threshold=0.1))
    assert kept.tolist() == [1, 2, 0]


def test_roi_align_of_a_ramp():
    """Means of a plane are its values at the centres of the cells; the gradient of their sum is that of the means."""
    x = (torch.arange(16.)[:, None] * 10 + torch.arange(16.)).expand(1, 1, 16, 16).clone().requires_grad_()
    rois = torch.tensor([[0., 4., 2., 12., 10.]])
    y = roi_align(x, rois, (2, 2), 1., 2, 'avg', True)
    torch.testing.assert_close(y[0, 0], torch.tensor([[35. + 5.5, 35. + 9.5], [75. + 5.5, 75. + 9.5]]))
    y.sum().backward()
    assert float(x.grad.sum()) == pytest.approx(4)
    assert float(x.grad[0, 0, :2].sum()) == 0


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.skipif(COMPILED, reason='a compiled mmcv has kernels of its own')
def test_roi_align_in_16_bits(dtype):
    x = torch.randn(1, 2, 8, 8).to(dtype).requires_grad_()
    rois = torch.tensor([[0., 1., 1., 7., 6.]], dtype=dtype)
    y = RoIAlign((3, 3), 1.)(x, rois)
    want = RoIAlign((3, 3), 1.)(x.detach().float(), rois.float())
    assert y.dtype == dtype and torch.equal(y.detach(), want.to(dtype))
    y.float().sum().backward()
    assert x.grad.dtype == dtype and float(x.grad.float().sum()) == pytest.approx(18, rel=0.02)


@pytest.mark.skipif(COMPILED, reason='a compiled mmcv serves everything')
def test_other_operators_refuse_by_name():
    with pytest.raises(NotImplementedError, match='softnms needs a compiled mmcv'):
        soft_nms(torch.rand(2, 4), torch.rand(2))
    with pytest.raises(NotImplementedError, match="roi_align with pool_mode='max' needs a compiled mmcv"):
        roi_align(torch.rand(1, 1, 8, 8), torch.tensor([[0., 0., 0., 4., 4.]]), (2, 2), 1., 0, 'max', True)


def test_a_compiled_mmcv_wins(monkeypatch):
    compiled = ModuleType('mmcv._ext')
    monkeypatch.setitem(sys.modules, 'mmcv._ext', compiled)
    mm_compat.install()
    assert sys.modules['mmcv._ext'] is compiled


@pytest.mark.parametrize('found', ['2.2.0', '1.7.2'])
def test_versions_that_mmdet_refuses(found, monkeypatch):
    monkeypatch.setattr(mmcv, '__version__', found)
    with pytest.raises(ValueError, match=f'mmcv {found} does not fit .*pip install mmcv-lite==2.1.0') as caught:
        mm_compat.install()
    assert '\n' not in str(caught.value)


# --- checkpoints


def load(path):
    return CheckpointLoader.load_checkpoint(str(path), map_location='cpu')


def test_checkpoints_of_mmengine_come_back(tmp_path):
    """Logs, configs and numbers of numpy; and once more from the file that is saved of what came back."""
    path = tmp_path / 'run.pth'
    buffer = HistoryBuffer()
    for value in range(5):
        buffer.update(float(value))
    checkpoint = dict(
        state_dict=dict(weight=torch.arange(3.)), message_hub=dict(log_scalars={'train/loss': buffer}),
        meta=dict(best=np.float64(0.25), steps=np.int64(7), cfg=ConfigDict(a=dict(b=1)),
                  table=np.asfortranarray(np.arange(6.).reshape(2, 3)), flags=np.array([True, False])))
    for _ in range(2):
        torch.save(checkpoint, path)
        checkpoint = load(path)
        logs = checkpoint['message_hub']['log_scalars']['train/loss']
        assert type(logs) is HistoryBuffer and logs.mean() == 2 and logs.statistics('max') == 4
        logs = pickle.loads(pickle.dumps(logs))
        logs.update(9.)
        assert logs.data[0].tolist() == [0, 1, 2, 3, 4, 9]
        meta = checkpoint['meta']
        assert meta['best'] == 0.25 and meta['steps'] == 7 and meta['cfg'] == {'a': {'b': 1}}
        assert meta['table'].tolist() == [[0, 1, 2], [3, 4, 5]] and meta['flags'].tolist() == [True, False]
        assert torch.equal(checkpoint['state_dict']['weight'], torch.arange(3.))


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *args):
        self.what = function, args

    def __reduce__(self):
        return self.what


def touch(path):
    open(path, 'w').close()


@pytest.mark.parametrize('scheme', ['', 'http://'])
def test_a_malicious_file_runs_nothing(scheme, tmp_path, monkeypatch):
    from mmengine.runner import checkpoint as loaders
    path, mark = tmp_path / 'evil.pth', tmp_path / 'mark'
    monkeypatch.setattr(loaders, 'load_url', lambda url, **_: torch.load(path))  # what it does behind the download
    for evil in (
            Call(touch, str(mark)), Call(os.system, f'touch {mark}'), Call(eval, f'open({str(mark)!r}, "w")'),
            Call(getattr, HistoryBuffer, 'register_statistics'), Call(getattr, np.ndarray, 'max'),
            np.array([Call(touch, str(mark))], dtype=object)):
        torch.save(dict(state_dict={}, meta=evil), path)
        with pytest.raises(ValueError, match='is refused') as caught:
            load(f'{scheme}there/evil.pth' if scheme else path)
        assert '\n' not in str(caught.value)
        assert not mark.exists()


def test_trust_has_to_be_asked_for(tmp_path):
    path, mark = tmp_path / 'own.pth', tmp_path / 'mark'
    torch.save(dict(state_dict={}, meta=Call(touch, str(mark))), path)
    with pytest.raises(ValueError, match=r'install\(trust_checkpoints=True\)'):
        load(path)
    mm_compat.install(trust_checkpoints=True)
    load(path)
    assert mark.exists()
    mm_compat.install()
    with pytest.raises(ValueError, match='is refused'):
        load(path)


def test_arrays_of_wrong_size_are_refused():
    array = np.zeros(0).view(mm_compat.Numbers)
    with pytest.raises(pickle.UnpicklingError, match='whose size is not that of its data'):
        array.__setstate__((1, (10 ** 6,), mm_compat.Dtype('f8'), False, b'12345678'))
    with pytest.raises(pickle.UnpicklingError, match='something else than numbers'):
        array.__setstate__((1, (1,), mm_compat.Dtype('O8'), False, [print]))
