_base_ = ['retinanet.py', 'coco_ms.py', 'schedule_3x.py', 'runtime.py']
