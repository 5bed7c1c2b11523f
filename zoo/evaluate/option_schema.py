"""Every option of ``validate`` and ``probe``: those of ``train`` that fit, and their own."""
from dataclasses import replace

from ..train.option_schema import COMMON, CROP, TRAIN, group, row

VALIDATE = COMMON + group(
    'validation',
    row('config', str, None, 'YAML file with these options; flags win over it', short=('-c',)),
    row('split', str, 'validation', 'split to validate on'),
    row('num_samples', int, None, 'images of the split, of a stream that does not tell', low=1),
    row('checkpoint', str, '', 'file or folder of files; those of train bring model, preprocessing and data along'),
    row('pretrained', bool, False, 'validate the published weights'),
    row('against', str, '', "measure the official weights of all models that match a pattern ('ravlt_*')",
        choices=('published',)),
    row('use_ema', bool, True, 'averaged weights where the checkpoint has them'),
    row('use_train_size', bool, False, "the model's training size where its published test size differs"),
    row('test_pool', bool, False, 'pool once more over larger maps at test time (timm)'),
    row('reparam', bool, False, 'fuse the branches of re-parameterisable models first'),
    row('results_file', str, '', 'write the results here'),
    row('results_format', str, 'csv', 'format of results_file', choices=('csv', 'json')),
    row('json', bool, False, 'print the results as JSON, and all else on stderr'),
    row('real_labels', str, '', 'JSON file with the ImageNet ReaL labels'),
    row('valid_labels', str, '', 'file with one class index a line: only these outputs count'),
    row('retry', bool, False, 'when memory runs out, try again with smaller batches'),
    row('log_freq', int, 10, 'batches between log lines', low=1),
    row('crop_sweep', 'floats', None, 'not in timm: measure at each of these crop_pct, and tell the best', **CROP),
    row('report', str, '', 'not in timm: write accuracy per class and the confusion matrix (CSV, PNG) to this folder'),
    row('tta', bool, False, 'not in timm: average over each image and its mirror image'),
    row('tta_scales', 'floats', None, 'not in timm: average over these multiples of the image size', low=0.1, high=4),
    row('skip_done', bool, False, 'not in timm: measure only what results_file lacks, and add it'),
)

# Of training, what does not fit a probe: it has no layers, its weights and its learning rate are said another way
_NOT_OF_PROBES = (
    'gp', 'initial_checkpoint', 'pretrained_path', 'pretrained_rows', 'drop', 'drop_path', 'grad_checkpointing',
    'drop_block', 'sync_bn', 'fsdp', 'layer_decay', 'lr_base', 'lr_base_size', 'lr_base_scale', 'lr_mult',
    'lr_scale_ends', 'progressive_sizes', 'size_milestones', 'kd_model_name', 'kd_teacher_checkpoint',
    'kd_model_kwargs', 'kd_distill_type', 'kd_token_distill_type', 'kd_temperature', 'distill_loss_weight',
    'task_loss_weight', 'aux_loss_weight', 'extra_loss_weights')
_OF_PROBES = dict(  # defaults: the recipe of billpsomas/efficient-probing
    batch_size=1024, opt='lars', weight_decay=0., sched_on_updates=True, epochs=90, warmup_epochs=None, warmup_lr=0.,
    color_jitter=[0.], smoothing=0., train_interpolation='bicubic', output='output/probe')
_SAID_OF_PROBES = dict(
    num_classes="classes; default: the data's own number", pretrained='probe the published weights',
    lr='learning rate; default: blr scaled to the global batch',
    warmup_epochs='epochs of linear warm-up; default: a ninth of all',
    resume="go on from this checkpoint of a probe in its folder; 'auto': the newest one, if there is any")

PROBE = group(
    'probe',
    row('pool', str, 'linear', 'pooling of the patch tokens: their mean, or efficient probing',
      choices=('linear', 'ep')),
    row('queries', int, 32, "queries of efficient probing; divide the model's width", low=1),
    row('checkpoint', str, '', 'probe the weights in this file; one written by train brings model and preprocessing '
                               'along'),
    row('blr', float, 0.1, 'learning rate of a global batch of 256 images', low=0),
) + tuple(
    replace(option, default=_OF_PROBES.get(option.dest, option.default),
            help=_SAID_OF_PROBES.get(option.dest, option.help))
    for option in TRAIN if option.dest not in _NOT_OF_PROBES)
