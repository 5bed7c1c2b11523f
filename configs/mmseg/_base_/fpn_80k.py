_base_ = ['fpn.py', 'ade20k.py', 'schedule_80k.py', 'runtime.py']
default_hooks = dict(checkpoint=dict(interval=8000))
