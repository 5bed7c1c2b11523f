_base_ = ['mask_rcnn.py', 'coco_instance.py', 'schedule_1x.py', 'runtime.py']
