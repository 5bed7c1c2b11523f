"""The options of ``train``, with flag, YAML key, type, default and help.

Names and defaults are those of timm's training script, so that its recipes work here.
"""
from dataclasses import dataclass, replace
from typing import Any

SCHEDULES = ('cosine', 'tanh', 'step', 'multistep', 'poly', 'plateau', 'wsd', 'rsqrt', 'constant', 'none')
METRICS = ('top1', 'top5', 'loss')


@dataclass(frozen=True)
class Option:
    """One option.

    Args:
        dest: YAML key; the flag is ``--`` followed by the key with dashes.
        kind: str, int, float, bool, 'ints', 'floats', 'words' (lists) or 'kwargs' (a dict; ``key=value`` as a flag).
        default: Value if neither flag nor key is given; None means unset and is null in YAML.
        help: One line.
        choices: Allowed values; '' is always allowed where it is the default.
        count: Length of a list, or the allowed lengths; None for one or more.
        low: Smallest allowed number. Numbers must be finite, and integers fit into 32 bits, in any case.
        high: Largest allowed number.
        above: Exclusive lower bound.
        below: Exclusive upper bound.
        rising: Whether the numbers of a list must not decrease.
        short: One-letter flags.
        const: Value of the flag without a value, if that may be left out.
        group: Title of the option's group in the help.
    """

    dest: str
    kind: Any
    default: Any
    help: str
    choices: tuple = ()
    count: int | tuple[int, ...] | None = None
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    rising: bool = False
    short: tuple[str, ...] = ()
    const: Any = None
    group: str = ''

    @property
    def counts(self) -> tuple[int, ...]:
        """Lengths that a list may have, () for any from 1 on."""
        return self.count if isinstance(self.count, tuple) else () if self.count is None else (self.count,)


def group(title: str, *options: Option) -> tuple[Option, ...]:
    """A group of options, for the help."""
    return tuple(replace(option, group=title) for option in options)


row = Option
CHANCE = dict(low=0, high=1)
DROP = dict(low=0, below=1)  # of what is dropped something must be left
CROP = dict(low=0.1, high=2)  # smaller ones blow an image up until it no longer fits into memory
PIL_MODES = ('L', 'LA', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'HSV', 'I', 'F')

COMMON = group(
    'data',
    row('data_dir', str, None, 'folder of the data set (or give it as the first argument)'),
    row('dataset', str, '', "'' for image folders, 'digits', 'quickstart', or a name of timm ('torch/cifar10')"),
    row('dataset_download', bool, False, 'let torch/, tfds/ and hfids/ data sets download themselves'),
    row('class_map', str, '', 'file that maps class names to indices (image folders)'),
    row('input_key', str, None, "what an image is called in wds/, hfds/ and hfids/ data, such as 'image' or 'jpg;png'"),
    row('target_key', str, None, "what a class is called there, such as 'label' or 'cls'"),
    row('input_img_mode', str, None, "decode images to this PIL mode; default 'L' for one channel, else 'RGB'",
        choices=PIL_MODES),
    row('skip_corrupt', bool, False, 'not in timm: name, count and replace images that cannot be read'),
) + group(
    'model',
    row('model', str, 'resnet50', 'name of a zoo or timm model'),
    row('num_classes', int, None, "classes; default: as many as the training data has, or the model's own", low=1),
    row('gp', str, None, "global pooling: avg, max, avgmax, ...; default: the model's"),
    row('img_size', int, None, "square image size in pixels; default: the model's", low=1),
    row('in_chans', int, None, 'image channels', low=1),
    row('input_size', 'ints', None, 'channels, height and width, instead of img_size and in_chans', count=3, low=1),
    row('model_kwargs', 'kwargs', {}, 'more arguments of the model; flags add to the keys of a config'),
) + group(
    'preprocessing',
    row('crop_pct', float, None, 'validation: image size over resize size', **CROP),
    row('crop_mode', str, None, 'validation: how to crop', choices=('center', 'squash', 'border')),
    row('mean', 'floats', None, 'mean of each channel, of values in [0, 1]', low=0, high=1),
    row('std', 'floats', None, 'standard deviation of each channel, of values in [0, 1]', above=0),
    row('interpolation', str, '', "resize interpolation in validation; default: the model's",
      choices=('bilinear', 'bicubic', 'nearest', 'lanczos', 'box', 'hamming')),
) + group(
    'computation',
    row('batch_size', int, 128, 'images per process and step', low=1, short=('-b',)),
    row('channels_last', bool, False, 'channels-last memory layout'),
    row('torchcompile', str, None, 'compile the model with this backend', const='inductor'),
    row('torchcompile_mode', str, None, 'mode of torch.compile'),
    row('device', str, 'auto', "'auto' is cuda if there is one, else cpu"),
    row('amp', bool, False, 'automatic mixed precision'),
    row('amp_dtype', str, '', "low precision of --amp; default float16 on cuda, bfloat16 elsewhere",
      choices=('float16', 'bfloat16')),
    row('model_dtype', str, None, 'precision of the weights themselves', choices=('float32', 'float16', 'bfloat16')),
    row('workers', int, 4, 'data loading processes', low=0, high=512, short=('-j',)),
    row('worker_timeout', float, 600., 'not in timm: seconds to wait for a batch of these, 0 for ever', low=0),
    row('pin_mem', bool, False, 'pinned memory for faster copies to the GPU'),
    row('no_prefetcher', bool, False, 'normalise in the loading processes instead of on the device'),
    row('debug', bool, False, 'show tracebacks'),
)

TRAIN = COMMON + group(
    'run',
    row('config', str, None, 'YAML file, or the name of one that comes with the zoo; flags win over it', short=('-c',)),
) + group(
    'data',
    row('train_split', str, 'train', 'split to train on'),
    row('class_names', 'words', None, 'not in timm: names of the classes in the order of their numbers'),
    row('val_split', str, 'validation', 'split to validate on'),
    row('train_num_samples', int, None, 'images to train on, of a stream that does not tell', low=1),
    row('val_num_samples', int, None, 'images to validate on, of a stream that does not tell', low=1),
) + group(
    'weights',
    row('pretrained', bool, False, 'start from the published weights'),
    row('pretrained_path', str, None, 'start from the weights in this file; size and classes may differ'),
    row('pretrained_rows', str, '', 'not in timm: file that lists the rows of its classifier to start from'),
    row('initial_checkpoint', str, '', 'start from this file, which must fit the model exactly'),
    row('resume', str, '', "go on from this checkpoint in its folder; 'auto': the newest in output, if any"),
    row('no_resume_opt', bool, False, 'with resume: weights only, not the optimizer'),
    row('new_data', bool, False, "not in timm, with resume: go on although classes or images are not the run's"),
) + group(
    'model',
    row('drop', float, 0., 'dropout before the classifier', **DROP),
    row('drop_path', float, None, 'stochastic depth', **DROP),
    row('drop_block', float, 0., 'not as in timm: DropBlock in the last stages of a ResNet, its chance growing to this',
        **DROP),
    row('grad_checkpointing', bool, False, 'recompute activations in the backward pass to save memory'),
    row('sync_bn', bool, False, 'synchronised batch norm over processes'),
    row('fsdp', bool, False, 'not in timm: shard weights and optimizer over the processes by FSDP2'),
    row('dist_bn', str, 'reduce', 'what makes batch-norm statistics equal', choices=('broadcast', 'reduce')),
) + group(
    'optimizer',
    row('validation_batch_size', int, None, 'batch_size in validation', low=1, short=('-vb',)),
    row('grad_accum_steps', int, 1, 'batches per optimizer step', low=1),
    row('opt', str, 'sgd', 'name of an optimizer of timm'),
    row('opt_eps', float, None, 'epsilon', low=0),
    row('opt_betas', 'floats', None, 'betas', count=(2, 3), low=0, below=1),
    row('opt_kwargs', 'kwargs', {}, 'more arguments of the optimizer'),
    row('momentum', float, 0.9, 'momentum, where the optimizer has one', low=0, below=1),
    row('weight_decay', float, 2e-5, 'weight decay', low=0),
    row('clip_grad', float, None, 'clip gradients at this value', above=0),
    row('clip_mode', str, 'norm', 'what clip_grad limits', choices=('norm', 'value', 'agc')),
    row('layer_decay', float, None, 'learning-rate factor per layer from the head down', above=0, high=1),
) + group(
    'schedule',
    row('sched', str, 'cosine', 'learning-rate schedule', choices=SCHEDULES),
    row('sched_on_updates', bool, False, 'step the schedule on every update, not on every epoch'),
    row('lr', float, None, 'learning rate; default: lr_base scaled to the global batch', low=0),
    row('lr_base', float, 0.1, 'learning rate of a global batch of lr_base_size', low=0),
    row('lr_base_size', int, 256, 'see lr_base', low=1),
    row('lr_base_scale', str, '', "'linear' or 'sqrt' in the global batch; default by the optimizer",
      choices=('linear', 'sqrt')),
    row('lr_mult', 'kwargs', {}, 'not in timm: factors on peak learning rates, by endings of parameter names'),
    row('lr_scale_ends', bool, False, 'not in timm: lr_base also scales warmup_lr and min_lr'),
    row('warmup_lr', float, 1e-5, 'learning rate at the start of the warm-up', low=0),
    row('min_lr', float, 0., 'learning rate at the end', low=0),
    row('epochs', int, 300, 'epochs, warm-up included, cool-down not', low=1),
    row('start_epoch', int, None, 'start with this epoch (a resumed run knows its own)', low=0),
    row('stop_epoch', int, None, 'stop after this many epochs of the schedule', low=1),
    row('warmup_epochs', float, 5., 'epochs of linear warm-up', low=0, high=1e6),
    row('warmup_prefix', bool, False, 'the schedule begins after the warm-up, whose epochs come on top'),
    row('cooldown_epochs', int, 0, 'epochs at min_lr afterwards', low=0),
    row('decay_epochs', float, None, "epochs between steps ('step') or of the final decay ('wsd', 'rsqrt')",
        above=0, high=1e6),
    row('decay_milestones', 'ints', [90, 180, 270], "epochs of the steps ('multistep')", low=1, rising=True),
    row('decay_rate', float, 0.1, "factor of a step, or power of 'poly'", above=0, high=10),
    row('patience_epochs', int, 10, "epochs without progress before a step ('plateau')", low=0),
) + group(
    'augmentation',
    row('no_aug', bool, False, 'no augmentation at all'),
    row('scale', 'floats', [0.08, 1.0], 'area of random crops', count=2, low=0.01, high=1, rising=True),
    row('ratio', 'floats', [3 / 4, 4 / 3], 'aspect ratio of random crops', count=2, low=0.1, high=10, rising=True),
    row('hflip', float, 0.5, 'chance of a horizontal flip', **CHANCE),
    row('vflip', float, 0., 'chance of a vertical flip', **CHANCE),
    row('color_jitter', 'floats', [0.4], 'brightness, contrast, saturation (, hue); off with aa',
        count=(1, 3, 4), low=0, high=10),
    row('aa', str, None, "automatic augmentation: 'v0', 'original', 'rand-m9-mstd0.5', ..."),
    row('aug_repeats', float, 0., 'copies of an image in a global batch', low=0, high=100),
    row('reprob', float, 0., 'chance of random erasing', **CHANCE),
    row('remode', str, 'pixel', 'fill of random erasing', choices=('pixel', 'const', 'rand')),
    row('recount', int, 1, 'boxes of random erasing', low=1, high=1000),
    row('train_interpolation', str, 'random', 'resize interpolation in training',
      choices=('random', 'bilinear', 'bicubic', 'nearest', 'lanczos', 'box', 'hamming')),
    row('mixup', float, 0., 'alpha of mixup, 0 for none', low=0, high=100),
    row('cutmix', float, 0., 'alpha of cutmix, 0 for none', low=0, high=100),
    row('mixup_prob', float, 1., 'chance that a batch is mixed', **CHANCE),
    row('mixup_switch_prob', float, 0.5, 'chance of cutmix where both are on', **CHANCE),
    row('mixup_mode', str, 'batch', 'what shares one mixing ratio', choices=('batch', 'pair', 'elem')),
    row('mixup_off_epoch', int, 0, 'stop mixing from this epoch on, 0 for never', low=0),
    row('smoothing', float, 0.1, 'label smoothing', low=0, below=1),
    row('bce_loss', bool, False, 'binary cross entropy instead of cross entropy'),
    row('bce_target_thresh', float, None, 'with bce_loss: targets above this are 1, others 0', low=0, below=1),
    row('aa_first', bool, False, 'not in timm: aa comes before the crop, and colour jitter stays on beside it'),
    row('lighting', float, 0., "not in timm: strength of AlexNet's lighting noise", low=0, high=10),
) + group(
    'image size',
    row('progressive_sizes', 'ints', None, 'not in timm: square image sizes before each of size_milestones', low=1),
    row('size_milestones', 'ints', None, 'not in timm: epochs at which these sizes end; the last gives way to img_size',
        low=1, rising=True),
) + group(
    'teacher, auxiliary classifier, losses of layers',
    row('kd_model_name', str, None, 'teacher to learn from: name of a model, with its published weights'),
    row('kd_teacher_checkpoint', str, '', "not in timm: the teacher's weights are in this file"),
    row('kd_model_kwargs', 'kwargs', {}, 'not in timm: more arguments of the teacher'),
    row('kd_distill_type', str, 'logit', 'by logits, features or a second classifier; not in timm: logits and tokens',
        choices=('logit', 'feature', 'token', 'sequence')),
    row('kd_token_distill_type', str, 'soft', "token: divergence from the teacher's logits, or its labels",
        choices=('soft', 'hard')),
    row('kd_temperature', float, 4., 'softens both logits', above=0),
    row('distill_loss_weight', float, None, "weight of the teacher's loss; default: 1 - task_loss_weight, or 1", low=0),
    row('task_loss_weight', float, None, "weight of the labels' loss; default: 1", low=0),
    row('aux_loss_weight', float, 0., 'not in timm: weight of the loss of an auxiliary classifier', low=0),
    row('extra_loss_weights', 'kwargs', {}, "not in timm: weights of losses of the model's own layers, by name"),
) + group(
    'averaged weights',
    row('model_ema', bool, False, 'keep an exponential average of the weights and judge by it'),
    row('model_ema_decay', float, 0.9998, 'decay of the average', low=0, below=1),
    row('model_ema_warmup', bool, False, 'let the decay grow from 0'),
) + group(
    'run',
    row('seed', int, 42, 'random seed', low=0),
    row('log_interval', int, 50, 'updates between log lines and points of the curves', low=1),
    row('val_interval', int, 1, 'epochs between validations', low=1),
    row('recovery_interval', int, 0, 'updates between recovery checkpoints, 0 for none', low=0),
    row('recovery_hist', int, 2, 'not in timm: how many recovery checkpoints to keep, the newest', low=1),
    row('skip_nonfinite', int, 0, 'not in timm: updates to leave out, at most, for a loss that is not a number', low=0),
    row('checkpoint_hist', int, 10, 'how many checkpoints to keep, the best ones', low=1),
    row('output', str, 'output/train', 'folder of all runs'),
    row('experiment', str, '', 'folder of this run; default: time, model and size'),
    row('eval_metric', str, 'top1', 'what makes a checkpoint the best', choices=METRICS),
) + group(
    'logging',
    row('log_tensorboard', bool, False, "not in timm: write events for TensorBoard into the run's folder"),
    row('log_wandb', bool, False, 'write to Weights & Biases'),
    row('wandb_project', str, None, 'with log_wandb: project'),
    row('wandb_tags', 'words', [], 'with log_wandb: tags'),
    row('wandb_resume_id', str, '', 'with log_wandb: go on with the run of this id'),
)
