"""One training run in its folder."""
import argparse
import contextlib
import math
import re
import time
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from timm.utils import distribute_bn, random_seed
from torch import nn

from zoo_kernels import cpu

from ..utils import files, text_tables
from ..utils.errors import GracefulInterrupt, Interrupted, NotFinite, ZooError
from ..utils.text_tables import some
from . import (
    build,
    checkpoint,
    distributed,
    dropblock,
    engine,
    logs,
    non_finite,
    options,
    progressive_resizing,
    report,
    state,
)
from .data import classes, datasets, loaders, sampling, workers
from .option_schema import TRAIN
from .task import make_task

# Options of one call only
NOT_CARRIED = ('config', 'debug', 'resume', 'no_resume_opt', 'new_data', 'start_epoch', 'stop_epoch', 'class_names')
CURVES_SECONDS = 30  # between two drawings


class Trainer:
    """One run in its folder: builds the parts, trains all epochs, writes checkpoints and summary.

    Args:
        args: Options.
        ctx: Device and rank.
        folder: Folder of the run; None to name it by time, model and size.
        content: Content of the checkpoint to resume from.
    """

    command, table = 'train', TRAIN

    def __init__(self, args: argparse.Namespace, ctx: build.DeviceContext, folder: Path | None, content: dict | None):
        self.args, self.ctx, self.content = args, ctx, content
        distributed.check(args, ctx)
        random_seed(args.seed, ctx.rank)
        self.model, self.config = self._build_model()
        self.sets = self._open_sets(self.config['input_size'][0])
        self._fit_classes()
        self.run = self._build_run()
        size = self.config['input_size'][-1]
        stamp = datetime.now().strftime('%Y%m%d-%H%M%S')
        self.folder = folder or Path(args.output) / f'{stamp}-{re.sub(r"[^0-9A-Za-z_.-]", "_", args.model)}-{size}'
        self.keeper = checkpoint.CheckpointManager(
            self.folder, args.checkpoint_hist, args.eval_metric == 'loss', args.recovery_hist)
        self.rows: list[dict[str, Any]] = []
        self.random = None  # state of the generators where a run goes on in the middle of an epoch
        self.start = self._restore() if content else self._begin()
        # the update at which the optimizer's state, if it is the checkpoint's, is used for the first time
        self.taken_over = self.run.updates if content and not args.no_resume_opt else None
        self.stop = min(args.stop_epoch or self.run.epochs, self.run.epochs)
        if content:
            content.clear()  # the caller holds it too, and it is as large as model and optimizer
        self.spent = 0.
        self.ctrl_c = GracefulInterrupt()
        self.drawn = time.monotonic()

    @staticmethod
    def check_resumed(content: dict[str, Any], path: str) -> None:
        """Refuse a checkpoint that another command wrote.

        Raises:
            ZooError: it is such a one.
        """
        if 'probe' in content:
            raise ZooError(f'{path} is a checkpoint of a probe; python -m zoo probe --resume goes on with it')

    # --- building

    def _build_model(self) -> tuple[nn.Module, dict[str, Any]]:
        args = self.args
        weights, adapt = None, not args.initial_checkpoint
        if self.content:
            args = argparse.Namespace(**{**vars(args), 'pretrained': False})
        elif args.initial_checkpoint or args.pretrained_path:
            weights = checkpoint.starting_weights(args)
        model = build.create_model(args, weights, adapt, drop_rate=args.drop, drop_path_rate=args.drop_path)
        if self.content:
            checkpoint.load_exactly(
                model, checkpoint.weights_of(self.content, args.resume, use_ema=False), args.resume)
        if args.grad_checkpointing:
            if not hasattr(model, 'set_grad_checkpointing'):
                raise ZooError(f'{args.model} has no gradient checkpointing; leave --grad-checkpointing out')
            model.set_grad_checkpointing(True)
        # FSDP2 takes contiguous weights only
        layout = torch.channels_last if args.channels_last and not args.fsdp else torch.preserve_format
        model.to(self.ctx.device, build.dtype_of(args), memory_format=layout)
        if args.sync_bn and self.ctx.distributed:
            model = distributed.sync_batch_norm(model, self.ctx.device)
        config = build.data_config_of(args, model)
        self.unused = build.check_forward(model, config, self.ctx, build.dtype_of(args))
        self.classes = getattr(model, 'num_classes', args.num_classes)
        return model, config

    def _fit_classes(self) -> None:
        """Give the model as many outputs as the training data has classes, unless the options say how many."""
        args, count = self.args, len(self.names or ())
        if self.content or args.num_classes or 'num_classes' in args.model_kwargs or args.pretrained_rows or not count:
            return
        args.num_classes = count
        self.say(f'{count} classes in the training data ({some([name for name in self.names if name is not None])}): '
                 f'the model gets {count} outputs')
        if count != self.classes:
            del self.model
            random_seed(args.seed, self.ctx.rank)
            self.model, self.config = self._build_model()

    def _build_run(self) -> engine.TrainState:
        args, ctx = self.args, self.ctx
        mixup = loaders.make_mixup(args, self.classes)
        train_batches, val_batches = self._build_loaders(mixup)
        updates = math.ceil(len(train_batches) / args.grad_accum_steps)
        rates = build.learning_rates(args, ctx.world_size)
        loss = build.make_loss(args, mixup is not None).to(ctx.device)
        task = make_task(args, self.model, loss, ctx, self.config)
        self.trained = task.get_trainable_module()  # the model, with the projection of its features if there is one
        if args.fsdp:
            distributed.broadcast_parameters(self.trained)
        if args.model_ema:
            task.setup_ema(decay=args.model_ema_decay, use_warmup=args.model_ema_warmup)
        if args.torchcompile:
            task.compile(backend=args.torchcompile, mode=args.torchcompile_mode)
        distributed.wrap(args, task, ctx, self.unused)
        optimizer = self._make_optimizer(rates['lr'])
        schedule, epochs = build.make_schedule(args, optimizer, updates, rates)
        self.drop_blocks = dropblock.DropBlocks(self.model, args.drop_block, epochs)
        return engine.TrainState(
            args, engine.BatchMover.of(args, ctx), task, optimizer, schedule, build.scaler_of(args, ctx.device),
            train_batches, val_batches, mixup, epochs)

    def _make_optimizer(self, lr: float) -> torch.optim.Optimizer:
        return build.make_optimizer(self.args, self.trained, lr)

    def _open_sets(self, channels: int) -> tuple[Any, Any]:
        """The data to train on and to validate on, numbered by one list of class names."""
        args, ctx = self.args, self.ctx
        if args.dataset_download and not ctx.primary:
            torch.distributed.barrier()  # the first process downloads for all
        train_set = datasets.open_dataset(args, args.train_split, channels, True, args.train_num_samples)
        named = classes.chosen_names(args.class_names, classes.names_of(train_set))
        self.names = classes.resumed_names(classes.names_in(self.content), named, args.new_data)
        classes.number_by(train_set, self.names, args.train_split, mapped=bool(args.class_map))
        val_set = datasets.open_dataset(
            args, args.val_split, channels, num_samples=args.val_num_samples, names=self.names)
        if args.dataset_download and ctx.primary and ctx.distributed:
            torch.distributed.barrier()
        return train_set, val_set

    def _build_loaders(self, mixup: Any) -> tuple[Any, Any]:
        args, ctx = self.args, self.ctx
        shared = dict(device=ctx.device, distributed=ctx.distributed, img_dtype=build.dtype_of(args))
        train_set, val_set = self.sets
        datasets.check_classes(train_set, self.classes)
        self.fingerprints = dict(train=classes.fingerprint(train_set), validation=classes.fingerprint(val_set))
        if self.content:
            classes.check_fingerprints(self.content.get('data_fingerprint'), self.fingerprints, args.new_data)
        for note in [*train_set.notes, *val_set.notes]:
            self.say(f'note: {note}')
        self.train_set, self.images = train_set, (len(train_set), len(val_set))
        self.train_batches = progressive_resizing.TrainBatches(
            args, self.config, lambda config: loaders.train_loader(args, train_set, config, mixup, **shared),
            self.model, ctx)
        val_size = args.validation_batch_size or args.batch_size
        return (self.train_batches.at(args.start_epoch or 0),
                loaders.eval_loader(args, val_set, self.config, val_size, **shared))

    def _begin(self) -> int:
        start = self.args.start_epoch or 0
        state.place_schedule(self.run, start)
        return start

    def _restore(self) -> int:
        """Restore state, summary and files from the checkpoint; return the epoch to start with."""
        args, content = self.args, self.content or {}
        start, self.random, note = state.restore(self.run, content, args.resume)
        if note:
            self.say(note)
        before, now = content.get('products'), build.products_library_of(args, self.ctx.device)
        if before not in (None, now):
            self.say(f'matrix products are computed by {now}, were by {before}: what follows is not bit by bit what it '
                     f'would have been' + (f'; ZOO_CPU_GEMM={before} keeps it so' if before in cpu.GEMMS else ''))
        if self.folder.resolve() == Path(args.resume).parent.resolve():
            self.rows = report.read_summary(self.folder / 'summary.csv', before=start)
            metrics = {row['epoch']: row[f'eval_{args.eval_metric}'] for row in self.rows}
            self.keeper.restore(metrics, tuple(content['best']) if content['best'] else None, content.get('run_id'))
        return start

    # --- running

    def fit(self) -> None:
        """Train all epochs, then print the closing table."""
        if self.start >= self.stop:
            if self.args.start_epoch is not None:
                raise ZooError(f'--start-epoch {self.start} leaves nothing to do: epochs count from 0 and the run has '
                               f'{self.stop}; raise --epochs or --stop-epoch')
            self.say(f'nothing left to do: {self.start} of {self.stop} epochs are done; raise --epochs to go on')
            return
        with files.folder_lock(self.folder) if self.ctx.primary else contextlib.nullcontext():
            self._fit()

    def _fit(self) -> None:
        self._open_folder()
        begin = time.monotonic()
        self.logs = logs.Logs(self.args, self.folder, self._recorded(), self.run.updates, self.ctx.primary)
        with self.ctrl_c, self.logs:
            try:
                for epoch in range(self.start, self.stop):
                    self.ctrl_c.check()
                    # what is random in an epoch depends on the seed and its number alone, so a resumed run goes on
                    # as an unbroken one would
                    random_seed((self.args.seed + 7919 * epoch) % 2 ** 31, self.ctx.rank)
                    if self.random is not None:
                        sampling.restore_random(self.random, self.ctx.device)
                        self.random = None
                    self._epoch(epoch, begin)
                    self.spent = time.monotonic() - begin
            except KeyboardInterrupt:
                raise Interrupted(self._farewell()) from None
            except (NotFinite, ConnectionError, *build.MISFITS) as e:
                # Ctrl-C reaches loading processes and the other ranks too: what breaks then is part of it
                if isinstance(e, (RuntimeError, ConnectionError, workers.LoadingFailed)) and self.ctrl_c.asked:
                    raise Interrupted(self._farewell()) from None
                told = non_finite.explained(e, self._farewell())
                if told is None and self.run.updates == self.taken_over:
                    told = state.explained(e, self.args)
                if told is None:
                    raise
                raise told from e
        if self.ctx.primary:
            self._draw(final=True)
            self._close()

    def _epoch(self, epoch: int, begin: float) -> None:
        args, run, start = self.args, self.run, time.monotonic()
        run.train_batches = self.train_batches.at(epoch)
        self.drop_blocks.begin(epoch)
        done = (epoch - self.start) / (self.stop - self.start)
        progress = report.Progress(
            len(run.train_batches), f'epoch {epoch + 1}/{self.stop}', self.ctx.primary,
            args.log_interval * args.grad_accum_steps, (start - begin, done), 1 / (self.stop - self.start),
            self.ctx.device, self.logs)
        progress.steps = run.batch
        replaced = datasets.replaced_images(self.train_set)
        try:
            trained = engine.train_epoch(run, epoch, progress, partial(self._after, epoch))
        finally:
            progress.close()
        if self.ctx.distributed:
            distribute_bn(self.model, self.ctx.world_size, args.dist_bn == 'reduce')
        row = dict(epoch=epoch, train_loss=trained['loss'], train_top1=trained['top1'], lr=run.lr)
        if (epoch + 1) % args.val_interval == 0 or epoch + 1 == self.stop:
            row.update(self._validate())
        metric = row.get(f'eval_{args.eval_metric}')
        if run.schedule is not None:
            run.schedule.step(epoch + 1, trained['loss'] if metric is None else metric)
        row['seconds'] = time.monotonic() - start
        self._tell_losses(epoch, datasets.replaced_images(self.train_set) - replaced)
        content = state.capture(run, epoch, self._description())
        if self.ctx.primary:
            non_finite.check_weights(content)
            self._keep(row, metric, progress.speed(), content)

    def _validate(self) -> dict[str, float]:
        run, ctx = self.run, self.ctx
        limit = loaders.real_samples(run.val_batches, ctx.rank, ctx.world_size)
        shared = run.val_batches, run.feed, limit, lambda images: self.ctrl_c.check()
        raw = engine.evaluate(engine.eval_model(run.task), *shared)
        judged = raw
        if run.task.has_ema():
            if ctx.distributed:
                distribute_bn(run.task.get_trainable_module(ema=True), ctx.world_size, self.args.dist_bn == 'reduce')
            judged = engine.evaluate(engine.eval_model(run.task, ema=True), *shared)
        row = {f'eval_{key}': judged[key] for key in ('loss', 'top1', 'top5')}
        return dict(row, raw_top1=raw['top1']) if judged is not raw else row

    # --- the books

    def say(self, line: str) -> None:
        if self.ctx.primary:
            print(line, flush=True)

    def _name(self) -> str:
        """What is trained."""
        return self.args.model

    def _recorded(self) -> dict[str, Any]:
        """The options worth keeping, as plain types: args.yaml and the checkpoints hold them."""
        known = {option.dest for option in self.table} - set(NOT_CARRIED)
        return options.plain({key: value for key, value in vars(self.args).items() if key in known})

    def _description(self) -> dict[str, Any]:
        """The entries from which model and preprocessing can be rebuilt."""
        return dict(
            arch=self.args.model, version=checkpoint.VERSION, args=self._recorded(),
            data_config=options.plain(self.config), num_classes=self.classes,
            class_names=classes.padded(self.names, self.classes), data_fingerprint=self.fingerprints,
            in_chans=self.config['input_size'][0], model_kwargs=options.plain(self.args.model_kwargs),
            metric_name=self.args.eval_metric, products=build.products_library_of(self.args, self.ctx.device))

    def _open_folder(self) -> None:
        if self.ctx.primary:
            checkpoint.check_folder(self.folder, self.args.resume)  # now that no other run can write
            self.keeper.tidy()
            recorded = self._recorded()
            if self.names and None not in self.names:
                recorded['class_names'] = self.names
            text = yaml.safe_dump(recorded, sort_keys=False, allow_unicode=True)
            files.write_atomically(self.folder / 'args.yaml', lambda file: file.write(text.encode()))
        parameters = sum(p.numel() for p in self.model.parameters())
        self.say(f'{self._name()}: {report.parameters(parameters)} parameters, '
                 f'images {list(self.config["input_size"])}, {self.images[0]} to train on, '
                 f'{self.images[1]} to validate; {self.ctx.device}, {self.ctx.world_size} process(es); '
                 f'folder {self.folder}')

    def _tell_losses(self, epoch: int, replaced: int) -> None:
        """Say what had to be left out."""
        replaced = sum(distributed.all_gather_objects(replaced, self.ctx))
        if replaced:
            self.say(f'epoch {epoch + 1}: {replaced} images that cannot be read were replaced')
        if self.run.guard is not None and self.run.guard.skipped:
            self.say(f'{self.run.guard.skipped} updates of the run were left out: loss or gradient was no number')

    def _keep(self, row: dict[str, Any], metric: float | None, speed: float, content: dict[str, Any]) -> None:
        epoch = row['epoch']
        self.rows.append(row)
        report.write_summary(self.folder / 'summary.csv', self.rows)
        self.logs.epoch(row, self.run.updates)
        self.keeper.save(content, epoch, metric)
        validated = '' if metric is None else (
            f'  |  validation loss {row["eval_loss"]:.4f}  top-1 {row["eval_top1"]:.2f}%  top-5 {row["eval_top5"]:.2f}%'
            + (f'  (best epoch {self.keeper.best[0] + 1})' if self.keeper.best else ''))
        self.say(f'epoch {epoch + 1}/{self.stop}  loss {row["train_loss"]:.4f}  acc {row["train_top1"]:.2f}%{validated}'
                 f'  |  lr {row["lr"]:.2e}  {speed:.0f} img/s  {report.duration(row["seconds"])}')
        self._draw()

    def _after(self, epoch: int, batch: int) -> None:
        """Between two batches: stop for Ctrl-C, write a recovery checkpoint if one is due."""
        self.ctrl_c.check()
        interval = self.args.recovery_interval * self.args.grad_accum_steps
        if interval and batch % interval == 0:
            content = state.capture(self.run, epoch - 1, self._description())
            if self.ctx.primary:
                non_finite.check_weights(content)
                self.keeper.save_recovery(content, epoch, batch)

    def _draw(self, final: bool = False) -> None:
        if final or time.monotonic() - self.drawn > CURVES_SECONDS:
            report.draw_curves(self.folder / 'curves.png', self.run.points, self.rows, self.folder.name)
            self.drawn = time.monotonic()

    def _farewell(self) -> str:
        newest = self.keeper.newest()
        if newest is None:
            return f'no checkpoint has been written, so there is nothing to go on from in {self.folder}'
        return (f'{newest} is the last whole checkpoint; go on with: '
                f'{report.command(self.command, "--resume", str(newest))}')

    def _close(self) -> None:
        args, best = self.args, self.keeper.best
        judged = checkpoint.BEST if (self.folder / checkpoint.BEST).exists() else checkpoint.LAST
        unit = '' if args.eval_metric == 'loss' else ' %'
        files = sorted(path.name for path in self.folder.iterdir() if not path.name.startswith('.'))
        parameters = sum(p.numel() for p in self.model.parameters())
        rows = [
            ('model', self._name() + (f' {args.model_kwargs}' if args.model_kwargs else '')),
            ('parameters', report.parameters(parameters)),
            ('data', f'{args.dataset or args.data_dir}: {self.images[0]} images to train on, {self.images[1]} to '
                     f'validate, at {" x ".join(map(str, self.config["input_size"][1:]))}'),
            ('epochs', f'{self.stop}' + (f' (this time {self.stop - self.start})' if self.start else '')),
            ('time', report.duration(self.spent)),
            (f'best {args.eval_metric}', f'{best[1]:.2f}{unit} (epoch {best[0] + 1})' if best else '-'),
            ('folder', str(self.folder)),
            ('files', ', '.join(files)),
        ]
        print(text_tables.table(rows))
        print('validate it:\n  ' + report.command('validate', '--checkpoint', str(self.folder / judged)), flush=True)
