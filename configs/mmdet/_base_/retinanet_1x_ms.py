_base_ = ['retinanet.py', 'coco_ms.py', 'schedule_1x.py', 'runtime.py']
