_base_ = ['upernet.py', 'ade20k.py', 'schedule_160k.py', 'runtime.py']
