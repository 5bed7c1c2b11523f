"""The published recipes: figures as the authors' scripts and configurations give them, by the name of our recipe.

``batch`` is the global batch on ``processes`` devices of each of ``nodes`` machines (one by default); ``lr``,
``warmup_lr`` and ``min_lr`` are what that batch makes of them, and ``scales`` says which of them half the devices
halve; ``length`` counts all epochs, warm-up and cool-down too; ``model_ema_decay`` is None without averaging; ``model``
is told where the name does not; ``built_for_size`` is whether a model has to be told a size other than 224; ``tag`` is
that of the top-1 in the header; ``top1`` is told for models of timm's own. ``paper``, ``commit`` and ``header`` stand
in the header, and ``starts_from`` is whether it asks for weights. All else are options of the trainer.

``UNPUBLISHED`` are the models that have no recipe, each with the reason.
"""
import timm
from packaging.version import Version


def rows(columns, table, **shared):
    """Recipe name -> figures, from rows of columns and what all of them share."""
    return {name: dict(shared, **dict(zip(columns.split(), row, strict=True))) for name, row in table.items()}


RATES = ('lr', 'warmup_lr', 'min_lr')
SCHEDULE = 'batch lr warmup_lr min_lr length warmup_epochs weight_decay'
DEIT = dict(
    processes=8, opt='adamw', aa='rand-m9-mstd0.5-inc1', mixup=0.8, cutmix=1.0, smoothing=0.1, reprob=0.25,
    aug_repeats=0)
TAUGHT = dict(  # by its labels, half and half
    kd_model_name='regnety_160.deit_in1k', kd_distill_type='token', kd_token_distill_type='hard', task_loss_weight=0.5,
    distill_loss_weight=0.5)
LEAPLAB = dict(DEIT, scales=RATES, sched_on_updates=True)

FLATTEN = rows(f'{SCHEDULE} clip_grad drop_path', {
    'flatten_pvt_tiny': (1024, 1e-3, 2e-6, 2e-5, 310, 5, 0.05, None, 0.1),
    'flatten_pvt_small': (512, 5e-4, 1e-6, 1e-5, 310, 5, 0.05, None, 0.1),
    'flatten_pvt_medium': (512, 5e-4, 1e-6, 1e-5, 310, 5, 0.05, 1., 0.3),
    'flatten_pvt_large': (256, 2.5e-4, 5e-7, 5e-6, 310, 5, 0.05, 1., 0.3),
    'flatten_pvt_v2_b0': (1024, 1e-3, 2e-6, 2e-5, 310, 5, 0.05, None, 0.1),
    'flatten_pvt_v2_b1': (1024, 1e-3, 2e-6, 2e-5, 310, 5, 0.05, None, 0.1),
    'flatten_pvt_v2_b2': (1024, 1e-3, 2e-6, 2e-5, 310, 5, 0.05, None, 0.1),
    'flatten_pvt_v2_b3': (1024, 1e-3, 2e-6, 2e-5, 310, 5, 0.05, 1., 0.3),
    'flatten_pvt_v2_b4': (512, 5e-4, 1e-6, 1e-5, 310, 5, 0.05, 1., 0.3),
    'flatten_swin_tiny': (1024, 1e-3, 1e-6, 1e-5, 300, 20, 0.05, 5., 0.2),
    'flatten_swin_small': (1024, 1e-3, 1e-6, 1e-5, 300, 20, 0.05, 5., 0.3),
    'flatten_swin_base': (512, 5e-4, 5e-7, 5e-6, 300, 20, 0.05, 5., 0.5),
    'flatten_swin_base_384': (256, 1e-5, 1e-8, 1e-7, 30, 5, 1e-8, 5., 0.5),
}, **LEAPLAB, paper='2308.00442', commit='abdb115', model_ema_decay=None) | rows(f'{SCHEDULE} drop_path', {
    'flatten_cswin_tiny': (2048, 2e-3, 4e-6, 4e-5, 310, 20, 0.05, 0.2),
    'flatten_cswin_small': (1024, 1e-3, 2e-6, 2e-5, 310, 20, 0.05, 0.4),
    'flatten_cswin_base': (512, 5e-4, 1e-6, 1e-5, 310, 20, 0.1, 0.5),
    'flatten_cswin_base_384': (256, 2.5e-6, 2.5e-6, 2.5e-7, 30, 0, 1e-8, 0.7),
}, **LEAPLAB, paper='2308.00442', commit='abdb115', clip_grad=None, model_ema=True)

AGENT = rows(f'{SCHEDULE} clip_grad drop_path model_ema_decay', {
    'agent_deit_tiny': (4096, 4e-3, 4e-6, 4e-5, 300, 20, 0.05, 5., 0., None),
    'agent_deit_small': (1024, 1e-3, 1e-6, 1e-5, 300, 20, 0.05, 5., 0.1, None),
    'agent_deit_small_448': (512, 5e-4, 5e-7, 5e-6, 300, 20, 0.05, 5., 0.1, None),
    'agent_deit_base': (1024, 1e-3, 1e-6, 1e-5, 300, 20, 0.05, 5., 0.3, None),
    'agent_pvt_tiny': (1024, 1e-3, 2e-6, 2e-5, 310, 5, 0.05, None, 0.1, None),
    'agent_pvt_small': (1024, 1e-3, 2e-6, 2e-5, 310, 5, 0.05, None, 0.1, None),
    'agent_pvt_medium': (1024, 1e-3, 2e-6, 2e-5, 310, 5, 0.05, 1., 0.3, None),
    'agent_pvt_medium_256': (512, 5e-4, 1e-6, 1e-5, 310, 5, 0.05, 1., 0.3, None),
    'agent_pvt_large': (512, 5e-4, 1e-6, 1e-5, 310, 5, 0.05, 1., 0.3, None),
    'agent_swin_tiny': (1024, 1e-3, 1e-6, 1e-5, 300, 20, 0.05, 5., 0.2, None),
    'agent_swin_small': (1024, 1e-3, 1e-6, 1e-5, 300, 20, 0.05, 5., 0.3, None),
    'agent_swin_small_288': (512, 5e-4, 5e-7, 5e-6, 300, 20, 0.05, 5., 0.3, None),
    'agent_swin_base': (512, 5e-4, 5e-7, 5e-6, 300, 20, 0.05, 5., 0.5, None),
    'agent_swin_base_384': (256, 1e-5, 1e-8, 1e-7, 30, 5, 1e-8, 5., 0.5, None),
    'agent_cswin_tiny': (1024, 1e-3, 2e-6, 2e-5, 310, 20, 0.05, None, 0.2, 0.99984),
    'agent_cswin_small': (1024, 1e-3, 2e-6, 2e-5, 310, 20, 0.05, None, 0.4, 0.99984),
    'agent_cswin_base': (512, 5e-4, 1e-6, 1e-5, 310, 20, 0.1, None, 0.5, 0.99992),
    'agent_cswin_base_384': (256, 2.5e-6, 2.5e-6, 2.5e-7, 30, 0, 1e-8, None, 0.7, 0.9998),
}, **LEAPLAB, paper='2312.08874', commit='207ce3e')

INLINE = rows(f'{SCHEDULE} clip_grad drop_path', {
    'inline_deit_tiny': (4096, 4e-3, 4e-6, 4e-5, 300, 20, 0.05, 5., 0.1),
    'inline_deit_small_288': (1024, 1e-3, 1e-6, 1e-5, 300, 20, 0.05, 5., 0.1),
    'inline_deit_base_448': (512, 5e-4, 5e-7, 5e-6, 300, 20, 0.05, 5., 0.1),
    'inline_pvt_tiny': (1024, 1e-3, 2e-6, 2e-5, 310, 5, 0.05, None, 0.1),
    'inline_pvt_small': (1024, 1e-3, 2e-6, 2e-5, 310, 5, 0.05, None, 0.1),
    'inline_pvt_medium': (1024, 1e-3, 2e-6, 2e-5, 310, 5, 0.05, 1., 0.3),
    'inline_pvt_large': (512, 5e-4, 1e-6, 1e-5, 310, 5, 0.05, 1., 0.3),
    'inline_swin_tiny': (1024, 1e-3, 1e-6, 1e-5, 300, 20, 0.05, 5., 0.2),
    'inline_swin_small': (1024, 1e-3, 1e-6, 1e-5, 300, 20, 0.05, 5., 0.3),
    'inline_swin_base': (512, 5e-4, 5e-7, 5e-6, 300, 20, 0.05, 5., 0.5),
    'inline_swin_base_384': (256, 1e-5, 1e-8, 1e-7, 30, 5, 1e-8, 5., 0.5),
}, **LEAPLAB, paper='2412.06590', commit='e463a6f', amp=True, model_ema_decay=None) | rows(
    f'{SCHEDULE} drop_path model_ema_decay', {
        # 0.9996 to the power of batch / 4096
        'inline_cswin_tiny': (1024, 1e-3, 2e-6, 2e-5, 310, 20, 0.05, 0.2, 0.9999),
        'inline_cswin_small': (1024, 1e-3, 2e-6, 2e-5, 310, 20, 0.05, 0.4, 0.9999),
        'inline_cswin_base': (512, 5e-4, 1e-6, 1e-5, 310, 20, 0.1, 0.5, 0.99995),
        'inline_cswin_base_384': (256, 2.5e-6, 2.5e-6, 2.5e-7, 30, 0, 1e-8, 0.7, 0.999975),
    }, **LEAPLAB, paper='2412.06590', commit='e463a6f', amp=True, clip_grad=None)

# main.py of qhfan/RALA and of the two that took it over; stochastic depth is that of the model functions
PYRAMID = dict(
    DEIT, batch=1024, lr=1e-3, warmup_lr=1e-6, min_lr=1e-5, scales=('lr',), length=300, warmup_epochs=5,
    weight_decay=0.05, clip_grad=None, model_ema_decay=0.99992, sync_bn=True, sched_on_updates=False, aug_repeats=3)
PYRAMIDS = {
    f'{family}_{size}': dict(PYRAMID, drop_path=drop_path, paper=paper, commit=commit, amp=family != 'nalaformer')
    for family, paper, commit in (
        ('ravlt', '2411.07635', 'a86314f'), ('mavit', '2507.00698', '7114e63'), ('nalaformer', '2506.21137', '1f1c10a'))
    for size, drop_path in dict(xt=0.1, t=0.1, s=0.15, b=0.4, l=0.55).items()
    if size != 'xt' or family == 'nalaformer'}

L2VIT = rows(f'{SCHEDULE} drop_path model_ema_decay model tag header', {
    'l2vit_tiny': (
        4096, 4e-3, 0., 1e-6, 300, 20, 0.05, 0.2, 0.9999, 'l2vit_tiny', 'in1k', 'not published for this size'),
    'l2vit_small': (
        4096, 4e-3, 0., 1e-6, 300, 20, 0.05, 0.2, 0.9999, 'l2vit_small', 'in1k', 'not published for this size'),
    'l2vit_base': (4096, 4e-3, 0., 1e-6, 300, 20, 0.05, 0.3, 0.9999, 'l2vit_base', 'in1k', ''),
    'l2vit_base_in22k': (1024, 1e-3, 1e-6, 1e-5, 90, 5, 0.05, 0.2, None, 'l2vit_base', 'in22k', ''),
    'l2vit_base_in22k_ft_in1k': (
        1024, 4e-5, 4e-8, 4e-7, 30, 5, 1e-8, 0.2, 0.9999, 'l2vit_base', 'in22k_ft_in1k', ''),
    'l2vit_base_384': (1024, 4e-5, 4e-8, 4e-7, 30, 5, 1e-8, 0.2, 0.9999, 'l2vit_base_384', 'in22k_ft_in1k', ''),
}, **DEIT, paper='2501.16182', commit='fad0341', scales=(), warmup_prefix=True, sched_on_updates=True, clip_grad=None,
    train_interpolation='bicubic')
L2VIT['l2vit_base_in22k'].update(num_classes=21841)

CARE = rows('drop_path', {'care_s0': (0.1,), 'care_s1': (0.1,), 'care_s2': (0.1,)}, **dict(
    DEIT, processes=12, batch=1536, lr=2.5e-3, warmup_lr=1e-6, min_lr=1e-5, scales=(), length=310, warmup_epochs=20,
    weight_decay=0.05, clip_grad=None, model_ema_decay=None, train_interpolation='random', warmup_prefix=False,
    sched_on_updates=False), paper='2411.16170', commit='400bf94', header='with a teacher', **TAUGHT)

for _name in ('flatten_swin_base_384', 'agent_swin_base_384', 'agent_swin_small_288', 'inline_swin_base_384'):
    for _rows in (FLATTEN, AGENT, INLINE):
        if _name in _rows:
            _rows[_name].update(crop_pct=1.0)  # TEST.CROP False

VAN = rows(f'{SCHEDULE} drop_path', {
    'van_b0': (1024, 1e-3, 1e-6, 1e-6, 310, 5, 0.05, 0.1),
    'van_b1': (1024, 1e-3, 1e-6, 1e-6, 310, 5, 0.05, 0.1),
    'van_b2': (1024, 1e-3, 1e-6, 1e-6, 310, 5, 0.05, 0.1),
    'van_b3': (1024, 1e-3, 1e-6, 1e-6, 310, 5, 0.05, 0.2),
}, **DEIT, paper='2202.09741', commit='e19779b', scales=(), warmup_prefix=False, sched_on_updates=False, clip_grad=None,
    amp=False, model_ema_decay=None, train_interpolation='random')
LARGE_VAN = dict(
    DEIT, paper='2202.09741', commit='b3e3188', scales=(), warmup_prefix=True, sched_on_updates=True, clip_grad=None,
    amp=False, model_ema_decay=None, train_interpolation='bicubic', warmup_lr=0., min_lr=1e-6, built_for_size=False)
for _size, _rate in dict(b4=0.2, b5=0.2, b6=0.3).items():
    VAN[f'van_{_size}_in22k'] = dict(
        LARGE_VAN, model=f'van_{_size}', nodes=8, batch=8192, lr=4e-3, length=90, warmup_epochs=5, weight_decay=0.05,
        drop_path=0.1, tag='in22k', num_classes=21841)
    for _suffix, _nodes in {'': 2, '_384': 4}.items():
        VAN[f'van_{_size}_in22k_ft_in1k{_suffix}'] = dict(
            LARGE_VAN, model=f'van_{_size}', nodes=_nodes, batch=512, lr=5e-5, length=30, warmup_epochs=0,
            weight_decay=1e-8, drop_path=_rate, tag=f'in22k_ft_in1k{_suffix}', mixup=0., cutmix=0.)

EFFICIENTMOD = rows('drop_path header', {
    'efficientmod_xxs': (0., 'with a teacher'), 'efficientmod_xs': (0., 'with a teacher'),
    'efficientmod_s': (0.02, 'with a teacher'), 'efficientmod_s_conv': (0.02, ''),
}, **DEIT, paper='2403.19963', commit='ec04df6', batch=2048, lr=4e-3, warmup_lr=1e-6, min_lr=1e-5, scales=(),
    length=310, warmup_epochs=5, weight_decay=0.05, clip_grad=None, amp=True, model_ema_decay=0.9998,
    warmup_prefix=False, sched_on_updates=False, train_interpolation='random')
for _row in EFFICIENTMOD.values():
    if _row['header']:
        _row.update(kd_model_name='regnety_160.deit_in1k', kd_distill_type='logit', kd_temperature=1.,
                    task_loss_weight=0.1, distill_loss_weight=0.9)

SMT = rows(f'{SCHEDULE} drop_path model tag', {
    'smt_tiny': (1024, 2e-3, 2e-7, 2e-6, 300, 5, 0.05, 0.1, 'smt_tiny', 'in1k'),
    'smt_small': (1024, 2e-3, 2e-7, 2e-6, 300, 5, 0.05, 0.2, 'smt_small', 'in1k'),
    'smt_base': (1024, 2e-3, 2e-7, 2e-6, 300, 5, 0.05, 0.3, 'smt_base', 'in1k'),
    'smt_large': (1024, 2e-3, 2e-7, 2e-6, 300, 5, 0.05, 0.4, 'smt_large', 'in1k'),
    'smt_large_in22k': (4096, 1e-3, 1e-6, 1e-5, 90, 5, 0.05, 0.1, 'smt_large', 'in22k'),
    'smt_large_in22k_ft_in1k': (1024, 2e-5, 2e-8, 2e-7, 30, 5, 0.05, 0.1, 'smt_large', 'in22k_ft_in1k'),
    'smt_large_in22k_ft_in1k_384': (512, 2e-5, 2e-8, 2e-7, 30, 5, 0.05, 0.1, 'smt_large', 'in22k_ft_in1k_384'),
}, **DEIT | dict(mixup=0.2), paper='2307.08579', commit='11e954d', scales=RATES, warmup_prefix=True,
    sched_on_updates=True, clip_grad=5., amp=True, model_ema_decay=None, built_for_size=False)
SMT['smt_large_in22k'].update(num_classes=21841)
for _name in ('smt_large_in22k_ft_in1k', 'smt_large_in22k_ft_in1k_384'):
    SMT[_name].update(starts_from=True)

LITV2 = {name: dict(
    DEIT, paper='2205.13213', commit='7501c86', batch=1024, lr=1e-3, warmup_lr=1e-6, min_lr=1e-5, scales=RATES,
    length=300, warmup_epochs=20, weight_decay=0.05, clip_grad=5., drop_path=drop_path, amp=True, model_ema_decay=None,
    warmup_prefix=False, sched_on_updates=True, lr_mult={'conv_offset.weight': 0.01}, built_for_size=False)
    for name, drop_path in dict(
        litv2_s=0.2, litv2_s_alpha00=0.2, litv2_s_alpha02=0.2, litv2_s_alpha04=0.2, litv2_s_alpha05=0.2,
        litv2_s_alpha07=0.2, litv2_s_alpha10=0.2, litv2_m=0.3, litv2_b=0.5, litv2_b_384=0.5).items()}
LITV2['litv2_b_384'].update(lr=4e-5, warmup_lr=4e-8, min_lr=4e-7, length=30, warmup_epochs=5, weight_decay=1e-8)
for _rows in (VAN, SMT, LITV2):
    for _name, _row in _rows.items():
        if _name.endswith('_384'):
            _row.update(crop_pct=1.0, crop_mode='squash')

BIFORMER = rows('drop_path header', {
    'biformer_tiny': (0.1, 'not published for this size'),
    'biformer_small': (0.15, ''),
    'biformer_base': (0.1, 'not published for this size'),
    'biformer_stl': (0.1, ''),
    'biformer_stl_nchw': (0.1, ''),
}, **dict(
    DEIT, batch=1024, lr=1e-3, warmup_lr=1e-6, min_lr=1e-5, scales=('lr',), length=300, warmup_epochs=5,
    weight_decay=0.05, clip_grad=None, model_ema_decay=None, sched_on_updates=False, aug_repeats=3, amp=True,
    train_interpolation='bicubic'), paper='2303.08810', commit='1697bbb')

PATNET = rows('batch lr weight_decay clip_grad drop_path aa mixup', {
    'patnet_t0': (4096, 4e-3, 0.005, None, 0., None, 0.05),
    'patnet_t1': (4096, 4e-3, 0.01, None, 0.02, 'rand-m3-mstd0.5-inc1', 0.1),
    'patnet_t2': (4096, 4e-3, 0.02, None, 0.05, 'rand-m5-mstd0.5-inc1', 0.1),
    'patnet_s': (4096, 4e-3, 0.03, None, 0.1, 'rand-m7-mstd0.5-inc1', 0.3),
    'patnet_m': (2048, 2e-3, 0.05, 1., 0.2, 'rand-m7-mstd0.5-inc1', 0.5),
    'patnet_l': (2048, 2e-3, 0.05, 0.01, 0.3, 'rand-m7-mstd0.5-inc1', 0.7),
}, processes=8, warmup_lr=1e-6, min_lr=1e-5, scales=(), length=300, warmup_epochs=20, warmup_prefix=True,
    sched_on_updates=False, opt='adamw', opt_kwargs=dict(filter_bias_and_bn=False), amp=True, amp_dtype='float16',
    cutmix=1.0, smoothing=0.1, reprob=0., aug_repeats=0, color_jitter=[0.], train_interpolation='bicubic',
    model_ema_decay=None, progressive_sizes=[192], size_milestones=[280], paper='2503.03148', commit='679cfc0')

OVERLOCK = rows('drop_path', {
    'overlock_xt': (0.1,), 'overlock_t': (0.15,), 'overlock_s': (0.4,), 'overlock_b': (0.5,),
}, **DEIT, batch=2048, lr=2e-3, warmup_lr=1e-6, min_lr=1e-5, scales=('lr',), length=310, warmup_epochs=5,
    weight_decay=0.05, clip_grad=5., sched_on_updates=False, warmup_prefix=False, sync_bn=True, amp=True,
    amp_dtype='float16', train_interpolation='random', model_ema_decay=0.9999, paper='2502.20087', commit='2c8ab3b',
    header='with an auxiliary loss', aux_loss_weight=0.4)

# --- CNNs with gates; without a warm-up, warmup_lr is the trainer's default and has no effect

CNN = dict(
    scales=(), warmup_lr=1e-5, min_lr=0., warmup_epochs=0, warmup_prefix=False, sched_on_updates=False, momentum=0.9,
    weight_decay=1e-4, clip_grad=None, opt='momentum', opt_kwargs=dict(filter_bias_and_bn=False), amp=False, aa=None,
    color_jitter=[0.], scale=[0.08, 1.], ratio=[3 / 4, 4 / 3], train_interpolation='bilinear', reprob=0., aug_repeats=0,
    mixup=0., cutmix=0., smoothing=0., drop=0., drop_path=0., model_ema_decay=None)
STEPS = dict(CNN, batch=256, lr=0.1, sched='step', decay_epochs=30, decay_rate=0.1, length=100)
MOBILE = dict(STEPS, batch=96, lr=0.045, decay_epochs=1, decay_rate=0.98, length=400, weight_decay=4e-5, drop=0.25)

CBAM = {
    f'{kind}_resnet{depth}': dict(
        STEPS, processes=4, length=length, paper=paper, commit='459efad',
        header='' if depth == 50 else 'The command is that of ResNet-50')
    for kind, length, paper in (('cbam', 100, '1807.06521'), ('bam', 90, '1807.06514')) for depth in (18, 34, 50, 101)}

ECANET = {f'ecanet_resnet{depth}': dict(STEPS, processes=4) for depth in (18, 34, 50, 101, 152)}
ECANET['ecanet_mobilenet_v2'] = dict(MOBILE, processes=4)
for _row in ECANET.values():
    _row.update(paper='1910.03151', commit='b332f6b')

FCANET = {f'fcanet_resnet{depth}': dict(
    CNN, processes=4, batch=512, lr=0.2, scales=('lr',), warmup_lr=0., sched='cosine', sched_on_updates=True,
    length=100, warmup_epochs=5, warmup_prefix=True, amp=True, scale=[0.1, 1.], ratio=[0.8, 1.25], smoothing=0.1,
    paper='2012.11879', commit='aa5fb63') for depth in (34, 50, 101, 152)}

TRIPLET = {f'triplet_resnet{name}': dict(STEPS, processes=1) for name in ('18', '18_k3', '34', '50', '50_k3', '101')}
TRIPLET |= {f'triplet_mobilenet_v2{name}': dict(MOBILE, processes=2) for name in ('', '_k3')}
for _row in TRIPLET.values():
    _row.update(paper='2010.03045', commit='2cf02fb')

EMCA = {
    f'emca_resnet{depth}{recall}': dict(
        STEPS, processes=4, length=200, paper='2211.07521', commit='76bae42', header='The command is not published')
    for depth in (18, 34, 50) for recall in ('', '_s1n1', '_lastblocks')}

RESNEST = {f'resnest50d_{setting}': dict(
    CNN, processes=8, nodes=8, batch=8192, lr=3.2, scales=('lr',), warmup_lr=0., sched='cosine', sched_on_updates=True,
    length=270, warmup_epochs=5, warmup_prefix=True, opt='sgd', opt_kwargs={}, aa='originalr', color_jitter=[0.4],
    mixup=0.2, smoothing=0.1, paper='2004.08955', commit='1dfb3e8', drop_block=0.1,
    aa_first=True, lighting=0.1)
    for setting in ('1s1x64d', '1s2x40d', '2s1x64d', '2s2x40d', '4s1x64d')}

GATED = CBAM | ECANET | FCANET | TRIPLET | EMCA | RESNEST

# --- models of timm's own; their top-1 is told here

FOCALNET = rows('drop_path top1', {
    'focalnet_tiny_srf': (0.2, 82.1), 'focalnet_tiny_lrf': (0.2, 82.3), 'focalnet_small_srf': (0.3, 83.4),
    'focalnet_small_lrf': (0.3, 83.5), 'focalnet_base_srf': (0.5, 83.7), 'focalnet_base_lrf': (0.5, 83.9),
}, **DEIT, batch=1024, lr=1e-3, warmup_lr=1e-6, min_lr=1e-5, scales=RATES, length=300, warmup_epochs=20,
    weight_decay=0.05, clip_grad=5., sched_on_updates=True, warmup_prefix=False, amp=True, crop_pct=0.875,
    train_interpolation='bicubic', model_ema_decay=None, paper='2203.11926', commit='e8514bd')

SWIFTFORMER = rows('aa mixup cutmix top1', {
    'swiftformer_xs': (None, 0., 0., 75.7), 'swiftformer_s': ('rand-m9-mstd0.5-inc1', 0., 0., 78.5),
    'swiftformer_l1': ('rand-m9-mstd0.5-inc1', 0.8, 1., 80.9),
    'swiftformer_l3': ('rand-m9-mstd0.5-inc1', 0.8, 1., 83.0),
}, processes=4, nodes=4, batch=2048, lr=2e-3, warmup_lr=1e-6, min_lr=1e-5, scales=(), length=300, warmup_epochs=5,
    weight_decay=0.025, clip_grad=0.01, clip_mode='agc', drop_path=0., opt='adamw', smoothing=0.1, reprob=0.25,
    aug_repeats=3, color_jitter=[0.4], amp=False, crop_pct=0.875, train_interpolation='bicubic', sched_on_updates=False,
    model_ema_decay=0.99996, paper='2303.15446', commit='4aa6cd6', header='with a teacher', **TAUGHT)

MAMBAOUT = rows('drop_path top1', {
    'mambaout_femto': (0.025, 78.9), 'mambaout_kobe': (0.025, 80.0), 'mambaout_tiny': (0.2, 82.7),
    'mambaout_small': (0.4, 84.1), 'mambaout_base': (0.6, 84.2),
}, **DEIT, batch=4096, lr=4e-3, warmup_lr=1e-6, min_lr=1e-5, scales=(), length=310, warmup_epochs=20, weight_decay=0.05,
    clip_grad=None, sched_on_updates=False, warmup_prefix=False, amp=False, train_interpolation='random',
    model_ema_decay=None, paper='2405.07992', commit='9f2f234')

IFORMER = rows('drop_path top1', {
    'iformer_t': (0., 74.1), 'iformer_s': (0., 78.8), 'iformer_m': (0., 80.4), 'iformer_l': (0.1, 81.9),
}, **DEIT, batch=4096, lr=4e-3, warmup_lr=0., min_lr=1e-6, scales=(), length=300, warmup_epochs=20, weight_decay=0.05,
    clip_grad=None, sched_on_updates=True, warmup_prefix=True, amp=False, train_interpolation='bicubic',
    model_ema_decay=None, paper='2501.15369', commit='2a87540', header='without a teacher')
for _name, _length, _top1 in (('iformer_m', 300, 81.1), ('iformer_l', 300, 82.7), ('iformer_l2', 450, 83.9)):
    IFORMER[f'{_name}_distilled'] = dict(
        IFORMER['iformer_m'], length=_length, top1=_top1, header='with a teacher', **TAUGHT)

TIMMS_OWN = FOCALNET | SWIFTFORMER | MAMBAOUT | IFORMER
LACKING = set(IFORMER) if Version(timm.__version__) < Version('1.0.30') else set()  # in the timm that is installed

PUBLISHED = (
    FLATTEN | AGENT | INLINE | PYRAMIDS | L2VIT | CARE | VAN | EFFICIENTMOD | SMT | LITV2 | BIFORMER | PATNET
    | OVERLOCK | GATED | TIMMS_OWN)

UNPUBLISHED = dict(
    ela_resnet50='no code, and no word on where the gates stand',
    ulsam_mobilenet_v2='the gate alone, and no word on where it stands',
    cbam_resnet18_cifar='the repository trains on ImageNet only',
    flatten_pvt_v2_b5='in the code only, without a configuration',
    zoo_hybrid="the zoo's own, to be given a mixer and a host")
