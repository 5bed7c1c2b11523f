_base_ = ['retinanet.py', 'coco.py', 'schedule_1x.py', 'runtime.py']
