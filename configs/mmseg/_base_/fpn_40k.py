_base_ = ['fpn.py', 'ade20k.py', 'schedule_40k.py', 'runtime.py']
default_hooks = dict(checkpoint=dict(interval=4000))
